"""Published prompt lists, read from the user's own copy: known by their rows and their hash, never shipped.

`prompts: list:<id>` in a probe asks for one; the file lies as <id>.csv in the folder that VESTIGE_PROMPTS names (default
prompts/lists). prompts/lists.yaml holds for each id where it comes from, its columns, its row count and the SHA-256 of its
normalised texts. Another content is refused, or with `list:<id>?allow_drift` used under a name that says so.
"""

from __future__ import annotations

import csv
import hashlib
import os
import unicodedata
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from bench import ROOT, screen
from bench.types import PromptSet

MANIFEST = ROOT / "prompts" / "lists.yaml"
MARK = "list:"
DRIFT = "?allow_drift"


def load(asked: str, rows: int, repeats: int, expect: str) -> PromptSet:
    """The first `rows` rows. Columns besides the usual: seed (of the list, for the first picture; later ones count on) and private.

    Private texts stay out of the store; those of lists that the manifest marks `stored` do not: a CLIP score needs them. The
    guidance that some lists give per row is not used: the protocol's sampler rules. Lists marked explicit pass the screen for
    minors first, whatever the concept.
    """
    name = _name(asked)
    entry, drift = _entry(name), asked.endswith(DRIFT)
    texts, seeds = _read(_file(name, entry), name, entry)
    found = digest(texts)
    if (len(texts), found) != (entry["rows"], entry["sha256"]) and not drift:
        raise ValueError(
            f"prompts={asked!r}: {_file(name, entry)} has {len(texts)} rows with hash {found[:12]}; the list {entry['source']} has "
            f"{entry['rows']} with {entry['sha256'][:12]}. To use it all the same: prompts={MARK}{name}{DRIFT}"
        )
    role = entry.get("role", "target")
    table = [
        {"row_id": f"{name}-{k:05d}", "prompt": text, "role": role, "expect": expect if role == "target" else "", "names": 1}
        | {"group": f"{name}-{k:05d}"}
        | ({"seed": seeds[k]} if seeds else {})
        | ({} if entry.get("stored") else {"private": True})
        for k, text in enumerate(texts)
    ]
    whole = PromptSet(name + (f"-drift-{found[:8]}" if drift else ""), pd.DataFrame(table), repeats)
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
    except ValueError as why_not:
        return str(why_not)
    return None


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
    return OmegaConf.to_container(OmegaConf.load(MANIFEST))


def _entry(name: str) -> dict:
    if name not in manifest():
        import difflib

        near = ", ".join(difflib.get_close_matches(name, manifest(), 3)) or "none"
        raise ValueError(f"prompts={MARK}{name}: no such list. Near names: {near}. Known: {', '.join(manifest())}.")
    return manifest()[name]


def _file(name: str, entry: dict) -> Path:
    folder = Path(os.environ.get("VESTIGE_PROMPTS", ROOT / "prompts" / "lists"))
    file = folder / entry.get("file", f"{name}.csv")
    if not file.exists():
        raise ValueError(
            f"prompts={MARK}{name} needs your own copy at {file} (the folder is VESTIGE_PROMPTS if that is set). It is not shipped. "
            f"Source: {entry['source']}."
        )
    return file


def _read(file: Path, name: str, entry: dict) -> tuple[list[str], list[int] | None]:
    with open(file, newline="", encoding="utf-8-sig", errors="replace") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or entry["column"] not in rows[0]:
        have = ", ".join(rows[0]) if rows else "no row"
        raise ValueError(f"prompts={MARK}{name}: {file} has no column {entry['column']!r}; it has: {have}. Source: {entry['source']}.")
    if "sample" in entry:  # as pandas draws it
        rows = pd.DataFrame(rows).sample(**entry["sample"]).to_dict("records")
    if "seed_cycle" in entry:
        seeds = [k % entry["seed_cycle"] for k in range(len(rows))]
    else:
        seeds = [int(row[entry["seed"]]) for row in rows] if entry.get("seed") else None
    return [row[entry["column"]] for row in rows], seeds
