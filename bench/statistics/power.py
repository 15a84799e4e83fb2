"""How many prompts does a claim need? For paired differences between two methods, and for rates."""

from __future__ import annotations

import math

import numpy as np
import scipy

from vestige.bench.statistics.resampling import LEVEL


def power_of(prompts: int, difference: float, sd: float, icc: float = 0.0, repeats: int = 1) -> float:
    """Chance that a two-sided paired test at 5 % finds `difference`, with `repeats` images per prompt.

    sd: of the paired difference of single images; icc: its correlation within a prompt. The variance of a prompt's mean is
    sd^2 (1 + (repeats - 1) icc) / repeats; the test statistic is noncentral t.
    """
    _check(difference, sd, icc, repeats)
    if prompts < 2:
        return 0.0
    spread = sd * math.sqrt((1 + (repeats - 1) * icc) / repeats)
    shift, edge = difference / spread * math.sqrt(prompts), scipy.stats.t.ppf((1 + LEVEL) / 2, prompts - 1)
    found = scipy.stats.nct.sf(edge, prompts - 1, abs(shift))
    return float(found) if not math.isnan(found) else float(scipy.stats.norm.sf(edge - abs(shift)))


def prompts_needed(difference: float, sd: float, icc: float = 0.0, repeats: int = 1, power: float = 0.8) -> int:
    """The smallest number of prompts with at least `power`: about (z + z')^2 sd^2 / difference^2 (7.85 for 80 %)."""
    _check(difference, sd, icc, repeats)
    if not 0 < power < 1:
        raise ValueError(f"power={power} must lie between 0 and 1, for example 0.8.")
    low, high = 1, 2
    while power_of(high, difference, sd, icc, repeats) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power_of(middle, difference, sd, icc, repeats) < power else (low, middle)
    return high


def prompts_for_rate(rate: float, within: float) -> int:
    """Prompts with one image each for a 95 % interval of a rate no wider than +- within: z^2 p (1 - p) / within^2."""
    if not (0 < rate < 1 and 0 < within < 1):
        raise ValueError(f"a rate ({rate}) and its half-width ({within}) must lie between 0 and 1, for example 0.2 and 0.05.")
    return math.ceil(scipy.stats.norm.ppf((1 + LEVEL) / 2) ** 2 * rate * (1 - rate) / within**2)


def half_width(rate: float, prompts: int) -> float:
    """Half the width of the 95 % interval of a rate from so many prompts."""
    return float(scipy.stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt(rate * (1 - rate) / prompts))


def smallest_difference(prompts: int, sd: float, icc: float = 0.0, repeats: int = 1, power: float = 0.8) -> float:
    """The difference that so many prompts find with the wanted power."""
    return float(scipy.optimize.brentq(lambda d: power_of(prompts, d, sd, icc, repeats) - power, 1e-9 * sd, 100 * sd))


def components(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """(variance between groups, within groups) by one-way analysis of variance; NaN within when no group has two values.

    values: per image (or paired differences); groups: prompts, or erasure seeds for the share that training noise has.
    """
    values = np.asarray(values, float)
    _, place = np.unique(groups, return_inverse=True)
    count = np.bincount(place)
    means = np.bincount(place, values) / count
    if len(count) < 2:
        raise ValueError("variance components need at least two groups.")
    if count.max() == 1:
        return float(means.var(ddof=1)), float("nan")
    within = float(((values - means[place]) ** 2).sum() / (len(values) - len(count)))
    size = (len(values) - (count**2).sum() / len(values)) / (len(count) - 1)
    between = float((count * (means - values.mean()) ** 2).sum() / (len(count) - 1))
    return max(0.0, (between - within) / size), within


def sd_and_icc(differences: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """(sd of single paired differences, their correlation within a prompt); the correlation is 0 with one image per prompt."""
    between, within = components(differences, groups)
    if math.isnan(within):
        return math.sqrt(between), 0.0
    return math.sqrt(between + within), between / (between + within) if between + within else 0.0


def _check(difference: float, sd: float, icc: float, repeats: int) -> None:
    if difference == 0 or sd <= 0 or not 0 <= icc <= 1 or repeats < 1:
        raise ValueError(
            f"difference={difference}, sd={sd}, icc={icc}, repeats={repeats}: the difference must not be 0, sd must be above 0, "
            "icc between 0 and 1, and repeats (images per prompt) at least 1."
        )
