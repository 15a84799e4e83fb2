"""Aggregate scores, computed from stored scores per image: per concept first, then averaged. Nothing is run again.

A part is a mean over prompts of one stored column (or a rule on several) on some splits; a composite is a formula of parts.
Uncertainty comes from resampling prompts, shared by all methods, through the formula. Shares are fractions, not percent.
Those of papers stand in bench/reports/composite_catalogue.py; the headline score is none of them (bench/reports/headlines.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EVERY = "every attack"  # mean over the attacks that apply to every method


def _as_stored(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Part:
    """Which images, which stored columns ("metric.column"), and the published rule that makes a score of them.

    unjudged: what an image without a judgement (no face, no label named) does to the denominator: out leaves it out, miss
    counts it as 0. whole_set: the column is one number per set (FID, CMMD), so it has no resamples. either: an image counts that
    shows it without the attack or under it.
    """

    splits: tuple[str, ...]
    columns: tuple[str, ...] = ("presence.present",)
    attack: str = "none"
    rule: Callable[..., np.ndarray] = _as_stored
    unjudged: str = "out"
    whole_set: bool = False
    either: bool = False


@dataclass(frozen=True)
class Composite:
    """formula(parts, parts of the original model) -> value; both map part names to numbers or arrays of resamples."""

    name: str
    source: str
    parts: dict[str, Part]
    formula: Callable[[dict, dict], np.ndarray]
    higher_is_better: bool = True
    kinds: tuple[str, ...] = ()  # kinds of concept it is defined for
    protocols: tuple[str, ...] = ()  # protocols it is defined for, whatever the kind; with kinds empty too: always

    def defined_for(self, kind: str, protocol: str) -> bool:
        return not (self.kinds or self.protocols) or kind in self.kinds or protocol in self.protocols


def harmonic(*x: np.ndarray) -> np.ndarray:
    """m / sum(1 / x_i), 0 where any x_i <= 0, NaN where any is NaN."""
    all_x = np.stack(np.broadcast_arrays(*map(np.asarray, x))).astype(float)
    value = np.where((all_x > 0).all(0), len(all_x) / (1 / np.where(all_x > 0, all_x, 1.0)).sum(0), 0.0)
    return np.where(np.isnan(all_x).any(0), np.nan, value)


def only(name: str) -> Callable[[dict, dict], np.ndarray]:
    return lambda p, o: p[name]
