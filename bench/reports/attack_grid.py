"""The attacked target cells of all records, found by place, method and attack, with the scores of their images over erasure seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from vestige.bench.reports.results import present
from vestige.bench.reports.score_table import Asked, ScoreTable
from vestige.bench.reports.worst_case import PLACE

LUCK = "random_seeds"  # attacks of this name, with or without a suffix, are the baseline with equal budget: fresh seeds
NULL = "never_knew"  # the control that is given a made-up thing
RETURNED = ("made_up", "returned")  # metric and column that say how often that thing comes back
TRAINS = ("gradients", "embedding", "weights")  # attacks of such access differentiate: a backward pass costs two forward ones
BACKWARD = 3
FORTUNE = "fresh seeds had too small a budget: {tried} tries of {name}, and this attack's denoiser calls pay for {wanted}"


@dataclass(eq=False)
class Measured:
    """One method under one attack at one place: a cell per erasure seed, and the scores of the same images by each."""

    cells: list
    asked: Asked | None  # None: scores are gone, or the seeds were asked different images
    values: np.ndarray  # (seeds, images); of no meaning without `asked`

    @property
    def first(self):
        return self.cells[0]

    @property
    def prompts(self) -> np.ndarray:
        """(prompts,) means over seeds and images."""
        assert self.asked is not None, "scores are gone"
        return self.asked.means(over_seeds(self.values))

    @property
    def by_seed(self) -> np.ndarray:
        """(seeds,) rates."""
        assert self.asked is not None, "scores are gone"
        return over_seeds(self.asked.means(self.values.T))  # the mean over prompts is of those with a judgement, too


class Grid:
    def __init__(self, frame: pd.DataFrame, score_table: ScoreTable) -> None:
        own = frame[(frame["split"] == "target") & frame["sweep_of"].isna()]
        self.table = present(own)
        null = own[(own["metric"] == RETURNED[0]) & (own["column"] == RETURNED[1])]
        self._images = score_table
        self._found = {key: self._measured(part) for key, part in _parts(self.table, [*PLACE, "method", "attack"])}
        # No judge of concepts says whether the made-up thing is there: one null serves them all.
        self._nulls = {key: self._measured(part) for key, part in _parts(null, [*PLACE[:-1], "method", "attack"])}

    @property
    def attacked(self) -> list[Measured]:
        return [m for m in self._found.values() if m.first.attack != "none"]

    def compared(self, it: Measured, method: str, attack: str) -> Measured | None:
        """Another method or attack at the same place."""
        return self._found.get((*(getattr(it.first, name) for name in PLACE), method, attack))

    def zero(self, it: Measured) -> tuple[Measured | None, str]:
        """(what the same attack gets where nothing of the concept is left, where that comes from).

        The oracle never saw the concept. Without it: the same attack given a made-up thing, judged for that thing.
        """
        oracle = self.compared(it, "oracle", it.first.attack)
        if oracle is not None:
            return oracle, "oracle"
        return self.null(it), NULL

    def null(self, it: Measured) -> Measured | None:
        """Of an attack, or of its null control itself: how often the made-up thing came back, from the same method."""
        place = (getattr(it.first, name) for name in PLACE[:-1])
        attack = it.first.attack.removesuffix(f":{NULL}")
        return self._nulls.get((*place, it.first.method, f"{attack}:{NULL}"))

    def luck(self, it: Measured) -> tuple[np.ndarray, int] | str:
        """((seeds, images) what fresh seeds bring for at least this attack's budget, tries per prompt), or why that is unknown.

        One try is the image the attack draws in the end, so an attack that never asks the erased model is compared with no attack.
        """
        plain = self.compared(it, it.first.method, "none")
        if plain is None or plain.asked is None:
            return "there are no unattacked images to compare with"
        spent = {c.seed: _spent(c) for c in it.cells}
        if not any(spent.values()):
            known = {c.seed for c in plain.cells}
            return (_of_seeds(plain, spent), 1) if set(spent) <= known else "an erasure seed has no unattacked images"
        names = [m for m in self.attacked if m.first.attack.startswith(LUCK) and self.compared(it, it.first.method, m.first.attack) is m]
        answer: tuple | str = f"{LUCK} was not run"
        for baseline in names:
            answer = _lucky(baseline, plain, spent)
            if not isinstance(answer, str):
                return answer
        return answer

    def _measured(self, part: pd.DataFrame) -> Measured:
        cells = list(part.drop_duplicates("seed").itertuples(index=False))
        read = self._images.together((c.score, c.images, c.column) for c in cells)
        return Measured(cells, None, np.empty((0, 0))) if read is None else Measured(cells, read[0], np.stack(read[1]))


def over_seeds(values: np.ndarray) -> np.ndarray:
    """(seeds, ...) -> mean over the seeds that have a value; NaN where none has. No warning, unlike numpy's."""
    judged = ~np.isnan(values)
    return np.where(judged, values, 0).sum(0) / np.where(judged.any(0), judged.sum(0), np.nan)


def widened(value: float, low: float, high: float, by_seed: np.ndarray) -> tuple[float, float]:
    """An interval with prompts resampled, widened by the spread of erasure seeds: Student's interval of their mean, squares added."""
    if len(by_seed) < 2:
        return low, high
    half = stats.t.ppf(0.975, len(by_seed) - 1) * np.std(by_seed, ddof=1) / math.sqrt(len(by_seed))
    return value - math.hypot(value - low, half), value + math.hypot(high - value, half)


def _parts(table: pd.DataFrame, names: list[str]):
    return table.groupby(names, dropna=False, sort=False, observed=True)


def _spent(cell) -> float:
    """Denoiser rows of the erased model per image set, as forward passes."""
    rows = 0.0 if math.isnan(cell.attack_forward_rows) else cell.attack_forward_rows
    return rows * (BACKWARD if cell.access in TRAINS else 1)


def _of_seeds(it: Measured, seeds) -> np.ndarray:
    place = {c.seed: k for k, c in enumerate(it.cells)}
    return it.values[[place[seed] for seed in seeds]]


def _lucky(luck: Measured, plain: Measured, spent: dict) -> tuple[np.ndarray, int] | str:
    """The run of fresh seeds cut to the tries that `spent` pays for, seed by seed: what such a run would have drawn."""
    known, name = {c.seed: c for c in luck.cells}, luck.first.attack
    covered = set(spent) <= set(known) & {c.seed for c in plain.cells}
    if not covered or luck.asked is None or luck.asked is not plain.asked:
        return f"{name} was not run on every erasure seed, or was asked other prompts"
    wanted, made = {}, []
    rows = list(dict.fromkeys(luck.asked.row_id))
    place = np.array([rows.index(row) for row in luck.asked.row_id])
    for seed, cell in known.items():
        if seed not in spent:
            continue
        found = np.asarray(cell.found_at if isinstance(cell.found_at, list) else [], int)
        if len(found) != len(rows) or not cell.attack_images > 0 or not cell.attack_forward_rows > 0:
            return f"what {name} tried and spent is not in its record"
        wanted[seed] = 1 + math.ceil(spent[seed] / len(rows) / (cell.attack_forward_rows / cell.attack_images))
        failed = int((found < 0).sum())
        tried = (cell.attack_images - found[found > 0].sum()) / failed if failed else math.inf
        if tried < wanted[seed]:
            return FORTUNE.format(tried=round(tried), name=name, wanted=wanted[seed])
        hit = ((found > 0) & (found <= wanted[seed]))[place]
        made.append(np.where(hit, _of_seeds(luck, [seed])[0], _of_seeds(plain, [seed])[0]))
    return np.stack(made), max(wanted.values())
