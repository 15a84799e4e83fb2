"""Uncertainty that respects how pictures come about: concept -> prompt -> seed -> picture. Prompts are resampled, never pictures."""

from vestige.bench.statistics.intervals import cluster_interval, paired_difference

__all__ = ["cluster_interval", "paired_difference"]
