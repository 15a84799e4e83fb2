"""Content-addressed stages: a result is a folder whose name is a function of its full specification.

A stage is written in a partial folder under a lock, its `stage.json` last, every file synced, then renamed into place. So a
final folder is complete by construction; a killed worker leaves a partial folder that the next owner of the lock continues;
two processes with the same command never compute the same stage twice. A final folder changes only under its lock and only
by renaming it away, and a reader may hold it still (`reading`).

Nothing wrong is read: `stage.json` carries a seal over itself and the SHA-256 of every file. Each file is hashed once per
process, and again when its size, times or inode change (bench/models/fingerprints.py). A damaged stage is named, moved to
`<kind>/.damaged/` and made again. Trade-off: a power cut can lose a stage, never corrupt one unnoticed.

What made a stage beside its specification (code, the results it was made from) stands in `stage.json`, not in its name:
`stale` says what happens to a stage made by other code.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vestige.bench.contract.types import canonical_hash, plain
from vestige.bench.run.provenance import provenance
from vestige.bench.run.store_folder import (
    META,
    SCHEMA,
    Damaged,
    Stage,
    check_schema,
    check_writable,
    folder_name,
    meta_of,
    opened,
    sealed,
    sync_folder,
    synced_hashes,
    unchanged,
    write_atomically,
    write_synced,
)
from vestige.bench.run.store_locks import LOCKS, Busy, as_reader, locked, without_readers

SCRATCH = "scratch"  # a folder that only an unfinished stage has: what it needs to go on after a kill
DAMAGED, TRASH, PARTIAL = ".damaged", ".trash", ".partial"  # folders beside the stages of a kind
STALE = ("keep", "refuse", "recompute")


class Stale(ValueError):
    """A stage was made by other code and runtime.stale=refuse."""


@dataclass
class _Making:
    """A stage in the making: what it was made from (reference -> digest), and what must stay until it is finished."""

    held: ExitStack
    inputs: dict[str, str] = field(default_factory=dict)


class Store:
    """Finished stages are looked for in `root`, then in `read_from`; stages are made, stripped and removed in `root` alone.

    on_busy: wait for another process that makes the same stage, or skip (Busy). stale: what to do with a stage that was made by
    other code or from results that have changed since: keep (its reason is then in `kept`), refuse (Stale), recompute.
    """

    verify = True  # False: `find` looks at sizes only, for a survey that reads no result

    def __init__(self, root: Path, on_busy: str = "wait", read_from: Iterable[Path] = (), stale: str = "keep") -> None:
        if on_busy not in ("wait", "skip"):
            raise ValueError(f"runtime.on_busy={on_busy!r} is not known. Allowed: wait, skip.")
        if stale not in STALE:
            raise ValueError(f"runtime.stale={stale!r} is not known. Allowed: {', '.join(STALE)}.")
        self.root = root
        self.on_busy = on_busy
        self.read_from = list(read_from)
        self.stale = stale
        self.computed: list[str] = []  # references made by this process, in order
        self.kept: dict[str, str] = {}  # stale stages that were used: reference -> why they are stale
        self.damaged: dict[str, str] = {}  # reference -> what is wrong
        self._making: list[_Making] = []  # the stage in the making, and those that asked for it

    @property
    def roots(self) -> list[Path]:
        return [self.root, *self.read_from]

    def check(self, writes: bool = True) -> None:
        """Raise a ValueError for a place that cannot be written, a missing one to read from, or a store of another schema."""
        if writes:
            check_writable(self.root, "runtime.store")
        for place in self.read_from:
            if not place.is_dir():
                raise ValueError(f"runtime.read_from: there is no folder {place}. Give the folder of a store, or leave it out.")
        for place in self.roots:
            check_schema(place)

    def find(
        self, kind: str, spec: dict, words: str, code: str | None = None, usable: Callable[[Stage], bool] = lambda stage: True
    ) -> Stage | None:
        """The finished stage of this specification, or None if it has to be made: it is absent, damaged, not `usable`, or stale
        where stale stages are recomputed."""
        for root in self.roots:
            folder = root / kind / folder_name(spec, words)
            if not folder.exists():
                continue
            try:
                stage = opened(kind, folder, spec, self.verify)
            except Damaged as why:
                self.damaged[f"{kind}/{folder.name}"] = str(why)
                continue
            if not usable(stage):
                continue
            why_stale = self._outdated(stage, code)
            if why_stale and self.stale == "refuse":
                raise Stale(
                    f"{stage.path} is stale: {why_stale}. It was not used (runtime.stale=refuse). To make it again: "
                    "runtime.stale=recompute; to use it nevertheless: runtime.stale=keep."
                )
            if why_stale and self.stale == "recompute":
                continue
            if why_stale:
                self.kept[stage.reference] = why_stale
            return self._noted(stage)
        return None

    def stage(
        self,
        kind: str,
        spec: dict,
        words: str,
        make: Callable[[Path], dict | None],
        code: str | None = None,
        usable: Callable[[Stage], bool] = lambda stage: True,
    ) -> Stage:
        """Return the stage, making it if needed. `make(folder)` fills the folder and may return extra facts to keep.

        Files that `make` finds in the folder are what a killed predecessor had finished; what it leaves in SCRATCH is deleted.
        code: digest of the code that makes it (bench/run/code.py), kept in `stage.json`.
        """
        found = self.find(kind, spec, words, code, usable)
        if found:
            return found
        name = folder_name(spec, words)
        with locked(self.root, name, wait=self.on_busy == "wait"):
            self._set_damaged_aside(kind, name, spec)
            found = self.find(kind, spec, words, code, usable)
            if found:
                return found
            partial = self._partial(kind, name, code)
            begun = time.time()
            with self._noting() as making:
                extra = make(partial) or {}
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            meta = {
                "schema": SCHEMA,
                "kind": kind,
                "key": canonical_hash(spec),
                "specification": plain(spec),
                "code": code,
                "inputs": making.inputs,
                "seconds": time.time() - begun,
                "facts": plain(extra),
                "provenance": provenance(),
            }
            self._commit(partial, self.root / kind / name, meta)
            self.computed.append(f"{kind}/{name}")
            return self._noted(opened(kind, self.root / kind / name, spec))

    def open(self, reference: str) -> Stage | None:
        """A stage by its reference ("images/original-..."), its files verified; None if no store of this run has it whole."""
        kind, _, name = reference.partition("/")
        for root in self.roots:
            if (root / kind / name).exists():
                try:
                    return opened(kind, root / kind / name)
                except Damaged as why:
                    self.damaged[reference] = str(why)
        return None

    @contextmanager
    def reading(self, look: Stage | Callable[[], Stage]) -> Iterator[Stage]:
        """Inside the `with` no process removes, strips or replaces the stage; what is being made notes that it was made from it.

        look: the stage, or a function that looks it up (or makes it) and is asked again if another process was faster.
        """
        for _ in range(3):
            stage = look() if callable(look) else opened(look.kind, look.path)
            with as_reader(stage.path):
                if unchanged(stage):
                    yield self._noted(stage)
                    return
        raise Damaged(f"stage {stage.path} was changed by other processes again and again while it was to be read. Run again.")

    def held(self, look: Callable[[], Stage]) -> Stage:
        """As `reading`, until the stage that is being made is finished."""
        return self._making[-1].held.enter_context(self.reading(look)) if self._making else look()

    def strip(self, stage: Stage, pattern: str) -> None:
        """Delete files of a finished stage that must not stay; `facts.stripped` says so, the digest remains that of the whole.

        Waits for processes that read it. A stage of another store is left alone.
        """
        if not stage.path.is_relative_to(self.root):
            return
        name = stage.path.name
        with locked(self.root, name, wait=True), without_readers(self.root, name):
            for folder in (stage.path, *stage.path.parent.glob(f"{DAMAGED}/{name}-*")):
                self._strip(folder, pattern)

    def _strip(self, folder: Path, pattern: str) -> None:
        gone = {str(file.relative_to(folder)): file for file in folder.glob(pattern)}
        try:
            meta = meta_of(folder)
        except Damaged:  # never read again, so what is left need not fit together
            for file in gone.values():
                file.unlink()
            return
        lean = self._bin(folder.parent.name, folder.name)
        for name in sorted(set(meta["files"]) - set(gone)):
            (lean / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copy2(folder / name, lean / name)
        files = {name: meta["files"][name] for name in synced_hashes(lean)}
        self._swap(lean, folder, sealed({**meta, "files": files, "facts": {**meta["facts"], "stripped": pattern}}))

    def remove(self, folder: Path) -> None:
        """Delete a finished stage of this store, by its folder. Raises Busy while another process makes or reads it."""
        with locked(self.root, folder.name, wait=False), without_readers(self.root, folder.name, wait=False):
            os.replace(folder, self._bin(folder.parent.name, folder.name))
        self.sweep()

    def sweep(self) -> None:
        """Empty the bins: what was renamed away and, after a kill, not yet deleted."""
        for folder in self.root.glob(f"*/{TRASH}/*/*"):
            with suppress(Busy), locked(self.root, folder.parent.name, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()

    def stages(self) -> list[dict]:
        """The metadata of every finished stage, with its folder. Damaged ones are left out (see `check_all`)."""
        check_schema(self.root)
        found = []
        for file in sorted(self.root.glob(f"*/*/{META}")):
            with suppress(Damaged):
                found.append({**meta_of(file.parent), "folder": file.parent})
        return found

    def check_all(self, verify: bool = False) -> dict[Path, str]:
        """Folder -> what is wrong with it, for every damaged stage. verify: also read every file, else look at sizes only."""
        wrong = {}
        for folder in sorted(f for f in self.root.glob("*/*") if f.is_dir() and not f.name.startswith(".") and f.parent.name != LOCKS):
            try:
                opened(folder.parent.name, folder, verify=verify)
            except Damaged as why:
                wrong[folder] = str(why)
        return wrong

    def partials(self) -> list[Path]:
        return sorted(self.root.glob(f"*/{PARTIAL}/*"))

    def set_aside(self) -> list[Path]:
        """Damaged stages that were moved out of the way."""
        return sorted(self.root.glob(f"*/{DAMAGED}/*"))

    # Pieces

    def _noted(self, stage: Stage) -> Stage:
        for making in self._making:
            making.inputs[stage.reference] = stage.digest
        return stage

    @contextmanager
    def _noting(self) -> Iterator[_Making]:
        with ExitStack() as held:
            self._making.append(_Making(held))
            try:
                yield self._making[-1]
            finally:
                self._making.pop()

    def _outdated(self, stage: Stage, code: str | None) -> str | None:
        """Why the stage may be another one than would be made now, or None."""
        if code is not None and stage.meta["code"] != code:
            return "the code that makes it has changed since"
        for reference, digest in stage.meta["inputs"].items():
            kind, _, name = reference.partition("/")
            for root in self.roots:
                with suppress(Damaged):
                    if meta_of(root / kind / name)["digest"] != digest:
                        return f"it was made from {reference}, which has another result now"
                    break
        return None

    def _partial(self, kind: str, name: str, code: str | None) -> Path:
        """The folder to fill. What a killed process left there is continued, unless other code left it."""
        partial = self.root / kind / PARTIAL / name
        by = self.root / LOCKS / f"{name}.code"
        if partial.exists() and (by.read_text() if by.exists() else "None") != str(code):
            shutil.rmtree(partial)
        write_atomically(by, str(code))
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def _commit(self, partial: Path, final: Path, meta: dict) -> None:
        files = synced_hashes(partial)
        text = sealed({**meta, "files": files, "digest": canonical_hash(files)})
        if final.exists():
            with without_readers(self.root, final.name):
                self._swap(partial, final, text)
        else:
            write_synced(partial / META, text)
            os.replace(partial, final)
            sync_folder(final.parent)

    def _swap(self, new: Path, final: Path, meta: str) -> None:
        """Put a new folder in the place of a stage; the caller holds its lock and no process reads it."""
        write_synced(new / META, meta)
        old = self._bin(final.parent.name, final.name)
        os.replace(final, old)
        os.replace(new, final)
        sync_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _bin(self, kind: str, name: str) -> Path:
        """A new empty folder that `sweep` would delete."""
        folder = self.root / kind / TRASH / name / str(time.time_ns())
        folder.mkdir(parents=True)
        return folder

    def _set_damaged_aside(self, kind: str, name: str, spec: dict) -> None:
        folder = self.root / kind / name
        if not folder.exists():
            return
        try:
            opened(kind, folder, spec)
        except Damaged as why:
            aside = self.root / kind / DAMAGED / f"{name}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            os.replace(folder, aside)
            print(f"damaged: {why} It was moved to {aside} and is made again.", file=sys.stderr, flush=True)
