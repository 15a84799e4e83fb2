"""Aggregate scores from stored scores: values with intervals per concept and over concepts, draws for ranks, tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from vestige.bench.contract.types import derived_seed
from vestige.bench.reports.composite_catalogue import CATALOGUE
from vestige.bench.reports.composites import EVERY, Composite, Part
from vestige.bench.reports.results import on_its_own, order
from vestige.bench.reports.roles import roles_of
from vestige.bench.reports.score_table import WORST, Asked, ScoreTable
from vestige.bench.statistics.permutation import FLIPS, p_value, sign_flip
from vestige.bench.statistics.resampling import FEW_CONCEPTS, Bootstrap, interval

Means = dict[str, list[tuple[str, np.ndarray]]]  # part -> [(unit, mean per prompt)]


UNDEFINED = "undefined for these parts (a set distance to the original's own images has no scale: set its reference=real)"


class Missing(Exception):
    """A part that was not measured; the sentence is its reason."""


class _Unmeasured(dict):
    """The parts of an original model that was not run: a formula that asks for one has no value, one that does not is unharmed."""

    def __missing__(self, part: str):
        raise Missing("the original model was not run on these prompts")


@dataclass
class AggregateScores:
    """All composites on the cells of one model, sampler and protocol. frame: from results.load with the same images.

    Each split of a concept has one judge: of several, that of most cells. Kinds of concepts may have judges of their own.
    """

    frame: pd.DataFrame
    score_table: ScoreTable
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        frame = self.frame[self.frame["metric"].notna() & on_its_own(self.frame)]
        judged = frame[frame["judge"].notna()]
        shown = judged.assign(shown=judged["metric"] == "presence").groupby(["concept", "split"])[["judge", "shown"]]
        first = shown.apply(_first_judge) if len(judged) else {}
        if len(judged):
            chosen = [first.get(key) for key in zip(frame["concept"], frame["split"], strict=True)]
            frame = frame[frame["judge"].isna() | (frame["judge"] == pd.Series(chosen, index=frame.index, dtype=object))]
        self.judges = {key: judge for key, judge in dict(first).items() if isinstance(judge, str)}  # (concept, split) -> judge
        self.roles = roles_of(frame)
        self.concepts = sorted(self.frame["concept"].unique())
        self.kinds = self.frame.groupby("concept")["kind"].first().to_dict()
        self.methods = order(self.frame["method"].tolist())
        self.protocol = next(iter(self.frame["protocol_name"]), "") if "protocol_name" in self.frame else ""
        self.cells: dict[tuple, dict[tuple, dict[str, list]]] = {}
        for c in frame[["method", "concept", "split", "attack", "metric", "column", "score", "images", "value"]].itertuples(index=False):
            here = self.cells.setdefault((c.method, c.concept), {}).setdefault((c.split, c.attack), {})
            # cosine_* finds cosine_clip_emoji: composites do not depend on the network, only their values do
            for name in {f"{c.metric}.{c.column}", f"{c.metric}.*", f"{c.metric}.{c.column.partition('_')[0]}_*"}:
                here.setdefault(name, []).append(c)
        self._means: dict[tuple, Means | Missing] = {}
        self._bases: dict[tuple, dict] = {}
        self._values: dict[tuple, np.ndarray] = {}
        self._part_means: dict[tuple, list] = {}
        self._known_splits: dict[str, set[str]] = {}
        self._asked: dict[str, list[set[tuple[str, str]]]] = {}  # concept -> (split, attack) of each method
        for (_, concept), cells in self.cells.items():
            self._asked.setdefault(concept, []).append(set(cells))
        self._flips: dict[tuple, np.ndarray] = {}

    def table(self, composites: list[Composite] = CATALOGUE) -> pd.DataFrame:
        """One row per composite, method and concept, and one per composite and method over all concepts it is defined for.

        Columns: composite, method, concept ("all" for the mean), concepts, value, ci_low, ci_high, higher_is_better, reason.
        """
        rows = []
        for composite in composites:
            defined = self.defined(composite)
            asked = [(concept, [concept]) for concept in defined] + ([("all", defined)] if len(self.concepts) > 1 and defined else [])
            for label, concepts in asked:
                head = {"composite": composite.name, "concept": label, "concepts": len(concepts)}
                head |= {"higher_is_better": composite.higher_is_better}
                rows += [head | {"method": method} | self._measured(composite, method, concepts) for method in self.methods]
        return pd.DataFrame(rows)

    def _measured(self, composite: Composite, method: str, concepts: list[str]) -> dict:
        try:
            low, high = interval(self.draws(composite, method, concepts), self.units(composite, concepts))
            value = self.point(composite, method, concepts)
        except Missing as why:
            return {"value": np.nan, "ci_low": np.nan, "ci_high": np.nan, "reason": str(why)}
        reason = UNDEFINED if np.isnan(value) else None
        return {"value": value, "ci_low": float(low), "ci_high": float(high), "reason": reason}

    def defined(self, composite: Composite) -> list[str]:
        """The concepts the composite is defined for."""
        return [c for c in self.concepts if composite.defined_for(self.kinds[c], self.protocol)]

    def point(self, composite: Composite, method: str, concepts: list[str]) -> float:
        """Mean over concepts of the formula of means. Raises Missing."""
        return float(np.mean([self._value(composite, method, c, _mean) for c in concepts]))

    def draws(self, composite: Composite, method: str, concepts: list[str]) -> np.ndarray:
        """(resamples,): the same under shared resamples; equal methods get equal draws. Raises Missing."""
        n = len(concepts)
        average = _mean if self.bootstrap.keeps_prompts(n) else self._resampled
        each = [self._value(composite, method, c, average) for c in concepts]
        return self.bootstrap.over_concepts(np.stack([np.broadcast_to(e, self.bootstrap.resamples) for e in each]))

    def units(self, composite: Composite, concepts: list[str]) -> int:
        """How many resampled units the interval rests on: concepts, or the prompts of the smallest split times concepts."""
        if len(concepts) >= FEW_CONCEPTS:
            return len(concepts)
        means = [m for c in concepts for part in self._known(composite, c).values() for _, m in part if len(m) > 1]
        judged = (np.count_nonzero(~np.isnan(m)) for m in means)
        return len(concepts) * max(2, int(min(judged, default=2)))

    def _known(self, composite: Composite, concept: str) -> Means:
        for method in self.methods:
            found = self._parts(composite, method, concept)
            if not isinstance(found, Missing):
                return found
        raise Missing("no method has all parts")

    def p_difference(self, composite: Composite, a: str, b: str, concepts: list[str]) -> float:
        """Two-sided permutation p of no difference: prompts (from eight concepts on: concepts) swap the two methods' answers."""
        if len(concepts) >= FEW_CONCEPTS:
            return sign_flip(np.array([self.point(composite, a, [c]) - self.point(composite, b, [c]) for c in concepts]))
        null = 0.0
        for concept in concepts:
            one, two = self._have(composite, a, concept), self._have(composite, b, concept)
            half = {
                part: [(f"{concept}/{u}", (x + y) / 2, (x - y) / 2) for (u, x), (_, y) in zip(one[part], two[part], strict=True)]
                for part in one
            }
            base = self._base(composite, concept, _mean)
            sides = [
                {part: np.mean([self._swapped(*u, side) for u in units], axis=0) for part, units in half.items()} for side in (1.0, -1.0)
            ]
            null = null + composite.formula(sides[0], base) - composite.formula(sides[1], base)
        observed = self.point(composite, a, concepts) - self.point(composite, b, concepts)
        return p_value(np.atleast_1d(null) / len(concepts), observed, exact=False)

    def _swapped(self, unit: str, middle: np.ndarray, half: np.ndarray, side: float) -> np.ndarray:
        judged = ~np.isnan(half)
        return np.nanmean(middle) + side * self.flips(unit, len(half))[:, judged] @ half[judged] / max(1, judged.sum())

    def flips(self, unit: str, n: int) -> np.ndarray:
        """(FLIPS, n) of -1 and 1: which of the n prompts of a unit swap the answers of two methods."""
        if (unit, n) not in self._flips:
            draw = np.random.default_rng(derived_seed("swap", unit)).integers(0, 2, (FLIPS, n))
            self._flips[unit, n] = draw * 2.0 - 1.0
        return self._flips[unit, n]

    def _value(self, composite: Composite, method: str, concept: str, average: Callable) -> np.ndarray:
        key = composite.name, method, concept
        if average is _mean and key in self._values:
            return self._values[key]
        parts = self._have(composite, method, concept)
        value = composite.formula(_averaged(parts, concept, average), self._base(composite, concept, average))
        if average is _mean:
            self._values[key] = value
        return value

    def _base(self, composite: Composite, concept: str, average: Callable) -> dict:
        key = composite.name, concept, average
        if key not in self._bases:
            parts = self._parts(composite, "original", concept)
            self._bases[key] = _Unmeasured() if isinstance(parts, Missing) else _averaged(parts, concept, average)
        return self._bases[key]

    def _have(self, composite: Composite, method: str, concept: str) -> Means:
        parts = self._parts(composite, method, concept)
        if isinstance(parts, Missing):
            raise parts
        return parts

    def _parts(self, composite: Composite, method: str, concept: str) -> Means | Missing:
        key = composite.name, method, concept
        if key not in self._means:
            try:
                self._means[key] = {name: self._part(part, method, concept) for name, part in composite.parts.items()}
            except Missing as why:
                self._means[key] = why
        return self._means[key]

    def _part(self, part: Part, method: str, concept: str) -> list[tuple[str, np.ndarray]]:
        key = part.splits, part.columns, part.attack, part.rule, part.unjudged, part.either, method, concept
        if key not in self._part_means:
            self._part_means[key] = self._read_part(part, method, concept)
        return self._part_means[key]

    def _read_part(self, part: Part, method: str, concept: str) -> list[tuple[str, np.ndarray]]:
        asked = [(split, attack) for split in self._splits(part, concept) for attack in self._attacks(part, concept)]
        if not asked:
            raise Missing(f"no cell has split {' or '.join(part.splits)} under {part.attack}")
        return [(split, self._prompt_means(part, method, concept, split, attack)) for split, attack in asked]

    def _splits(self, part: Part, concept: str) -> list[str]:
        """The part's splits that any method was asked for this concept: the same for all methods."""
        if concept not in self._known_splits:
            self._known_splits[concept] = {split for asked in self._asked.get(concept, []) for split, _ in asked}
        known = self._known_splits[concept]
        return [split for split in part.splits if split in known]

    def _attacks(self, part: Part, concept: str) -> list[str]:
        if part.attack != EVERY:
            return [part.attack]
        sets = [{a for p, a in asked if p in part.splits} for asked in self._asked.get(concept, [])]
        return sorted(set.intersection(*sets) - {"none", WORST}) if sets else []

    def _prompt_means(self, part: Part, method: str, concept: str, split: str, attack: str) -> np.ndarray:
        if part.whole_set:
            return np.array([np.mean([cell.value for cell in self._found(part, method, concept, split, attack)[0]])])
        values = self.per_image(part, method, concept, split, attack)
        if part.either:
            plain = self.per_image(part, method, concept, split, "none")
            values = [(asked, np.fmax(x, y)) for (asked, x), (_, y) in zip(values, plain, strict=True)]
        seeds = [asked.means(np.nan_to_num(x, nan=0.0) if part.unjudged == "miss" else x) for asked, x in values]
        if len({len(s) for s in seeds}) > 1:
            raise Missing(f"the erasure seeds of {method} were asked different prompts on {split}")
        return np.mean(seeds, axis=0)

    def _found(self, part: Part, method: str, concept: str, split: str, attack: str) -> list[list]:
        """The cells of each column of the part, one per erasure seed."""
        here = self.cells.get((method, concept), {}).get((split, attack), {})
        found = {name: self._cells(here, name) for name in part.columns}
        lost = [name for name, cells in found.items() if not cells]
        if lost:
            raise Missing(f"{method} has no {', '.join(lost)} on {split}" + ("" if attack == "none" else f" under {attack}"))
        return list(found.values())

    def per_image(self, part: Part, method: str, concept: str, split: str, attack: str) -> list[tuple[Asked, np.ndarray]]:
        """For each erasure seed the images and what the part's rule makes of their scores. Raises Missing."""
        made, names = [], [name.partition(".")[2] for name in part.columns]  # a star stands for the cell's own column
        for cells in zip(*self._found(part, method, concept, split, attack), strict=True):
            columns = [cell.column if "*" in name else name for cell, name in zip(cells, names, strict=True)]
            read = self.score_table.together((cell.score, cell.images, column) for cell, column in zip(cells, columns, strict=True))
            if read is None:
                raise Missing(f"the stored scores of {method} on {split} are gone")
            made.append((read[0], part.rule(*read[1])))
        return made

    def _cells(self, here: dict[str, list], name: str) -> list:
        """The cells of one column. Columns of words have none of their own: those of another column of the same table stand in."""
        if name in here:
            return here[name]
        metric, _, column = name.partition(".")
        compared = here.get(f"{metric}.*", [])
        tables = [(cell, self.score_table.scored(cell.score, cell.images)) for cell in compared if cell.column == compared[0].column]
        return [cell for cell, table in tables if table and column in table.words]

    def _resampled(self, unit: str, means: np.ndarray) -> np.ndarray:
        judged = ~np.isnan(means)
        if judged.all():
            return self.bootstrap.prompts(unit, means)
        above, below = (self.bootstrap.prompts(unit, x) for x in (np.where(judged, means, 0.0), judged.astype(float)))
        # The few resamples without any judged prompt say nothing: they take the mean.
        return np.where(below == 0, _mean(unit, means), above / np.where(below == 0, np.nan, below))


def _first_judge(cells: pd.DataFrame) -> str:
    """The judge of most presence cells, where there are any."""
    return (cells[cells["shown"]] if cells["shown"].any() else cells)["judge"].mode().iloc[0]


def _mean(unit: str, means: np.ndarray) -> np.ndarray:
    """Plain mean first: it is the common case and much faster than nanmean."""
    value = np.add.reduce(means) / len(means)
    return value if value == value else np.nanmean(means)


def _averaged(parts: Means, concept: str, average: Callable) -> dict[str, np.ndarray]:
    """A part over several splits is the mean of their means."""
    return {name: sum(average(f"{concept}/{unit}", m) for unit, m in units) / len(units) for name, units in parts.items()}
