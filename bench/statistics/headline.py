"""The headline score of one method on one concept: how much was erased, how much was kept, and their harmonic mean, all in [0, 1].

    erased = mean over the parts (target, synonyms, leak) of clip((o - r) / (o - z), 0, 1)
    kept   = clip(r / o, 0, 1)
    score  = harmonic mean of erased and kept; 0 where either is 0, and for a collapsed model

r: the method's rate, o: the original model's, z: the oracle's (0 without one). Over-erasing below the oracle and drawing kept things
better than the original earn nothing. Attacks are no part of it. Pure functions of arrays: nothing is read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vestige.bench.statistics.intervals import seed_spread
from vestige.bench.statistics.resampling import FEW_CONCEPTS, LEVEL, Bootstrap, quantile

Rate = np.ndarray | float

SPAN = 0.2 - 1e-9  # least o - z that a part may rest on, but for rounding: below it there was nothing to erase
FEW_THINGS = 8  # below it the interval of kept rests on too few kept things to speak for others
PSEUDO = 0.25  # units that always show the thing, and as many that never do, added to what each model drew of each question


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rates:
    """Means per unit of one question, aligned: the same unit, asked from the same noise, of every model. All within [0, 1].

    method: (units,), or (seeds, units) for several erasures that differ in their seed alone. original, oracle: (units,).
    A unit is a distinct prompt; of what is kept it is a thing with all its prompts (the mean of their means). A unit that is NaN
    for one model is left out for all.
    """

    method: np.ndarray
    original: np.ndarray
    oracle: np.ndarray | None = None

    def shared(self) -> np.ndarray:
        """(units,) bool: answered by every model. ValueError: not aligned."""
        models = [np.atleast_2d(np.asarray(x, float)) for x in (self.method, self.original, self.oracle) if x is not None]
        if len({m.shape[1] for m in models}) > 1:
            sizes = [m.shape[1] for m in models]
            raise ValueError(f"method, original and oracle must answer the same units (prompts or things); got {sizes} of them.")
        return ~np.isnan(np.vstack(models)).any(0)

    def judged(self) -> Rates:
        """Only the units that every model answered; `method` as (seeds, units)."""
        whole = self.shared()
        method, original = np.atleast_2d(np.asarray(self.method, float)), np.asarray(self.original, float)
        return Rates(method[:, whole], original[whole], None if self.oracle is None else np.asarray(self.oracle, float)[whole])


@dataclass(frozen=True)
class Headline:
    """All estimates; NaN with `reason` where there is no score. The draws are paired between methods, (resamples,) each."""

    erased: Estimate
    kept: Estimate
    score: Estimate
    parts: dict[str, Estimate]  # what of each part was erased
    left_out: dict[str, str]  # part -> why it is no part of `erased`
    things: int  # that `kept` rests on; below FEW_THINGS its interval speaks for these things only
    units: int  # the smallest number of units of any part
    reason: str | None
    draws: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # of erased, kept and score
    bounds: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)  # the same for the lower and the upper end


def erased(r: Rate, o: Rate, z: Rate = 0.0) -> np.ndarray:
    """Share of what could be erased that was: clip((o - r) / (o - z), 0, 1); NaN where o - z < SPAN."""
    span = np.asarray(o, float) - z
    return np.where(span < SPAN, np.nan, np.clip((o - np.asarray(r, float)) / np.where(span < SPAN, 1.0, span), 0, 1))


def kept(r: Rate, o: Rate) -> np.ndarray:
    """Share of the original's rate that is left: clip(r / o, 0, 1); NaN where the original draws none of it."""
    o = np.asarray(o, float)
    return np.where(o > 0, np.clip(np.asarray(r, float) / np.where(o > 0, o, 1.0), 0, 1), np.nan)


def score(erased: Rate, kept: Rate) -> np.ndarray:
    """Harmonic mean, 0 where either is 0."""
    e, k = np.broadcast_arrays(np.asarray(erased, float), np.asarray(kept, float))
    total = np.where(e + k == 0, 1.0, e + k)
    return 2 * e * k / total


def headline_interval(
    parts: dict[str, Rates], things: Rates, bootstrap: Bootstrap, place: str = "", name: str = "method", collapsed: bool = False
) -> Headline:
    """Value and interval of erased, kept and score of the method called `name`, on one concept.

    parts: "target", "synonyms", "leak" (as many as were asked) with prompts as units; things: what should stay, with things as
    units; its oracle is not used. place: the concept, so that concepts have draws of their own. name: of the method, unique within
    a place, "original" and "oracle" for these two. One Bootstrap for all methods makes differences paired: models of one name
    share their draws, and all models share those of the prompts.

    Draws are of a multivariate t distribution around each model's rates with the covariance of the units' means, after a quarter of
    a unit with the thing and a quarter without it were added for each model (as Agresti & Min 2005, Stat. Med. 24, add halves to
    pairs of answers; how much was chosen by benchmarks/coverage.py): eight prompts of one answer have an unseen side too. Several
    seeds add their own spread, with Student's t of as many. With one seed the interval is about this erased model, and says nothing
    about another run of the method.
    """
    unjudged = [part for part, rates in {**parts, "what should stay": things}.items() if not rates.shared().any()]
    if unjudged:
        return Headline(NOTHING, NOTHING, NOTHING, {}, {}, 0, 0, f"no score: {unjudged[0]}: no prompt was judged for every model")
    drawn = {part: _Drawn(rates.judged(), bootstrap, place, part, name) for part, rates in parts.items()}
    left_out = {part: _nothing_to_erase(d) for part, d in drawn.items() if d.original.value - d.oracle.value < SPAN}
    shown = {part: d for part, d in drawn.items() if part not in left_out}
    stayed = _Drawn(things.judged(), bootstrap, place, "things", name)
    reason = None
    if not shown:
        reason = "no score: " + "; ".join(f"{part}: {why}" for part, why in left_out.items()) if left_out else "no score: nothing was asked"
    elif stayed.original.value == 0:
        reason = "no score: the original model draws nothing of what should stay"
    units = min((d.units for d in drawn.values()), default=0)
    if reason:
        return Headline(NOTHING, NOTHING, NOTHING, {}, left_out, stayed.units, units, reason)
    each = {part: _erased_draws(*d.draws()) for part, d in shown.items()}
    told = {part: float(erased(*d.values())) for part, d in shown.items()}
    of_erased = tuple(np.mean([draws[side] for draws in each.values()], axis=0) for side in range(3))
    of_kept = _clipped(stayed.method.draws / np.maximum(stayed.original.draws, SPAN / 4))
    value = {"erased": float(np.mean(list(told.values()))), "kept": float(kept(*stayed.values()[:2]))}
    value["score"] = 0.0 if collapsed else float(score(value["erased"], value["kept"]))
    of_score = tuple(score(np.maximum(e, 0), np.maximum(k, 0)) for e, k in zip(of_erased, of_kept, strict=True))
    if collapsed:
        of_score = tuple(np.zeros_like(draws) for draws in of_score)
    drawn_of = {"erased": of_erased, "kept": of_kept, "score": of_score}
    return Headline(
        **{what: estimate(value[what], *drawn_of[what][1:]) for what in drawn_of},
        parts={part: estimate(told[part], *each[part][1:]) for part in each},
        left_out=left_out,
        things=stayed.units,
        units=units,
        reason=None,
        draws={what: draws[0] for what, draws in drawn_of.items()},
        bounds={what: draws[1:] for what, draws in drawn_of.items()},
    )


def difference(a: Headline, b: Headline, what: str = "score") -> Estimate:
    """Paired difference a - b (`what`: score, erased or kept) of two methods on the same concept, or of their means over concepts.

    Never further than the two intervals reach: no difference leads above 100 %.
    """
    if a.reason or b.reason:
        return NOTHING
    (a_low, a_high), (b_low, b_high) = a.bounds[what], b.bounds[what]
    one, two = getattr(a, what), getattr(b, what)
    found = estimate(one.value - two.value, a_low - b_high, a_high - b_low, -1.0)
    return Estimate(found.value, max(found.low, one.low - two.high), min(found.high, one.high - two.low))


def over_concepts(each: list[Headline], bootstrap: Bootstrap) -> Headline:
    """The mean over concepts of each number. NaN, with that reason, where a concept has no score.

    Below eight concepts it is about these concepts; from eight on about concepts like these, and the spread between concepts,
    which holds that of their prompts, gives the interval.
    """
    lost = next((h.reason for h in each if h.reason), None if each else "no score: no concept")
    left_out = {part: why for h in each for part, why in h.left_out.items()}
    things, units = (min((getattr(h, what) for h in each), default=0) for what in ("things", "units"))
    if lost:
        return Headline(NOTHING, NOTHING, NOTHING, {}, left_out, things, units, lost)
    told, draws, bounds = {}, {}, {}
    for what in ("erased", "kept", "score"):
        values = np.array([getattr(h, what).value for h in each])
        if len(each) < FEW_CONCEPTS:
            draws[what] = np.mean([h.draws[what] for h in each], axis=0)
            bounds[what] = tuple(np.mean([h.bounds[what][side] for h in each], axis=0) for side in range(2))
        else:
            spread = bootstrap.normals("concepts", len(each)) @ (values - values.mean()) / np.sqrt(len(each) * (len(each) - 1))
            drawn = values.mean() + spread * bootstrap.students("concepts", len(each) - 1)
            draws[what], bounds[what] = np.clip(drawn, 0, 1), (drawn, drawn)
        told[what] = estimate(values.mean(), *bounds[what])
    return Headline(**told, parts={}, left_out=left_out, things=things, units=units, reason=None, draws=draws, bounds=bounds)


def estimate(value: float, lower: np.ndarray, upper: np.ndarray, least: float = 0.0) -> Estimate:
    """The value with a percentile of the draws for either end, within `least` and 1; an interval always holds its value."""
    tail = (1 - LEVEL) / 2
    low, high = float(quantile(np.sort(lower), tail)), float(quantile(np.sort(upper), 1 - tail))
    return Estimate(float(value), max(least, min(low, value)), min(1.0, max(high, value)))


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def _nothing_to_erase(part: _Drawn) -> str:
    o, z = part.original.value, part.oracle.value
    compared = f", the oracle {100 * z:.0f} %" if z else ""
    return f"nothing to erase, the original model shows the concept in {100 * o:.0f} % of images{compared}"


def _erased_draws(r: np.ndarray, o: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawn spans may be smaller than any that is measured: a quarter of SPAN is the least to divide by."""
    return _clipped((o - r) / np.maximum(o - z, SPAN / 4))


def _clipped(share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(clipped at 0 and 1, at 1 alone, at 0 alone).

    Draws that are clipped on both sides average to less than 1 where the truth is 1, and to more than 0 where it is 0, and their
    percentiles would leave such a truth out. So the lower end comes from draws that may fall below 0, the upper from those above 1.
    """
    return np.clip(share, 0, 1), np.minimum(share, 1), np.maximum(share, 0)


class _Model(NamedTuple):
    value: float
    draws: np.ndarray


class _Drawn:
    """Rates of the three models on one question: values as measured, and joint draws."""

    def __init__(self, rates: Rates, bootstrap: Bootstrap, place: str, part: str, name: str) -> None:
        self.units, self._bootstrap, self._place, self._part = len(rates.original), bootstrap, place, part
        self.method = self._model(rates.method, name)
        self.original = self._model(rates.original[None], "original")
        self.oracle = _Model(0.0, np.zeros(1)) if rates.oracle is None else self._model(rates.oracle[None], "oracle")

    def values(self) -> tuple[float, float, float]:
        return self.method.value, self.original.value, self.oracle.value

    def draws(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.method.draws, self.original.draws, self.oracle.draws

    def _model(self, means: np.ndarray, name: str) -> _Model:
        """means (seeds, units)."""
        n, b, unit = self.units, self._bootstrap, f"{self._place}/{self._part}"
        x, total = means.mean(0), n + 2 * PSEUDO
        centre = (x.sum() + PSEUDO) / total
        unseen = b.normals(f"{unit}/{name}", 2) @ np.array([-centre, 1 - centre]) * np.sqrt(PSEUDO)
        spread = (b.normals(unit, n) @ (x - centre) + unseen) / total * b.students(unit, 2 * n)
        if (seeds := len(means)) > 1:
            own = f"{self._place}/{name}/seeds"
            apart = b.normals(own, seeds) @ (means.mean(1) - means.mean())
            spread = spread + seed_spread(means) * apart * b.students(own, seeds - 1)
        return _Model(float(x.mean()), np.clip(centre + spread, 0, 1))
