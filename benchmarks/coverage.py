"""How often 95 % intervals hold the truth, in simulations: `python -m benchmarks.coverage`.

Answers of a judge to prompts of unequal difficulty: each prompt has a rate of its own (beta distributed, so that two images of one
prompt go together with the wanted correlation), and methods find the same prompts and the same noise hard. The prompts and what
counts as one of them (`group`) are those of the shipped templates (bench/prompts). Every interval is that of bench/statistics.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats
from scipy.special import ndtr

from vestige.bench.contract.types import Concept, derived_seed
from vestige.bench.prompts import prompt_sets
from vestige.bench.statistics import headline
from vestige.bench.statistics.headline import Rates, headline_interval
from vestige.bench.statistics.intervals import measure_interval, paired_intervals, rate_interval, seeds_interval
from vestige.bench.statistics.resampling import Bootstrap

PROMPTS, REPEATS, CORRELATIONS = (8, 20, 40), (1, 2, 4), (0.0, 0.3, 0.6)
RATES = (0.05, 0.1, 0.3, 0.5, 0.8, 0.95)
PAIRS = ((0.5, 0.4), (0.3, 0.1), (0.1, 0.05), (0.95, 0.8), (0.95, 0.05), (0.6, 0.6))
ATTACKS = ((0.1, 0.1, 0.1), (0.3, 0.4, 0.2), (0.7, 0.5, 0.6))
DOG = Concept("dog", "dog", "object", "animal", ["puppy"], "animal", ["cat"], ["car"], ["a loyal pet that barks"])
SEED_SD = 0.1
SHARED = 0.8  # how much of what makes a prompt, or a noise, hard is the same for two methods
QUANTILES = np.linspace(-6, 6, 2401)  # of a normal, on which distributions of rates are tabulated
THINGS = {8: 8, 20: 12, 40: 16}  # kept things beside so many target prompts
# (rate of the method, the original, the oracle) of target, synonyms, leak; (method, original) of what should stay
SCORES = {
    "half erased": ((0.6, 0.9, 0.05), (0.7, 0.85, 0.05), (0.5, 0.7, 0.05), (0.8, 0.9)),
    "well erased": ((0.05, 0.95, 0.02), (0.1, 0.9, 0.02), (0.1, 0.6, 0.02), (0.85, 0.95)),
    "little kept": ((0.05, 0.95, 0.02), (0.1, 0.9, 0.02), (0.1, 0.6, 0.02), (0.2, 0.9)),
    "nothing erased (0)": ((0.9, 0.9, 0.05), (0.85, 0.85, 0.05), (0.6, 0.6, 0.05), (0.9, 0.9)),
    "like the oracle (1)": ((0.05, 0.95, 0.05), (0.05, 0.9, 0.05), (0.05, 0.6, 0.05), (0.9, 0.9)),
}


@dataclass(frozen=True)
class Cell:
    """One setting of a simulation."""

    what: str
    prompts: int
    repeats: int
    correlation: float
    case: str
    edge: bool = False  # the truth is 0 or 1
    seeds: int = 1


@dataclass(frozen=True)
class Asked:
    """Rows of a prompt set: the sentence of each, which decides what is drawn, and its group, which is what intervals rest on."""

    sentence: np.ndarray  # (rows,)
    group: np.ndarray  # (rows,)

    def means(self, answers: np.ndarray) -> np.ndarray:
        """(..., rows, repeats) -> (..., groups) means."""
        members = (np.arange(self.group.max() + 1) == self.group[:, None]).astype(float)
        return answers.mean(-1) @ (members / members.sum(0))


@cache
def shipped(rows: int) -> Asked:
    """The prompts of the split `target` for a dog, as a job of so many rows asks them."""
    table = prompt_sets.build("target", "target", rows, 1, [DOG], "emoji").table
    return Asked(*(np.unique(table[column], return_inverse=True)[1] for column in ("prompt", "group")))


def distinct(rows: int) -> Asked:
    """So many different prompts."""
    return Asked(np.arange(rows), np.arange(rows))


@cache
def prompt_rates(rate: float, correlation: float) -> np.ndarray:
    """Rates of prompts at QUANTILES."""
    if correlation == 0 or rate in (0, 1):
        return np.full(len(QUANTILES), float(rate))
    size = (1 - correlation) / correlation
    return stats.beta.ppf(stats.norm.cdf(QUANTILES), rate * size, (1 - rate) * size)


class Simulation:
    """Answers of several models to one prompt set."""

    def __init__(self, rng: np.random.Generator, trials: int, asked: Asked, repeats: int) -> None:
        self.rng, self.asked, self.trials, self.repeats = rng, asked, trials, repeats
        self.hard = rng.normal(size=(trials, asked.sentence.max() + 1))
        self.noise = rng.normal(size=(trials, len(asked.sentence), repeats))

    def _own(self, shared: np.ndarray) -> np.ndarray:
        return np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * self.rng.normal(size=shared.shape)

    def means(self, rate: float, correlation: float, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """(trials, groups) shares of yes of another model. shift (trials,): of the rate of every prompt, by the erasure's seed."""
        return self.asked.means(self.answers(rate, correlation, shift))

    def answers(self, rate: float, correlation: float, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """(trials, rows, repeats) of True and False."""
        rates = np.interp(self._own(self.hard), QUANTILES, prompt_rates(rate, correlation)) + np.reshape(shift, (-1, 1))
        return ndtr(self._own(self.noise)) < rates[:, self.asked.sentence, None]

    def distances(self, mean: float, correlation: float, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """(trials, groups) of a skewed measure: gamma of shape 4."""
        hard = np.sqrt(correlation) * self._own(self.hard)[:, self.asked.sentence, None] + np.sqrt(1 - correlation) * self._own(self.noise)
        skewed = np.interp(hard, QUANTILES, stats.gamma.ppf(stats.norm.cdf(QUANTILES), 4)) / 4
        return self.asked.means(mean * skewed + np.reshape(shift, (-1, 1, 1)))


def shifted(rate: float, correlation: float) -> float:
    """The mean rate over prompts and seeds whose shifts are cut off at 0 and 1."""
    weights = stats.norm.pdf(QUANTILES)
    weights = weights / weights.sum()
    return float(weights @ np.clip(prompt_rates(rate, correlation)[:, None] + SEED_SD * QUANTILES, 0, 1) @ weights)


def worst_rate(rates: tuple[float, ...], correlation: float) -> float:
    """The share of images that any attack brings back, by brute force."""
    one = Simulation(np.random.default_rng(0), 200, distinct(1000), 1)
    return float(np.any([one.answers(rate, correlation) for rate in rates], axis=0).mean())


def cells() -> Iterator[Cell]:
    """With one image per prompt the correlation plays no part."""
    for n in PROMPTS:
        for repeats in REPEATS:
            for correlation in CORRELATIONS if repeats > 1 else (0.0,):
                at = n, repeats, correlation
                yield from (Cell("rate", *at, str(rate)) for rate in RATES)
                yield from (Cell("difference of rates", *at, f"{a} - {b}") for a, b in PAIRS)
                yield from (Cell("worst case over three attacks", *at, str(k)) for k in range(len(ATTACKS)))
                yield Cell("distance", *at, "0.3")
                yield Cell("difference of distances", *at, "0.3 - 0.25")
                yield from (Cell("score", *at, case) for case in ("half erased", "little kept"))
                if correlation == 0.3 or repeats == 1:
                    yield from (Cell("score", *at, case, True) for case in SCORES if case.endswith(")") and repeats != 2)
                    yield Cell("score", *at, "well erased")
                if repeats != 2:
                    yield from (Cell("rate", *at, str(rate), True) for rate in (0.0, 1.0))
                    yield from (Cell("difference of rates", *at, case, True) for case in ("1.0 - 0.0", "0.0 - 0.0", "1.0 - 1.0"))
                if correlation == 0.3 or repeats == 1:
                    yield from (Cell("rate", *at, rate, seeds=3) for rate in ("0.1", "0.5", "0.8"))
                    yield from (Cell("difference of rates", *at, pair, seeds=3) for pair in ("0.5 - 0.4", "0.3 - 0.9"))
                    yield Cell("distance", *at, "0.3", seeds=3)
                    yield Cell("difference of distances", *at, "0.3 - 0.25", seeds=3)
                    yield Cell("score", *at, "half erased", seeds=3)


def coverage(cell: Cell, trials: int, asked: Callable[[int], Asked] = shipped) -> dict[str, float]:
    """Share of trials whose interval holds the truth, by what was measured."""
    rng = np.random.default_rng(derived_seed(*astuple(cell)))
    if cell.what == "score":
        return _score(cell, trials, asked, rng)
    one = Simulation(rng, trials, asked(cell.prompts), cell.repeats)
    shifts = SEED_SD * rng.normal(size=(cell.seeds, trials)) if cell.seeds > 1 else np.zeros((1, trials))
    rate, draw, corr = "dist" not in cell.what, one.distances if "dist" in cell.what else one.means, cell.correlation
    if "worst" in cell.what:
        rates = ATTACKS[int(cell.case)]
        means = one.asked.means(np.any([one.answers(r, corr) for r in rates], axis=0))[None]
        truth = worst_rate(rates, corr)
    else:
        first, *second = map(float, cell.case.split(" - "))
        means = np.stack([draw(first, corr, shift) for shift in shifts])
        truth = shifted(first, corr) if rate and cell.seeds > 1 else first
        if second:
            means, truth = means - draw(second[0], corr), truth - second[0]
    difference = cell.what.startswith("difference")
    if cell.seeds > 1:
        found = [seeds_interval(means[:, t], rate, difference, cell.repeats)[1:] for t in range(trials)]
        low, high = np.array(found).T
    elif difference:
        low, high = paired_intervals(means[0].T, rate, cell.repeats)
    else:
        low, high = (rate_interval if rate else measure_interval)(means[0].T)
    return {cell.what: _held(low, high, truth)}


def _held(low: np.ndarray | float, high: np.ndarray | float, truth: float) -> float:
    return float(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))


def _score(cell: Cell, trials: int, asked: Callable[[int], Asked], rng: np.random.Generator) -> dict[str, float]:
    *parts, (r, o) = SCORES[cell.case]
    corr, many, compared = cell.correlation, cell.seeds > 1, cell.seeds == 1 and cell.case == "half erased" and cell.correlation != 0.6
    shifts = SEED_SD * rng.normal(size=(cell.seeds, trials)) if many else np.zeros((1, trials))
    drawn = []
    for rates in parts:
        one = Simulation(rng, trials, asked(cell.prompts), cell.repeats)
        drawn.append((np.stack([one.means(rates[0], corr, s) for s in shifts], axis=1), *(one.means(rate, corr) for rate in rates[1:])))
    one = Simulation(rng, trials, distinct(THINGS[cell.prompts]), 2 * cell.repeats)
    stayed = np.stack([one.means(r, corr, -s) for s in shifts], axis=1), one.means(o, corr), one.means(0.97 * o, corr)
    told = [shifted(rates[0], corr) if many else rates[0] for rates in parts]
    e = np.mean([headline.erased(x, *rates[1:]) for x, rates in zip(told, parts, strict=True)])
    k = headline.kept(shifted(r, corr) if many else r, o)
    truth = {"erased": e, "kept": k, "score": headline.score(e, k)}
    gap = truth["score"] - headline.score(1.0, 0.97)
    hits = dict.fromkeys((*truth, "score, difference to the oracle"), 0.0)
    for t in range(trials):
        if t % 50 == 0:
            bootstrap = Bootstrap(500, t)
        mine = {str(k): Rates(m[t], o[t], z[t]) for k, (m, o, z) in enumerate(drawn)}
        found = headline_interval(mine, Rates(stayed[0][t], stayed[1][t]), bootstrap)
        for name, true in truth.items():
            _, low, high = getattr(found, name)
            hits[name] += _held(low, high, true)
        if compared:
            base = {str(k): Rates(z[t], o[t], z[t]) for k, (_, o, z) in enumerate(drawn)}
            oracle = headline_interval(base, Rates(stayed[2][t], stayed[1][t]), bootstrap, name="oracle")
            _, low, high = headline.difference(found, oracle)
            hits["score, difference to the oracle"] += _held(low, high, gap)
    if not compared:
        del hits["score, difference to the oracle"]
    return {name: count / trials for name, count in hits.items()}


def table(found: list[tuple[Cell, str, float]]) -> list[str]:
    """Per quantity: mean and least coverage over cells, truths inside and at 0 or 1 and three seeds apart."""
    lines = ["| what | cells | mean | least | in |", "|---|---|---|---|---|"]
    groups: dict[tuple[str, str], list[tuple[float, Cell]]] = {}
    for cell, what, share in found:
        kind = "three seeds" if cell.seeds > 1 else "truth 0 or 1" if cell.edge else ""
        groups.setdefault((kind, what), []).append((share, cell))
    for (kind, what), shares in sorted(groups.items()):
        least, cell = min(shares, key=lambda pair: pair[0])
        where = f"{cell.prompts} prompts x {cell.repeats}, correlation {cell.correlation}, {cell.case}"
        name = f"{what}, {kind}" if kind else what
        lines.append(f"| {name} | {len(shares)} | {100 * np.mean([s for s, _ in shares]):.1f} | {100 * least:.1f} | {where} |")
    return lines


def main(trials: int, only: str, out: Path | None) -> None:
    chosen = [cell for cell in cells() if only in cell.what]
    found = [(cell, *pair) for cell in chosen for pair in coverage(cell, trials).items()]
    lines = ["# How often 95 % intervals hold the truth", "", f"Percent of {trials} simulated data sets a cell.", "", *table(found)]
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--cells", dest="only", default="", help="a part of the name of what is measured, for example rate or score")
    parser.add_argument("--out", type=Path, help="also write the table there, for example results/bench/coverage.md")
    main(**vars(parser.parse_args()))
