"""Which of our methods, concepts, protocols and metrics correspond to the names in a published table.

The mapping is data: conf/reproduce/<paper>.yaml, one per file of results/published. A name may be mapped to something that is not
in conf/ yet: it is reported as missing and works once it is there. `{not: reason}` says that nothing of ours stands for it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from vestige.bench.papers.published import Published
from vestige.bench.places import CONF, config_folders
from vestige.bench.run import choices

FOLDER = CONF / "reproduce"


@dataclass(frozen=True)
class Absent:
    """Nothing of ours stands for this word of the paper."""

    reason: str


@dataclass(frozen=True)
class Reading:
    """Which of our numbers stands for a published metric: a stored column, a composite, or a cost."""

    split: str = ""
    column: str = ""  # metric.column, for example presence.present
    attack: str = "none"
    value: str = "value"  # or either (before or after the attack: post-ASR), before, after_failing
    complement: bool = False  # 1 - value
    total: bool = False  # sum over the images instead of their mean
    composite: str = ""  # a name of bench/reports/composite_catalogue.py
    cost: str = ""  # a field of the record's cost, for example erase_seconds


@dataclass(frozen=True)
class PaperTable:
    """One published table. `concepts` and `emoji` map a printed concept to what is erased, one entry per job; a+b: together.

    A word whose meaning depends on the kind of the concept has its keys as "<kind> <word>".
    """

    name: str
    metrics: dict[str, Reading | Absent]
    concepts: dict[str, list[str] | Absent]
    protocol: str | None = None  # of conf/protocol; null: the table's prompts are no protocol of ours
    emoji: dict[str, list[str]] = field(default_factory=dict)
    attacks: list[str] = field(default_factory=list)  # beside none
    sampler: str | None = None  # the paper's, as in results/published, where it is not the protocol's
    settings: list[str] = field(default_factory=list)  # more words for the command, where the protocol asks other prompts
    images: int | None = None  # per method and job, as the paper or its code says
    attack_evaluations: int = 0  # of the denoiser, at most, per method and job: a gradient counts as three

    def reading(self, row: Published) -> Reading | Absent | None:
        return of_kind(self.metrics, row, row.metric)


@dataclass(frozen=True)
class PaperMap:
    """Of one file of results/published."""

    paper: str
    title: str
    models: dict[str, str]  # printed name -> conf/model
    methods: dict[str, str | Absent]  # printed name -> conf/method
    tables: dict[str, PaperTable | Absent]


def of_kind(mapping: dict, row: Published, word: str) -> Any:
    return mapping.get(f"{row.concept_kind} {word}", mapping.get(word))


def mapped(folder: Path = FOLDER) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def load(paper: str, folder: Path = FOLDER) -> PaperMap:
    """Raises ValueError with file and key for an unknown key or a value of the wrong form."""
    file = folder / f"{paper}.yaml"
    if not file.exists():
        near = difflib.get_close_matches(paper, mapped(folder), 3, 0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"paper={paper!r} has no mapping to our grid.{hint} Mapped: {', '.join(mapped(folder)) or 'none'}.")
    content = choices.parsed(file)
    content.pop("shared", None)  # anchors that the tables share
    where = str(file)
    _known(content, ("title", "models", "methods", "tables"), where)
    return PaperMap(
        paper,
        content["title"],
        content["models"],
        {name: _named(value, f"{where}: methods.{name}") for name, value in content["methods"].items()},
        {name: _table(name, entry, f"{where}: tables.{name}") for name, entry in content["tables"].items()},
    )


def _table(name: str, entry: dict, where: str) -> PaperTable | Absent:
    if "not" in entry:
        return _absent(entry, where)
    _known(entry, [f.name for f in fields(PaperTable) if f.name != "name"], where)
    metrics = {metric: _reading(value, f"{where}.metrics.{metric}") for metric, value in entry["metrics"].items()}
    concepts = {c: _jobs(value, f"{where}.concepts.{c}") for c, value in entry["concepts"].items()}
    emoji = {c: _jobs(value, f"{where}.emoji.{c}") for c, value in entry.get("emoji", {}).items()}
    return PaperTable(name, **{**entry, "metrics": metrics, "concepts": concepts, "emoji": emoji})


def _reading(value: dict, where: str) -> Reading | Absent:
    if "not" in value:
        return _absent(value, where)
    _known(value, [f.name for f in fields(Reading)], where)
    reading = Reading(**value)
    if sum(bool(way) for way in (reading.split and reading.column, reading.composite, reading.cost)) != 1:
        raise ValueError(f"{where} must have either split and column, or composite, or cost.")
    return reading


def _jobs(value: Any, where: str) -> list[str] | Absent:
    if isinstance(value, dict):
        return _absent(value, where)
    return [value] if isinstance(value, str) else list(value)


def _named(value: Any, where: str) -> str | Absent:
    return _absent(value, where) if isinstance(value, dict) else value


def _absent(value: dict, where: str) -> Absent:
    _known(value, ("not",), where)
    return Absent(value["not"])


def _known(content: dict, keys, where: str) -> None:
    for key in content:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            raise ValueError(f"{where}: {key!r} is not known." + (f" Did you mean {near[0]}?" if near else f" Known: {', '.join(keys)}."))


# What is in conf/


@cache
def names(group: str, extra: Path | None = None) -> frozenset[str]:
    """Names of a group of conf/, with those of a folder from outside."""
    return frozenset(choices.known(group, config_folders(extra)))


def lacks(group: str, name: str, extra: Path | None = None) -> str | None:
    """Why a name cannot be used, or None. `a+b` names several concepts that are erased together."""
    lost = [part for part in name.split("+") if part not in names(group, extra)]
    return f"{group} {' and '.join(lost)} is not in Vestige" if lost else None
