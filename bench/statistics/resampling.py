"""One set of resamples for every method: what makes comparisons paired.

Images of one prompt are not independent (intraclass correlation 0.3 to 0.7 in published per-image data), so prompts are
resampled with all their images. From eight concepts on, concepts are resampled with all their prompts: the claim is then
about concepts like these; with fewer it is about these concepts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy

from vestige.bench.contract.types import derived_seed

RESAMPLES = 2000
LEVEL = 0.95
FEW_CONCEPTS = 8  # below it concepts are a given, not a sample


@dataclass
class Bootstrap:
    """Weights of resampled units, each row summing to one; equal questions get equal weights, whichever method answers.

    nested=True resamples prompts inside resampled concepts too. The spread between concept means already holds the noise of
    their prompts, so that counts it twice and the interval gets too wide (a test shows it); off by default.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    nested: bool = False
    _weights: dict = field(default_factory=dict, repr=False)

    def weights(self, unit: str, n: int) -> np.ndarray:
        """(resamples, n) for the n prompts (or concepts) that `unit` names."""
        if (unit, n) not in self._weights:
            draw = np.random.default_rng(derived_seed(self.seed, unit, n)).multinomial(n, np.full(n, 1 / n), self.resamples)
            self._weights[unit, n] = (draw / n).astype(np.float32)  # noise of 1e-7 against intervals of 1e-2, at half the cost
        return self._weights[unit, n]

    def normals(self, unit: str, n: int) -> np.ndarray:
        """(resamples, n) standard normal draws for the n members of `unit`, the same whichever method asks."""
        return self._drawn("normal", unit, n, lambda rng: rng.standard_normal((self.resamples, n)))

    def students(self, unit: str, freedom: float) -> np.ndarray:
        """(resamples,) factors that turn normal draws into Student's t of so many degrees of freedom."""
        return self._drawn("student", unit, freedom, lambda rng: np.sqrt(freedom / rng.chisquare(freedom, self.resamples)))

    def _drawn(self, kind: str, unit: str, n: float, draw: Callable) -> np.ndarray:
        key = kind, unit, n
        if key not in self._weights:
            self._weights[key] = draw(np.random.default_rng(derived_seed(self.seed, *key)))
        return self._weights[key]

    def prompts(self, unit: str, means: np.ndarray) -> np.ndarray:
        """Resampled means over prompts, (resamples,) or (resamples, methods) for means (prompts,) or (prompts, methods)."""
        return self.weights(unit, len(means)) @ means.astype(np.float32)

    def keeps_prompts(self, concepts: int) -> bool:
        """Whether concepts are what is resampled, each with all its prompts."""
        return concepts >= FEW_CONCEPTS and not self.nested

    def over_concepts(self, draws: np.ndarray) -> np.ndarray:
        """Draws (concepts, resamples) to one mean over concepts per resample, (resamples,)."""
        n = len(draws)
        if n < FEW_CONCEPTS:
            return draws.mean(0)
        return (self.weights("concepts", n) * draws.T).sum(1)


def interval(draws: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of draws (resamples, ...) over n resampled units, by expanded percentiles.

    Percentiles of means are too narrow by about sqrt((n - 1) / n) z / t for few units: the tails are widened to Student's
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3).
    """
    tail = scipy.stats.norm.cdf(-np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1)) if n > 1 else (1 - LEVEL) / 2
    ranked = np.sort(draws, axis=0) if draws.ndim == 1 else np.sort(np.ascontiguousarray(np.moveaxis(draws, 0, -1)), axis=-1)
    return quantile(ranked, tail), quantile(ranked, 1 - tail)


def quantile(ranked: np.ndarray, q: float) -> np.ndarray:
    """As numpy's (linear), of what is sorted along the last axis already: one sort serves both tails, at half numpy's time."""
    place = q * (ranked.shape[-1] - 1)
    below, share = int(place), place - int(place)
    above = min(below + 1, ranked.shape[-1] - 1)
    value = (1 - share) * ranked[..., below] + share * ranked[..., above]
    return np.where(np.isnan(ranked[..., -1]), np.nan, value)  # NaN is sorted last


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean per group, groups in sorted order; images without a judgement (NaN) do not count."""
    _, place = np.unique(groups, return_inverse=True)
    judged = ~np.isnan(values)
    count = np.bincount(place, judged)
    return (np.bincount(place, np.where(judged, values, 0.0)) / np.where(count == 0, np.nan, count))[count > 0]
