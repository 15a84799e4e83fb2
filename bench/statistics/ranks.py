"""Who leads, and how certain is that? Ranks under resampling, groups without a significant difference, the Pareto set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from vestige.bench.statistics.resampling import interval


def rank_distribution(draws: np.ndarray, methods: list[str]) -> pd.DataFrame:
    """draws (resamples, methods), higher is better -> per method: median_rank, rank_low, rank_high (90 %), p_best.

    Ties share their ranks and the first place: two equal methods have p_best of a half each.
    """
    first = draws == draws.max(1, keepdims=True)
    ranks = scipy.stats.rankdata(-draws, axis=1)
    low, median, high = np.quantile(ranks, [0.05, 0.5, 0.95], axis=0)
    p_best = (first / first.sum(1, keepdims=True)).mean(0)
    return pd.DataFrame({"median_rank": median, "rank_low": low, "rank_high": high, "p_best": p_best}, index=methods)


def differs(draws: np.ndarray, n: int) -> np.ndarray:
    """(methods, methods) bool: the interval of the paired difference leaves out zero. draws (resamples, methods)."""
    k = draws.shape[1]
    one, two = np.triu_indices(k, 1)
    apart = np.zeros((k, k), bool)
    if len(one):
        low, high = interval(draws[:, one] - draws[:, two], n)
        apart[one, two] = apart[two, one] = (low > 0) | (high < 0)
    return apart


def letters(apart: np.ndarray) -> list[str]:
    """Compact letter display: two methods share a letter exactly when they cannot be told apart.

    Insert and absorb (Piepho 2004). apart (methods, methods), methods in order of rank, so that a marks the leaders.
    """
    groups = [set(range(len(apart)))]
    for i, j in np.argwhere(np.triu(apart, 1)):
        groups = [part for g in groups for part in ((g - {i}, g - {j}) if {i, j} <= g else (g,))]
        kept: list[set] = []
        for g in sorted(groups, key=len, reverse=True):
            if not any(g <= k for k in kept):
                kept.append(g)
        groups = kept
    groups.sort(key=lambda g: sorted(g))
    return ["".join(_letter(k) for k, g in enumerate(groups) if i in g) for i in range(len(apart))]


def _letter(k: int) -> str:
    return chr(ord("a") + k) if k < 26 else f"({k + 1})"


def pareto(points: np.ndarray) -> np.ndarray:
    """(methods,) bool: no other method is at least as good on every axis and better on one. points (..., methods, axes), NaN never is."""
    at_least, better = np.bool_(True), np.bool_(False)
    for axis in np.moveaxis(points, -1, 0):
        other, own = axis[..., None, :], axis[..., :, None]
        at_least, better = at_least & (other >= own), better | (other > own)
    return ~(at_least & better).any(-1) & ~np.isnan(points).any(-1)


def ellipse(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, float, float, float]:
    """(centre, width, height, angle in degrees) of the normal region of draws (resamples, 2) that holds `level` of them."""
    covariance = np.cov(draws.T)
    values, vectors = np.linalg.eigh(covariance)
    radius = np.sqrt(-2 * np.log(1 - level))  # chi-squared with two degrees of freedom
    width, height = 2 * radius * np.sqrt(np.maximum(values[::-1], 0))
    return draws.mean(0), float(width), float(height), float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
