"""Stored scores per image: concept -> prompt -> seed -> image, and one value per judge and rule."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from vestige.bench.reports.packed import Packed, is_packed
from vestige.bench.run.store_folder import text_of

WORST = "worst case"
WHICH = ("row_id", "rep", "group", "seed", "expect", "role")  # what of an index makes two images answers to one question


@dataclass(frozen=True, eq=False)
class Asked:
    """Which images were asked for: shared (the same object) by all sets with the same rows, so equal questions are found by `is`.

    Two sets are one question when id, repetition, seed, sentence (`group`), the thing asked for and the role agree row by row. What
    an older index does not say is "". Whether model and sampler agree is for the caller: it compares within one place.
    """

    row_id: tuple[str, ...]
    rep: tuple[int, ...]
    group: tuple[str, ...]
    place: np.ndarray  # (n,) number of each image's group, groups in sorted order
    seed: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()  # the thing each image was asked for
    role: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> int:
        return int(self.place.max()) + 1

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The distinct ones, sorted; () where they are not known."""
        return tuple(sorted(set(self.role) - {""}))

    @cached_property
    def things(self) -> tuple[str, ...]:
        """The thing that each group asks for, groups in sorted order; a set that names none has a thing per group."""
        asked = self.expect if any(self.expect) else self.group
        named = dict(zip(self.place.tolist(), asked, strict=True))
        return tuple(named[k] for k in range(self.groups))

    @cached_property
    def _members(self) -> np.ndarray:
        """(groups, n): 1 where the image belongs to the group."""
        return (np.arange(self.groups)[:, None] == self.place).astype(float)

    def means(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) -> (groups, ...) means; images without a judgement (NaN) do not count, groups without any are NaN."""
        judged = ~np.isnan(values)
        members = self._members
        count = members @ judged
        return members @ np.where(judged, values, 0.0) / np.where(count == 0, np.nan, count)


@dataclass(frozen=True, eq=False)
class Scored:
    """One score table: the images and every column, aligned."""

    asked: Asked
    columns: dict[str, np.ndarray]  # numeric ones: name -> (n,)
    words: dict[str, np.ndarray]  # the others
    files: tuple[str, ...]
    blocked: np.ndarray  # (n,) bool: a filter withheld the image


class ScoreTable:
    """Reads score tables, each once. References are the `score` and `images` of a record's cells.

    places: stores, and files of packed scores (bench/reports/packed.py); the first that holds a table wins.
    """

    def __init__(self, *places: Path) -> None:
        self._places = [Packed(place) if is_packed(place) else str(place) for place in places]
        self._asked: dict[tuple, Asked] = {}
        self._indices: dict[str, tuple | None] = {}
        self._scored: dict[tuple[str, str], Scored | None] = {}
        self._worst: dict[str, tuple[Asked, np.ndarray, frozenset[str]]] = {}

    def scored(self, score, images) -> Scored | None:
        """None for metrics of whole sets and for scores that are gone."""
        if not (isinstance(score, str) and isinstance(images, str)):
            return None
        if (score, images) not in self._scored:
            self._scored[score, images] = self._read(score, images)
        return self._scored[score, images]

    def values(self, score, images, column) -> tuple[Asked, np.ndarray] | None:
        """The images and one column, (n,), numbers or words."""
        if score in self._worst:
            return self._worst[score][:2]
        found = self.scored(score, images)
        if found is None:
            return None
        values = found.columns.get(column, found.words.get(column))
        return None if values is None else (found.asked, values)

    def together(self, cells: Iterable[tuple]) -> tuple[Asked, list[np.ndarray]] | None:
        """The columns of several cells (score, images, column) of the same images; None where one is gone or is of other images."""
        read = [self.values(*cell) for cell in cells]
        found = [one for one in read if one is not None]
        if not found or len(found) < len(read) or any(asked is not found[0][0] for asked, _ in found):
            return None
        return found[0][0], [values for _, values in found]

    def add_worst(self, name: str, asked: Asked, values: np.ndarray, attacks: frozenset[str]) -> None:
        """Remember a worst case (bench/reports/worst_case.py) as the score `name`."""
        self._worst[name] = asked, values, attacks

    def attacks_of(self, name: str) -> frozenset[str]:
        """Of the worst case `name`; none of one that another `Images` remembers."""
        return self._worst[name][2] if name in self._worst else frozenset()

    def roles(self, images) -> tuple[str, ...]:
        """The distinct roles of the prompts behind a set of images, sorted; () where they are not known."""
        index = self._index(images) if isinstance(images, str) else None
        return () if index is None else index[0].roles

    def text(self, reference: str, name: str) -> str | None:
        """One file of a stage, from the first place that has it."""
        for place in self._places:
            if isinstance(place, Packed):
                found = place.text(f"{reference}/{name}")
                if found is not None:
                    return found
                continue
            with suppress(FileNotFoundError):
                return text_of(Path(place) / reference, name)
        return None

    def _table(self, reference: str, name: str) -> tuple[list[str], list[list[str]]] | None:
        text = self.text(reference, name)
        if text is None:
            return None
        head, *rows = csv.reader(io.StringIO(text, newline=""))
        if not text.endswith("\n") or set(map(len, rows)) - {len(head)}:
            raise ValueError(f"{reference}/{name} is damaged: a line of it was cut. Move that folder away and run the job again.")
        return head, rows

    def _read(self, score: str, images: str) -> Scored | None:
        index, table = self._index(images), self._table(score, "per_image.csv")
        if index is None or table is None:
            return None
        head, rows = table
        asked, files, blocked = index
        columns = dict(zip(head, zip(*rows, strict=True), strict=True))
        order = _order(asked, columns.pop("row_id"), columns.pop("rep"))
        if order is None:
            return None
        numbers = {name: array[order] for name, values in columns.items() if (array := _numbers(values)) is not None}
        words = {name: np.array(values, dtype=object)[order] for name, values in columns.items() if name not in numbers}
        return Scored(asked, numbers, words, files, blocked)

    def _index(self, images: str) -> tuple | None:
        if images not in self._indices:
            table = self._table(images, "index.csv")
            if table is None:
                self._indices[images] = None
                return None
            head, rows = table
            columns = dict(zip(head, zip(*rows, strict=True), strict=True))
            key = tuple(columns.get(name) or ("",) * len(rows) for name in WHICH)
            asked = self._asked.get(key)
            if asked is None:
                row_id, rep, group, *rest = key
                place = np.unique(group, return_inverse=True)[1]
                asked = self._asked[key] = Asked(row_id, tuple(map(int, rep)), group, place, *rest)
            blocked = np.array([status == "blocked" for status in columns.get("status", [""] * len(rows))])
            self._indices[images] = asked, columns["file"], blocked
        return self._indices[images]


def _order(asked: Asked, row_id: tuple[str, ...], rep: tuple[str, ...]) -> slice | list[int] | None:
    """Rows of a score table in the order of the images; None when some image has no score."""
    if row_id == asked.row_id and tuple(map(int, rep)) == asked.rep:
        return slice(None)
    place = {key: k for k, key in enumerate(zip(row_id, map(int, rep), strict=True))}
    wanted = list(zip(asked.row_id, asked.rep, strict=True))
    return [place[key] for key in wanted] if all(key in place for key in wanted) else None


def _numbers(values: tuple[str, ...]) -> np.ndarray | None:
    """None for a column of words."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        flags = {"True": 1.0, "False": 0.0, "": np.nan}
        return np.array([flags[value] for value in values]) if set(values) <= set(flags) else None


def per_image(frame: pd.DataFrame, store: Path | ScoreTable) -> pd.DataFrame:
    """One row per measured image and rule, for any analysis of one's own: a plain long table.

    Columns: model, method, erase_seed, concept, prompt (the cluster), row_id, rep (which seed of the prompt), image (folder
    and file in the store), split, attack, judge, rule (metric.column), value.
    """
    score_table, parts = store if isinstance(store, ScoreTable) else ScoreTable(store), []
    for cell in frame[frame["metric"].notna() & (frame["attack"] != WORST)].itertuples():
        scored = score_table.scored(cell.score, cell.images)
        if scored is None or cell.column not in scored.columns:
            continue
        slugs, asked = cell.concept.split("+"), scored.asked
        owner = [row.rpartition("-")[0] if row.rpartition("-")[0] in slugs else cell.concept for row in asked.row_id]
        head = {"model": cell.model, "method": cell.method, "erase_seed": cell.seed, "concept": owner}
        ids = {"prompt": asked.group, "row_id": asked.row_id, "rep": asked.rep, "image": [f"{cell.images}/{f}" for f in scored.files]}
        rule = {"split": cell.split, "attack": cell.attack, "judge": cell.judge, "rule": f"{cell.metric}.{cell.column}"}
        parts.append(pd.DataFrame(head | ids | rule | {"value": scored.columns[cell.column]}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
