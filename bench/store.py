"""Content-addressed stages: a result is a folder whose name is a function of its full specification.

A stage is written in a partial folder under a lock, its `stage.json` last, then renamed into place. So a final folder is
complete by construction; a killed worker leaves a partial folder that the next owner of the lock continues; two processes
with the same command never compute the same stage twice. Trade-off: a power cut between rename and disk can lose a stage,
never corrupt one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.provenance import provenance
from bench.types import canonical_hash, plain

SCHEMA = 1
META = "stage.json"
SCRATCH = "scratch"  # a folder that only an unfinished stage has: what it needs to go on after a kill


class Busy(Exception):
    """Another process holds the stage and this run was told not to wait."""


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


class Store:
    def __init__(self, root: Path, on_busy: str = "wait", read_from: list[Path] | None = None) -> None:
        if on_busy not in ("wait", "skip"):
            raise ValueError(f"runtime.on_busy={on_busy!r} is not known. Allowed: wait, skip.")
        self.root = root
        self.on_busy = on_busy
        self.read_from = read_from or []
        self.computed: list[str] = []  # references made by this process, in order

    def check_writable(self) -> None:
        probe = self.root / f".write-test-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as error:
            raise ValueError(f"the results folder {self.root} cannot be written ({error}). Choose another: runtime.store=/path") from error

    def find(self, kind: str, spec: dict, words: str) -> Stage | None:
        """The finished stage of this specification, or None. A foreign or damaged folder in its place is an error."""
        name = folder_name(spec, words)
        for root in (self.root, *self.read_from):
            folder = root / kind / name
            if folder.exists():
                return self._open(kind, folder, spec)
        return None

    def stage(self, kind: str, spec: dict, words: str, make: Callable[[Path], dict | None]) -> Stage:
        """Return the stage, making it if needed. `make(folder)` fills the folder and may return extra facts to keep.

        Files that `make` finds in the folder are what a killed predecessor had finished; what it leaves in SCRATCH is deleted.
        """
        found = self.find(kind, spec, words)
        if found:
            return found
        name = folder_name(spec, words)
        with self._locked(name):
            found = self.find(kind, spec, words)
            if found:
                return found
            partial = self.root / kind / ".partial" / name
            partial.mkdir(parents=True, exist_ok=True)
            begun = time.time()
            extra = make(partial) or {}
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            files = _file_hashes(partial)
            meta = {
                "schema": SCHEMA,
                "kind": kind,
                "key": canonical_hash(spec),
                "specification": plain(spec),
                "digest": canonical_hash(files),
                "files": files,
                "seconds": time.time() - begun,
                "facts": plain(extra),
                "provenance": provenance(),
            }
            _write_synced(partial / META, json.dumps(meta, indent=1, sort_keys=True))
            os.replace(partial, self.root / kind / name)
            _sync_folder(self.root / kind)
            self.computed.append(f"{kind}/{name}")
            return self._open(kind, self.root / kind / name, spec)

    def _open(self, kind: str, folder: Path, spec: dict) -> Stage:
        try:
            meta = json.loads((folder / META).read_text())
            stored, key, digest = meta["specification"], meta["key"], meta["digest"]
            missing = [name for name in meta["files"] if not (folder / name).exists()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder} is not a finished stage of this store (its {META} is missing or unreadable: {error}). It was not "
                "used and not deleted: move it away and run again."
            ) from error
        if missing:
            raise ValueError(f"stage {folder} has lost files, first {missing[0]}. It was not used: move it away and run again.")
        difference = first_difference(plain(spec), stored)
        if difference:
            raise ValueError(f"stage {folder} was made for another specification; first difference: {difference}. It was not used.")
        return Stage(kind, key, folder, digest, meta)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """A kernel lock, freed when its process dies; says once when it has to wait."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if self.on_busy == "skip":
                raise Busy(f"{name} is being computed by another process") from None
            print(f"waiting for {name}, held by another process", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def stages(self) -> list[dict]:
        """The metadata of every finished stage, with its folder."""
        found = []
        for file in sorted(self.root.glob(f"*/*/{META}")):
            found.append({**json.loads(file.read_text()), "folder": file.parent})
        return found

    def partials(self) -> list[Path]:
        return sorted(self.root.glob("*/.partial/*"))

    def strip(self, stage: Stage, pattern: str) -> None:
        """Delete files of a finished stage that must not stay; `facts.stripped` says so, the digest remains that of the whole."""
        for file in stage.path.glob(pattern):
            file.unlink()
        files = {name: digest for name, digest in stage.meta["files"].items() if (stage.path / name).exists()}
        meta = {**stage.meta, "files": files, "facts": {**stage.meta["facts"], "stripped": pattern}}
        write_atomically(stage.path / META, json.dumps(meta, indent=1, sort_keys=True))

    def remove(self, folder: Path) -> None:
        """Delete one stage or partial folder (`vestige gc --delete`, and pictures that are needed again after they were stripped)."""
        shutil.rmtree(folder)


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


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != META and f.suffix != ".tmp")
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _write_synced(file: Path, text: str) -> None:
    with open(file, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomically(file: Path, text: str) -> None:
    """A small file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    _write_synced(temporary, text)
    os.replace(temporary, file)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
