"""Numbers that papers, leaderboards and their readers have printed: one row per value, checked when read.

The files are results/published/<paper>.csv; the README there says who printed what and how far to trust it. A published number
may only be compared with one of ours if protocol, judge and sampler agree (`disagreements`). Imports neither torch nor pandas.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.places import PACKAGE

if TYPE_CHECKING:
    import pandas as pd

FOLDER = PACKAGE / "results" / "published"
KINDS = ("object", "style", "celebrity", "nudity", "unsafe", "ip", "scene", "action", "animal", "mixed", "all")
TRUST = {
    "A": "the authors' own files or pages",
    "B": "posted by authors or users in an issue",
    "C": "transcribed by others: check against the paper before citing",
    "D": "measured by others with their own rule",
}
# unit -> (what it is, least and greatest value that make sense)
UNITS = {
    "percent": ("share of 100", 0, 100),
    "percent points": ("difference of two shares of 100", -100, 100),
    "rate": ("share of 1", 0, 1),
    "score": ("of the paper's own scale", -math.inf, math.inf),
    "difference": ("of two scores", -math.inf, math.inf),
    "count": ("images or boxes", 0, math.inf),
    "cosine": ("cosine", -1, 1),
    "clip_x100": ("cosine x 100, CLIP model not known", -100, 100),
    "clip_b32_x100": ("cosine x 100, CLIP ViT-B/32", -100, 100),
    "clip_l14_x100": ("cosine x 100, CLIP ViT-L/14", -100, 100),
    "lpips_alex_512": ("LPIPS, AlexNet, 512 pixels", 0, 2),
    "fid": ("FID; the judge says which one", 0, math.inf),
    "norm": ("length of a vector", 0, math.inf),
    "seconds": ("seconds", 0, math.inf),
    "minutes": ("minutes", 0, math.inf),
    "MB": ("megabytes", 0, math.inf),
}
IDENTITY = ("paper", "table", "model", "method", "concept_kind", "concept", "metric")
MAY_BE_EMPTY = ("arxiv", "protocol", "judge", "sampler", "note")
SAMPLER = re.compile(r"\w+Scheduler \d+ [\d.]+ \d+")
ARXIV = re.compile(r"\d{4}\.\d{4,5}( \d{4}\.\d{4,5})*")


@dataclass(frozen=True)
class Published:
    """One printed value. Empty protocol, judge or sampler: not known, so it agrees with nothing."""

    paper: str  # who published the table
    arxiv: str  # identifiers, separated by blanks
    table: str
    model: str  # as printed
    method: str  # as printed; the attack where the note says so
    concept_kind: str  # one of KINDS
    concept: str  # as printed
    metric: str
    value: float
    unit: str  # one of UNITS
    protocol: str  # the name our conf/protocol gives or would give it
    judge: str  # the identity a record of ours would carry (bench/papers/comparison.py) or, for a judge we do not have, a name of its own
    sampler: str  # scheduler of diffusers, steps, guidance, pixels
    source: str  # who printed this value
    trust: str  # one of TRUST
    note: str


COLUMNS = tuple(f.name for f in fields(Published))


def papers(folder: Path = FOLDER) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.csv"))


def load(paper: str, folder: Path = FOLDER) -> list[Published]:
    """All rows of one file. Raises ValueError with file and line for anything that is not a well-formed fact."""
    file = folder / f"{paper}.csv"
    if not file.exists():
        near = difflib.get_close_matches(paper, papers(folder), 3, 0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no published table {paper!r}.{hint} Known: {', '.join(papers(folder)) or 'none'}.")
    with open(file, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{file}: the columns must be {', '.join(COLUMNS)}; they are {', '.join(reader.fieldnames or ())}.")
        rows = [_row(entry, f"{file}:{line}") for line, entry in enumerate(reader, 2)]
    first: dict[tuple, int] = {}
    for line, row in enumerate(rows, 2):
        twice = first.setdefault(tuple(getattr(row, name) for name in IDENTITY), line)
        if twice != line:
            raise ValueError(f"{file}:{line}: the same value as in line {twice} ({row.method}, {row.concept}, {row.metric}).")
    return rows


def frame(folder: Path = FOLDER) -> pd.DataFrame:
    """Every published value as one tidy table; the column `file` names the CSV it stands in."""
    import pandas as pd

    return pd.DataFrame([{"file": paper} | asdict(row) for paper in papers(folder) for row in load(paper, folder)])


def disagreements(row: Published, protocol: str, judge: str, sampler: str) -> list[str]:
    """Why a number measured with these may not be compared with the published one; empty if all three agree.

    A published judge without a colon is a make: its weights lie where the user keeps them ("canvas" agrees with "canvas:my/folder").
    """
    found = []
    for name, ours in (("protocol", protocol), ("judge", judge), ("sampler", sampler)):
        theirs = getattr(row, name)
        if not theirs:
            found.append(f"{name}: theirs is not known")
        elif theirs not in (ours, ours.partition(":")[0]):
            found.append(f"other {name}: theirs {theirs}, ours {ours or 'not known'}")
    return found


def sampler_words(sampler: dict) -> str:
    """A sampler as this table writes it: {scheduler, steps, guidance, height, width} -> "DDIMScheduler 50 7.5 512"."""
    size = {sampler.get("height"), sampler.get("width")}
    pixels = "x".join(str(sampler.get(side)) for side in ("height", "width")) if len(size) > 1 else str(size.pop())
    return f"{sampler.get('scheduler')} {sampler.get('steps')} {sampler.get('guidance'):g} {pixels}"


def _row(entry: dict, where: str) -> Published:
    if None in entry or None in entry.values():
        raise ValueError(f"{where}: the row has another number of fields than the header.")
    empty = [name for name in COLUMNS if name not in MAY_BE_EMPTY and not entry[name].strip()]
    if empty:
        raise ValueError(f"{where}: {', '.join(empty)} may not be empty.")
    _one_of(where, "concept_kind", entry["concept_kind"], KINDS)
    _one_of(where, "unit", entry["unit"], UNITS)
    _one_of(where, "trust", entry["trust"], TRUST)
    for name, pattern, example in (("arxiv", ARXIV, "2403.06135"), ("sampler", SAMPLER, "DDIMScheduler 50 7.5 512")):
        if entry[name] and not pattern.fullmatch(entry[name]):
            raise ValueError(f"{where}: {name}={entry[name]!r} does not look like {example!r}.")
    try:
        value = float(entry["value"])
    except ValueError:
        raise ValueError(f"{where}: value={entry['value']!r} is not a number.") from None
    meaning, least, greatest = UNITS[entry["unit"]]
    if not (math.isfinite(value) and least <= value <= greatest):
        raise ValueError(f"{where}: value={entry['value']} cannot be {meaning} ({entry['unit']}).")
    return Published(**{**entry, "value": value})


def _one_of(where: str, name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, list(allowed), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{where}: {name}={value!r} is not known.{hint} Allowed: {', '.join(allowed)}.")
