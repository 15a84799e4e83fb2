"""Is a paired difference more than chance? Sign flips, and Holm's correction for several comparisons."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FLIPS = 10_000


@lru_cache(maxsize=8)
def signs(n: int, seed: int = 0, flips: int = FLIPS) -> np.ndarray:
    """(flips, n) of -1 and 1; all 2^n of them when they are no more than `flips`."""
    if 2**n <= flips:
        return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    return np.random.default_rng(seed).integers(0, 2, (flips, n)) * 2.0 - 1.0


def sign_flip(differences: np.ndarray, seed: int = 0, flips: int = FLIPS) -> float:
    """Two-sided p of a zero mean, for one paired difference per prompt (or concept), (n,).

    Under the null each difference could as well have had the other sign. Random flips count the observed one too.
    """
    differences = np.asarray(differences, float)
    return p_value(signs(len(differences), seed, flips) @ differences, float(differences.sum()), 2 ** len(differences) <= flips)


def p_value(null: np.ndarray, observed: float, exact: bool) -> float:
    """Share of null draws at least as far from zero as the observed value."""
    as_far = int((np.abs(null) >= abs(observed) - 1e-9 * max(1.0, abs(observed))).sum())
    return as_far / len(null) if exact else (1 + as_far) / (1 + len(null))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p values; NaN (no test) stays NaN and does not count."""
    p = np.asarray(p, float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted
