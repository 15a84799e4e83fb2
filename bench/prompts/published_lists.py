"""Published prompt lists, read from the user's own copy: known by their rows and their hash, never shipped.

`prompts: list:<id>` in a split asks for one; the file lies as <id>.csv, or under the entry's own path, in the folder that
VESTIGE_PROMPTS names (default prompts/lists). prompts/lists.yaml and hub_lists.yaml hold for each id where it comes from, its
columns, its row count and the SHA-256 of its normalised texts. Another content is refused, or with `list:<id>?allow_drift` used
under a name that says so.

A file without a header line has column null; a .json file is a list of objects. What else an entry may have: prompts/lists.yaml.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import unicodedata
from functools import cache
from pathlib import Path

import pandas as pd

from vestige.bench.contract import screen
from vestige.bench.contract.building import read_yaml
from vestige.bench.contract.types import PromptSet, sentence_group
from vestige.bench.places import PACKAGE

MANIFESTS = (PACKAGE / "prompts" / "lists.yaml", PACKAGE / "prompts" / "hub_lists.yaml")
KEYS: tuple[str, ...] = ("source", "file", "column", "columns", "template", "role", "stored", "expect", "sample", "seed", "seed_cycle")
KEYS += ("rows", "sha256", "explicit")
MARK = "list:"
DRIFT = "?allow_drift"


def load(asked: str, rows: int, repeats: int, expect: str) -> PromptSet:
    """The first `rows` rows. Columns besides the usual: seed (of the list, for the first image; later ones count on) and private.

    Private texts stay out of the store; those of lists that the manifest marks `stored` do not: a CLIP score needs them. The
    guidance that some lists give per row is not used: the protocol's sampler rules. Lists marked explicit pass the screen for
    minors first, whatever the concept.
    """
    name = _name(asked)
    entry, drift = _entry(name), asked.endswith(DRIFT)
    read = _read(_file(name, entry), name, entry)
    found = digest(read["text"].tolist())
    if (len(read), found) != (entry["rows"], entry["sha256"]) and not drift:
        raise ValueError(
            f"prompts={asked!r}: {_file(name, entry)} has {len(read)} rows with hash {found[:12]}; the list {entry['source']} has "
            f"{entry['rows']} with {entry['sha256'][:12]}. To use it all the same: prompts={MARK}{name}{DRIFT}"
        )
    role, template = entry.get("role", "target"), entry.get("template", "{}")
    meant = {"target": expect, "alias": expect}.get(role, "")
    table = pd.DataFrame({"row_id": [f"{name}-{k:05d}" for k in range(len(read))], "prompt": read["text"].map(template.format)})
    table = table.assign(role=role, expect=read.get("expect", meant), names=1)
    first = read.drop_duplicates("row").set_index("row")["text"]  # translations of one prompt are one cluster, equal prompts too
    table["group"] = read["row"].map(first).map(sentence_group)
    if "seed" in read:
        table["seed"] = read["seed"]
    if not entry.get("stored"):
        table["private"] = True
    whole = PromptSet(name + (f"-drift-{found[:8]}" if drift else ""), table, repeats)
    return (screen.screened(whole) if entry["explicit"] else whole).head(rows)


def is_list(prompts: str) -> bool:
    return prompts.startswith(MARK)


def missing(prompts: str) -> str | None:
    """Why a list cannot be read here and what to do about it, in a sentence, or None (also for prompts that are no list)."""
    if not is_list(prompts):
        return None
    name = _name(prompts)
    entry = _entry(name)
    try:
        _file(name, entry)
    except ValueError as unsupported_reason:
        return str(unsupported_reason)
    return None


def survey() -> str:
    """One line per list: here, missing, or not what the manifest says. Repeats no text."""
    lines = []
    for name, entry in manifest().items():
        state = "missing"
        if missing(MARK + name) is None:
            read = _read(_file(name, entry), name, entry)
            whole = (len(read), digest(read["text"].tolist())) == (entry["rows"], entry["sha256"])
            state = "here" if whole else "another content"
        lines.append(f"{state:<16}{name:<32}{entry['rows']:>6} rows  {entry['source']}")
    return "\n".join(lines)


def rows_of(prompts: str) -> int:
    """How many rows the published list has, before the screen."""
    return _entry(_name(prompts))["rows"]


def _name(asked: str) -> str:
    return asked.removeprefix(MARK).removesuffix(DRIFT)


def digest(texts: list[str]) -> str:
    """SHA-256 of the texts, one per line, NFC and stripped: copies differ in spaces and encodings."""
    return hashlib.sha256("\n".join(unicodedata.normalize("NFC", text).strip() for text in texts).encode()).hexdigest()


def hidden(text: str) -> str:
    """What stands in an index in place of a private prompt."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def manifest() -> dict[str, dict]:
    return {name: entry for file in MANIFESTS for name, entry in read_yaml(file).items()}


def _entry(name: str) -> dict:
    if name not in manifest():
        import difflib

        near = ", ".join(difflib.get_close_matches(name, manifest(), 3)) or "none"
        raise ValueError(f"prompts={MARK}{name}: no such list. Near names: {near}. Known: {', '.join(manifest())}.")
    return manifest()[name]


def _file(name: str, entry: dict) -> Path:
    folder = Path(os.environ.get("VESTIGE_PROMPTS", "prompts/lists"))
    file = folder / entry.get("file", f"{name}.csv")
    if not file.exists():
        raise ValueError(
            f"prompts={MARK}{name} needs your own copy at {file} (the folder is VESTIGE_PROMPTS if that is set). It is not shipped. "
            f"Source: {entry['source']}."
        )
    return file


def _read(file: Path, name: str, entry: dict) -> pd.DataFrame:
    """Columns text and row (its place in the file), and seed and expect where the entry names their columns."""
    wanted = entry.get("columns") or [entry["column"]]
    with open(file, newline="", encoding="utf-8-sig", errors="replace") as handle:
        if file.suffix == ".json":
            rows = json.load(handle)
        elif wanted == [None]:
            lines = handle.read().replace("\r\n", "\n").split("\n")  # no other line ends: adversarial texts hold some
            rows = [{None: line} for line in lines if line.strip()]
        else:
            rows = list(csv.DictReader(handle))
    lost = [column for column in wanted if not rows or column not in rows[0]]
    if lost:
        have = ", ".join(map(str, rows[0])) if rows else "no row"
        raise ValueError(f"prompts={MARK}{name}: {file} has no column {lost[0]!r}; it has: {have}. Source: {entry['source']}.")
    if "sample" in entry:  # as pandas draws it
        rows = pd.DataFrame(rows).sample(**entry["sample"]).to_dict("records")
    read = pd.DataFrame([{"text": row[column], "row": k} for k, row in enumerate(rows) for column in wanted])
    for ours, convert in (("seed", int), ("expect", _expected)):
        if entry.get(ours):
            read[ours] = [convert(rows[k][entry[ours]]) for k in read["row"]]
    if "seed_cycle" in entry:
        read["seed"] = read["row"] % entry["seed_cycle"]
    return read


def _expected(value: str | list[str]) -> str:
    """One thing, or several parted by ";", each once."""
    things = [value] if isinstance(value, str) else value
    return ";".join(dict.fromkeys(thing.strip() for thing in things if thing.strip()))
