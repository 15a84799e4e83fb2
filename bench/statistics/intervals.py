"""Intervals of one measured number and of a paired difference."""

import math
from functools import cache

import numpy as np
import scipy
from numpy.typing import ArrayLike

from vestige.bench.statistics.resampling import LEVEL, group_means

SYMMETRIC = 1e-6  # skewness that counts as none


@cache
def student(freedom: float) -> float:
    """Student's t that LEVEL of draws stay within, on both sides."""
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))


def cluster_interval(values: np.ndarray, groups: np.ndarray, rate: bool = True) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of group means. values (n,), groups (n,) cluster labels; NaN (not judged) is left out.

    One group has no spread to learn from: (None, None). rate: values are yes (1) or no (0), and the interval is that of
    `rate_interval`; of a measure (a distance, a score) equal values have an interval of no width.
    """
    values, groups = np.asarray(values, float), np.asarray(groups)
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none.")
    means = group_means(values, groups)
    if len(means) < 2:
        return None, None
    low, high = rate_interval(means) if rate and yes_or_no(values) else measure_interval(means)
    return float(low), float(high)


def yes_or_no(*values: np.ndarray) -> bool:
    """Whether all that was judged is 1 or 0: what tells answers from measures."""
    return all(((v == 0) | (v == 1) | np.isnan(v)).all() for v in map(np.asarray, values))


def rate_interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a rate from the shares of yes of each prompt (prompts, ...), along the first axis.

    Two prompts of yes and two of no are added, and the interval is mean +- t standard errors (Agresti & Coull 1998, Am. Stat. 52, of
    single answers). A share of yes varies between prompts as much as their images go together, so that needs no model. Where all
    answers are the same the rule of three (3 / prompts) bounds the unseen side.
    """
    n, added = len(means), 2.0
    total = n + 2 * added
    centre = (means.sum(0) + added) / total
    squares = ((means - centre) ** 2).sum(0) + added * (centre**2 + (1 - centre) ** 2)
    half = student(4 * n) * np.sqrt(squares) / total  # 2.04 for 8 prompts; chosen by benchmarks/coverage.py
    low, high = _rule_of_three(means, np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1), (0, 1))
    return np.minimum(low, means.mean(0)), np.maximum(high, means.mean(0))


def measure_interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean of prompts' means (prompts, ...) of a measure, along the first axis; within the range of the prompts.

    Student's t after Hall's transformation (1992, J. R. Stat. Soc. B 54), which takes the skewness of distances out of the mean.
    """
    n, mean = len(means), np.clip(means.mean(0), means.min(0), means.max(0))  # but for rounding it is there
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    sd = means.std(0, ddof=1)
    cubed = ((means - mean) ** 3).mean(0) / np.where(sd > 0, means.std(0), 1.0) ** 3
    skew = np.where(np.abs(cubed) < SYMMETRIC, SYMMETRIC, cubed)
    reach = student(n - 1) / np.sqrt(n)
    low, high = (mean - sd * 3 / skew * (np.cbrt(1 + skew * (side - skew / (6 * n))) - 1) for side in (reach, -reach))
    return np.clip(low, means.min(0), mean), np.clip(high, mean, means.max(0))


def _rule_of_three(means: np.ndarray, low: np.ndarray, high: np.ndarray, ends: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Equal answers everywhere: what is not seen in n prompts is no more than 3 / n of them."""
    slack = min(1.0, 3 / len(means))
    for end in ends:
        everywhere = (means == end).all(0)
        low = np.where(everywhere, max(ends[0], end - slack), low)
        high = np.where(everywhere, min(ends[-1], end + slack), high)
    return low, high


def balanced_interval(values: ArrayLike, groups: ArrayLike, kinds: ArrayLike) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of (rate of the one kind + rate of the other) / 2, kinds bool (n,); no group has images of both.

    Square-and-add of the two intervals (Newcombe 1998, Stat. Med. 17, method 10).
    """
    values, groups, kinds = np.asarray(values, float), np.asarray(groups), np.asarray(kinds, bool)
    below, above, centre = 0.0, 0.0, 0.0
    for kind in (kinds, ~kinds):
        rate, (low, high) = group_means(values[kind], groups[kind]).mean(), cluster_interval(values[kind], groups[kind])
        if low is None:
            return None, None
        below, above, centre = below + (rate - low) ** 2, above + (high - rate) ** 2, centre + rate
    return float((centre - math.sqrt(below)) / 2), float((centre + math.sqrt(above)) / 2)


def paired_difference(a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of a - b, both measured on the same images (row and repetition).

    Equal measures give (0, 0, 0). Equal answers give 0 and an interval: in n prompts without an image that tells two models apart,
    3 / n of the prompts may yet.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    means = group_means(a - b, np.asarray(groups))
    low, high = paired_intervals(means[:, None], rate=yes_or_no(a, b), repeats=(~np.isnan(a - b)).sum() / len(means))
    return float(means.mean()), float(low[0]), float(high[0])


def paired_intervals(means: np.ndarray, rate: bool = True, repeats: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (methods,), of the mean over prompts of paired differences (prompts, methods).

    rate: differences of answers, 1 or 0; `repeats`: images per prompt. A prompt that only one method answers and one that only the
    other does are added, with the weight of 0.4 images each, before the t interval of the prompts' means (after Bonett & Price
    2012, Stat. Methods Med. Res. 21, who add a pair of single answers). Without an image that tells two methods apart the interval is
    0 -+ 3 / prompts. Measures (distances, scores) have that of `measure_interval`. NaN for measures of a single prompt.
    """
    if not rate:
        return measure_interval(means)
    if np.abs(means).max(initial=0) > 1 + 1e-9:
        raise ValueError("differences of rates lie within -1 and 1; these are differences of a measure, which need rate=False.")
    n, added = len(means), 0.4 / repeats
    total = n + 2 * added
    centre = means.sum(0) / total
    squares = ((means - centre) ** 2).sum(0) + added * ((1 - centre) ** 2 + (1 + centre) ** 2)
    half = student(2 * n) * np.sqrt(squares) / total
    return _rule_of_three(means, np.clip(centre - half, -1, 1), np.clip(centre + half, -1, 1), (-1, 0, 1))


def seed_spread(means: np.ndarray) -> float:
    """What turns deviations of seeds' means from theirs into the standard error that seeds add to the mean over seeds and prompts.

    means (seeds, prompts) of two crossed random factors: a seed's mean varies by seed and by which of the prompts it happened to
    fail, and the spread between prompts holds the latter already. So the variance of the interaction is taken off (two-way
    analysis of variance; Owen 2007, Ann. Appl. Stat. 1, on crossed effects).
    """
    seeds, n = means.shape
    rates = means.mean(1, keepdims=True)
    among = ((rates - means.mean()) ** 2).sum() / (seeds - 1)
    if among == 0 or n < 2:
        return 0.0 if among == 0 else 1 / math.sqrt(seeds * (seeds - 1))
    interaction = ((means - rates - means.mean(0) + means.mean()) ** 2).sum() / ((seeds - 1) * (n - 1))
    return math.sqrt(max(0.0, 1 - interaction / n / among) / (seeds * (seeds - 1)))


def seeds_interval(means: np.ndarray, rate: bool = True, difference: bool = False, repeats: float = 1.0) -> tuple[float, float, float]:
    """(value, low, high) of the mean over erasure seeds and prompts, means (seeds, prompts): the same prompts, from the same noise.

    Prompts' interval and seeds' (Student's t of so few) are squared and added. difference: means are paired differences. Prompts
    that some seed has no judged image of (NaN) are left out; fewer than two prompts have no interval (NaN). With one seed the
    interval is about this erased model, and says nothing about another run of the method.
    """
    means = np.atleast_2d(np.asarray(means, float))
    means = means[:, ~np.isnan(means).any(0)]
    if means.shape[1] < 2:
        return float(means.mean()) if means.size else math.nan, math.nan, math.nan
    each = means.mean(0)
    low, high = paired_intervals(each, rate=rate, repeats=repeats) if difference else (rate_interval if rate else measure_interval)(each)
    value, seeds = float(each.mean()), len(means)
    if seeds == 1:
        return value, float(low), float(high)
    error = seed_spread(means) * math.sqrt(((means.mean(1) - value) ** 2).sum())
    reach = student(seeds - 1) * error
    lowest, highest = value - math.hypot(value - low, reach), value + math.hypot(high - value, reach)
    ends = ((-1, 1) if difference else (0, 1)) if rate else (-math.inf, math.inf)
    return value, float(max(lowest, ends[0])), float(min(highest, ends[1]))
