"""Uncertainty that respects how images are drawn: concept -> prompt -> seed -> image. Prompts are resampled, never images.

intervals        intervals of a measured number and of a paired difference
score_intervals  the value of a stored column, and its interval
jackknife        intervals of numbers of a whole set, such as FID
resampling       one set of resamples for all methods
permutation      sign-flip tests, Holm's correction
ranks            ranks under resampling, groups, the Pareto front
headline         the headline score
agreement        agreement of two judges, and correction for known errors
power            how many prompts a claim needs
"""

from vestige.bench.statistics.intervals import cluster_interval, paired_difference

__all__ = ["cluster_interval", "paired_difference"]
