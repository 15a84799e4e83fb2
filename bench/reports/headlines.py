"""The headline score from stored scores: which images each of its parts uses. The arithmetic is bench/statistics/headline.py.

target     rows of role target            the concept by its name: presence
synonyms   rows of role alias             by other names: presence
leak       rows of role scene             next to another: is the concept seen?
kept       roles sibling, other, scene, background: presence of the thing asked for, a unit per thing
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vestige.bench.reports.aggregates import AggregateScores, Missing
from vestige.bench.reports.composites import Part
from vestige.bench.statistics import headline
from vestige.bench.statistics.headline import Estimate, Headline, Rates
from vestige.bench.statistics.permutation import FLIPS, p_value, sign_flip
from vestige.bench.statistics.resampling import FEW_CONCEPTS

PRESENT, SEEN = "presence.present", "answers.seen"
# part -> (roles of its rows, column)
ERASED = {"target": (("target",), PRESENT), "synonyms": (("alias",), PRESENT), "leak": (("scene",), SEEN)}
KEPT = ("sibling", "other", "scene", "background"), PRESENT
ATTACKS = ("adversarial",)  # splits that are an attack's list of prompts: attacks are no part of the score


@dataclass
class Headlines:
    """Of the methods and concepts of one `Views`: one model, sampler and protocol."""

    aggregate_scores: AggregateScores
    _made: dict[tuple[str, str], Headline | Missing] = field(default_factory=dict, repr=False)
    _means: dict[tuple, Headline] = field(default_factory=dict, repr=False)
    _units: dict[tuple, tuple[list[str], np.ndarray]] = field(default_factory=dict, repr=False)

    def of(self, method: str, concept: str) -> Headline:
        """Raises Missing where the method, or the original model, was not measured on some part."""
        if (method, concept) not in self._made:
            try:
                self._made[method, concept] = self._make(method, concept)
            except Missing as why:
                self._made[method, concept] = why
        found = self._made[method, concept]
        if isinstance(found, Missing):
            raise found
        return found

    @cached_property
    def unsupported_reason(self) -> dict[str, str]:
        """Concept -> why no method has a score on it."""
        found = {}
        for concept in self.aggregate_scores.concepts:
            try:
                reason = self.of("original", concept).reason
            except Missing as why:
                reason = str(why)
            if reason:
                found[concept] = reason
        return found

    @cached_property
    def concepts(self) -> list[str]:
        """On which a score is defined."""
        return [concept for concept in self.aggregate_scores.concepts if concept not in self.unsupported_reason]

    def mean(self, method: str, concepts: list[str]) -> Headline:
        """Over concepts; never over fewer than asked. Raises Missing."""
        if not concepts:
            raise Missing("no concept has a score")
        if len(concepts) == 1:
            return self.of(method, concepts[0])
        key = method, *concepts
        if key not in self._means:
            self._means[key] = headline.over_concepts([self.of(method, concept) for concept in concepts], self.aggregate_scores.bootstrap)
        return self._means[key]

    def difference(self, a: str, b: str, concepts: list[str]) -> Estimate:
        """Of the scores of two methods, paired. Raises Missing."""
        return headline.difference(self.mean(a, concepts), self.mean(b, concepts))

    def p_difference(self, a: str, b: str, concepts: list[str]) -> float:
        """Two-sided permutation p of equal scores: prompts and things (from eight concepts on: concepts) swap the methods' answers."""
        differences = np.array([self.of(a, c).score.value - self.of(b, c).score.value for c in concepts])
        if len(concepts) >= FEW_CONCEPTS:
            return sign_flip(differences)
        null = np.asarray(sum(self._swapped(a, b, concept) for concept in concepts)) / len(concepts)
        return p_value(null, float(differences.mean()), exact=False)

    def _swapped(self, a: str, b: str, concept: str) -> np.ndarray:
        """(FLIPS,) differences of the scores when units swap the two methods' answers at random."""
        one, two = self._rates(a, concept), self._rates(b, concept)
        shares: dict[str, list[np.ndarray]] = {}
        for part in one:
            r = np.stack([np.atleast_2d(side[part].method).mean(0) for side in (one, two)])
            o, z = one[part].original, one[part].oracle
            whole = ~np.isnan(np.vstack([r, o, *([] if z is None else [z])])).any(0)
            flips = self.aggregate_scores.flips(f"{concept}/{part}", len(o))[:, whole]
            half = flips @ (r[0] - r[1])[whole] / 2 / max(1, whole.sum())
            rates = r[:, whole].mean() + half, r[:, whole].mean() - half
            floor = 0.0 if z is None else z[whole].mean()
            base = o[whole].mean()
            shares[part] = [headline.kept(x, base) if part == "kept" else headline.erased(x, base, floor) for x in rates]
        scores = []
        for side in range(2):
            parts = np.stack([np.broadcast_to(shares[part][side], FLIPS) for part in shares if part != "kept"])
            scores.append(headline.score(np.nanmean(parts, axis=0), shares["kept"][side]))
        return scores[0] - scores[1]

    def _make(self, method: str, concept: str) -> Headline:
        parts = self._rates(method, concept)
        kept = parts.pop("kept")
        return headline.headline_interval(
            parts, kept, self.aggregate_scores.bootstrap, concept, method, (method, concept) in self._collapsed
        )

    @cached_property
    def _collapsed(self) -> set[tuple[str, str]]:
        broken = self.aggregate_scores.frame.dropna(subset=["collapsed"])
        return set(zip(broken["method"], broken["concept"], strict=True))

    def _rates(self, method: str, concept: str) -> dict[str, Rates]:
        """Every part that was asked for this concept."""
        found = {part: self._part(*asked, method, concept) for part, asked in ERASED.items() if self._splits(*asked, concept)}
        if not found:
            raise Missing("no split asks for the concept itself (rows of role target, alias or scene, judged by presence)")
        if not self._splits(*KEPT, concept):
            raise Missing("no split asks for what should stay (rows of role sibling, other, scene or background)")
        return found | {"kept": self._part(*KEPT, method, concept, by_thing=True)}

    def _part(self, roles: tuple[str, ...], column: str, method: str, concept: str, by_thing: bool = False) -> Rates:
        asked = roles, column, concept, by_thing
        names, rates = self._read(method, *asked)
        base_names, base = self._read("original", *asked)
        if names != base_names:
            raise Missing(f"{method} was not asked the same prompts as the original model")
        oracle = None
        if not by_thing and ("oracle", concept) in self.aggregate_scores.cells:
            try:
                oracle_names, answers = self._read("oracle", *asked)
                oracle = answers.mean(0) if oracle_names == names else None
            except Missing:
                pass
        return Rates(rates, base.mean(0), oracle)

    def _read(self, method: str, roles: tuple[str, ...], column: str, concept: str, by_thing: bool) -> tuple[list[str], np.ndarray]:
        """(names of the units, (seeds, units) means)."""
        key = method, roles, column, concept
        if key not in self._units:
            self._units[key] = self._measure(*key, by_thing)
        return self._units[key]

    def _measure(self, method: str, roles: tuple[str, ...], column: str, concept: str, by_thing: bool) -> tuple[list[str], np.ndarray]:
        names: list[str] = []
        means: list[np.ndarray] = []
        for split in self._splits(roles, column, concept):
            seeds = self.aggregate_scores.per_image(Part((split,), (column,)), method, concept, split, "none")
            asked = seeds[0][0]
            if any(other is not asked for other, _ in seeds):
                raise Missing(f"the erasure seeds of {method} were asked different prompts on {split}")
            names += asked.things if by_thing else [f"{split}/{k}" for k in range(asked.groups)]
            means.append(np.stack([asked.means(values) for _, values in seeds]))
        if len({len(each) for each in means}) > 1:
            raise Missing(f"{method} has other erasure seeds on some splits")
        table = np.concatenate(means, axis=1)
        return _per_thing(names, table) if by_thing else (names, table)

    def _splits(self, roles: tuple[str, ...], column: str, concept: str) -> list[str]:
        """Splits with rows of these roles that any method was asked for this concept and that have the column."""
        asked = self._asked.get((concept, column), set())
        return sorted(split for split in asked - set(ATTACKS) if self.aggregate_scores.roles.get(split) in roles)

    @cached_property
    def _asked(self) -> dict[tuple[str, str], set[str]]:
        """(concept, column) -> splits that any method was asked, without an attack."""
        found: dict[tuple[str, str], set[str]] = {}
        for (_, concept), cells in self.aggregate_scores.cells.items():
            for (split, attack), columns in cells.items():
                for column in (PRESENT, SEEN) if attack == "none" else ():
                    if column in columns:
                        found.setdefault((concept, column), set()).add(split)
        return found


def _per_thing(names: list[str], means: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(seeds, prompts) to (seeds, things): the mean over a thing's judged prompts."""
    things = sorted(set(names))
    member = (np.array(names)[None, :] == np.array(things)[:, None]).astype(float)
    judged = ~np.isnan(means)
    count = judged.astype(float) @ member.T
    return things, np.where(judged, means, 0.0) @ member.T / np.where(count == 0, np.nan, count)
