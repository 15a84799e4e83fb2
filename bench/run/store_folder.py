"""One stage on disk: a folder of files and a `stage.json` that says what it is, what made it, and the hash of every file.

Nothing here looks for a stage or locks one (bench/run/store.py does): this file knows how a folder is sealed, checked and read.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from vestige.bench.contract.types import canonical_hash, plain
from vestige.bench.models.digests import read_digest

SCHEMA = 2
META = "stage.json"


class Damaged(ValueError):
    """A stage is not what was written. The sentence names the stage and what is wrong."""


@dataclass(frozen=True)
class Stage:
    """A finished stage folder. `digest` is the hash of its files, so that changed inputs can be noticed."""

    kind: str
    key: str
    path: Path
    digest: str
    meta: dict = field(repr=False)

    @property
    def reference(self) -> str:
        return f"{self.kind}/{self.path.name}"

    @property
    def stripped(self) -> bool:
        """Some of its files were deleted on purpose."""
        return bool(self.meta["facts"].get("stripped"))


def unchanged(stage: Stage) -> bool:
    """Whether the folder still holds what it held when it was looked up."""
    with suppress(Damaged):
        return meta_of(stage.path) == stage.meta
    return False


def opened(kind: str, folder: Path, spec: dict | None = None, verify: bool = True) -> Stage:
    """A finished stage, everything in it as it was written (verify=False: sizes are not wrong, contents are not read).

    Raises Damaged; ValueError for a stage of another schema.
    """
    try:
        meta = meta_of(folder)
        _check_files(folder, meta, verify)
    except Damaged:  # or replaced by another process between two looks
        meta = meta_of(folder)
        _check_files(folder, meta, verify)
    difference = first_difference(plain(spec), meta["specification"]) if spec is not None else None
    if difference:
        raise Damaged(f"stage {folder} was made for another specification; first difference: {difference}.")
    return Stage(kind, meta["key"], folder, meta["digest"], meta)


def meta_of(folder: Path) -> dict:
    try:
        meta = json.loads((folder / META).read_text())
        schema, seal = meta["schema"], meta.pop("seal", None)
        whole = seal == _seal(meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder} is no finished stage: its {META} is missing or unreadable ({error}).") from error
    if seal is None and isinstance(schema, int) and schema < SCHEMA:
        raise ValueError(_other_schema(folder.parent.parent, schema))
    if not whole:
        raise Damaged(f"stage {folder} has a {META} that was changed after it was written.")
    if schema != SCHEMA:
        raise ValueError(_other_schema(folder.parent.parent, schema))
    return meta


def _check_files(folder: Path, meta: dict, verify: bool) -> None:
    for name, told in meta["files"].items():
        file = folder / name
        try:
            whole = file.stat().st_size == told["bytes"] and (not verify or read_digest(file) == told["sha256"])
        except OSError:
            raise Damaged(f"stage {folder} has lost its file {name}.") from None
        if not whole:
            raise Damaged(f"stage {folder} holds a file that was changed after it was written: {name}.")


def text_of(folder: Path, name: str) -> str:
    """A file of a finished stage, as it was written: Damaged if it is not. What has no stage.json (made by hand) is read as it is.

    Raises FileNotFoundError where there is no such file.
    """
    content = (folder / name).read_bytes()
    if (folder / META).exists():
        told = meta_of(folder)["files"].get(name)
        if told is None or sha256(content).hexdigest() != told["sha256"]:
            raise Damaged(f"stage {folder} holds a file that was changed after it was written: {name}.")
    return content.decode()


def check_schema(root: Path) -> None:
    """One readable stage speaks for its store."""
    for file in root.glob(f"*/*/{META}"):
        with suppress(Damaged):
            meta_of(file.parent)
            return


def check_writable(folder: Path, setting: str) -> None:
    """Raise a ValueError if nothing can be written there. setting: the one that chooses this folder alone."""
    trial = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"x" * 4096)
        trial.unlink()
    except OSError as error:
        raise ValueError(
            f"the results folder {folder} cannot be written ({error}). Choose another place for all results (VESTIGE_RESULTS=/path) "
            f"or for this folder ({setting}=/path)."
        ) from error


def _other_schema(root: Path, schema: Any) -> str:
    return (
        f"the store {root} was written in schema {schema}, and this version of Vestige reads schema {SCHEMA}. Nothing in it was used or "
        "changed. Choose an empty place (runtime.store=/path, --store /path), or read it with the version that wrote it."
    )


def _seal(meta: dict) -> str:
    return sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def sealed(meta: dict) -> str:
    """The text of a stage.json."""
    meta = json.loads(json.dumps(meta))  # as it will be read
    return json.dumps({**meta, "seal": _seal(meta)}, indent=1, sort_keys=True)


def folder_name(spec: dict, words: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in words)[:80]
    return f"{safe}-{canonical_hash(spec)}"


def first_difference(wanted: Any, stored: Any, at: str = "") -> str | None:
    """The first place where two specifications differ, in words; None when they are equal."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for key in sorted({*wanted, *stored}):
            if key not in wanted or key not in stored:
                return f"{at}{key} only in {'the stored' if key in stored else 'the requested'} one"
            inner = first_difference(wanted[key], stored[key], f"{at}{key}.")
            if inner:
                return inner
        return None
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        return next((d for k, (a, b) in enumerate(zip(wanted, stored, strict=True)) if (d := first_difference(a, b, f"{at}{k}."))), None)
    same = wanted == stored and type(wanted) is type(stored)
    return None if same else f"{at.rstrip('.')}: {wanted!r} requested, {stored!r} stored"


def synced_hashes(folder: Path) -> dict[str, dict]:
    """File -> size and SHA-256, for all files of a stage; each is on the disk when this returns."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != META and f.suffix != ".tmp")
    found = {}
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
        found[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": read_digest(file)}
    for inner in {folder, *(file.parent for file in files)}:
        sync_folder(inner)
    return found


def write_synced(file: Path, text: str) -> None:
    with open(file, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(file: Path, text: str) -> None:
    """A small file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    write_synced(temporary, text)
    os.replace(temporary, file)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
