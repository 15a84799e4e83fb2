"""Intervals that respect that pictures of one prompt are not independent: prompts are resampled, never pictures.

Reference: the hierarchical bootstrap; evidence for it is the intraclass correlation of 0.3 to 0.7 within prompts seen in
published per-image data.
"""

import math

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def cluster_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """Percentile bootstrap interval of the mean of group means. values (n,), groups (n,) cluster labels.

    One group has no spread to learn from: (None, None). All zeros or all ones among 0/1 values with one picture per group
    would give a zero-width interval; there the rule of three (3/n) bounds the unseen side.
    """
    values = np.asarray(values, float)
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none.")
    means = _group_means(values, np.asarray(groups))
    if len(means) < 2:
        return None, None
    if set(np.unique(values)) <= {0.0, 1.0} and len(set(means)) == 1 and means[0] in (0.0, 1.0):
        slack = min(1.0, 3 / len(means))
        return (0.0, slack) if means[0] == 0 else (1 - slack, 1.0)
    draws = _resample(len(means), resamples, seed) @ means
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of a - b, both measured on the same pictures (row and repetition): one set of resamples for both."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    means = _group_means(difference, np.asarray(groups))
    draws = _resample(len(means), resamples, seed) @ means
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(means.mean()), float(low), float(high)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate, for one picture per prompt."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= successes <= n and n > 0, got {successes} of {n}.")
    z, p = 1.959963984540054, successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def _group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, place = np.unique(groups, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def _resample(groups: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, groups) weights, each row a draw with replacement, summing to one."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), resamples) / groups
