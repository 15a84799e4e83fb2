"""Uncertainty that respects how images come about: concept -> prompt -> seed -> image. Prompts are resampled, never images."""

from vestige.bench.statistics.intervals import cluster_interval, paired_difference

__all__ = ["cluster_interval", "paired_difference"]
