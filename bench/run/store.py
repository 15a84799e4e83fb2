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

Long because all ways to change a stage's folder must be read together: that they are few is what keeps it whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vestige.bench.contract.types import canonical_hash, plain
from vestige.bench.models.fingerprints import file_digest
from vestige.bench.run.provenance import provenance

SCHEMA = 2
META = "stage.json"
SCRATCH = "scratch"  # a folder that only an unfinished stage has: what it needs to go on after a kill
DAMAGED, TRASH, PARTIAL = ".damaged", ".trash", ".partial"  # folders beside the stages of a kind
STALE = ("keep", "refuse", "recompute")


class Busy(Exception):
    """Another process holds the stage and this run was told not to wait."""


class Damaged(ValueError):
    """A stage is not what was written. The sentence names the stage and what is wrong."""


class Stale(ValueError):
    """A stage was made by other code and runtime.stale=refuse."""


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

    def check(self) -> None:
        """Raise a ValueError for a place that cannot be written, a missing one to read from, or a store of another schema."""
        split = self.root / f".write-test-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            split.write_bytes(b"x" * 4096)
            split.unlink()
        except OSError as error:
            raise ValueError(f"the results folder {self.root} cannot be written ({error}). Choose another: runtime.store=/path") from error
        for place in self.read_from:
            if not place.is_dir():
                raise ValueError(f"runtime.read_from: there is no folder {place}. Give the folder of a store, or leave it out.")
        for place in self.roots:
            _check_schema(place)

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
        with self._locked(name):
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
            with self._as_reader(stage):
                if _is(stage):
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
        with self._locked(name, wait=True), self._without_readers(name):
            for folder in (stage.path, *stage.path.parent.glob(f"{DAMAGED}/{name}-*")):
                self._strip(folder, pattern)

    def _strip(self, folder: Path, pattern: str) -> None:
        gone = {str(file.relative_to(folder)): file for file in folder.glob(pattern)}
        try:
            meta = _meta(folder)
        except Damaged:  # never read again, so what is left need not fit together
            for file in gone.values():
                file.unlink()
            return
        lean = self._bin(folder.parent.name, folder.name)
        for name in sorted(set(meta["files"]) - set(gone)):
            (lean / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copy2(folder / name, lean / name)
        files = {name: meta["files"][name] for name in _synced_hashes(lean)}
        self._swap(lean, folder, _sealed({**meta, "files": files, "facts": {**meta["facts"], "stripped": pattern}}))

    def remove(self, folder: Path) -> None:
        """Delete a finished stage of this store, by its folder. Raises Busy while another process makes or reads it."""
        with self._locked(folder.name, wait=False), self._without_readers(folder.name, wait=False):
            os.replace(folder, self._bin(folder.parent.name, folder.name))
        self.sweep()

    def sweep(self) -> None:
        """Empty the bins: what was renamed away and, after a kill, not yet deleted."""
        for folder in self.root.glob(f"*/{TRASH}/*/*"):
            with suppress(Busy), self._locked(folder.parent.name, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()

    def stages(self) -> list[dict]:
        """The metadata of every finished stage, with its folder. Damaged ones are left out (see `check_all`)."""
        _check_schema(self.root)
        found = []
        for file in sorted(self.root.glob(f"*/*/{META}")):
            with suppress(Damaged):
                found.append({**_meta(file.parent), "folder": file.parent})
        return found

    def check_all(self, verify: bool = False) -> dict[Path, str]:
        """Folder -> what is wrong with it, for every damaged stage. verify: also read every file, else look at sizes only."""
        wrong = {}
        for folder in sorted(f for f in self.root.glob("*/*") if f.is_dir() and not f.name.startswith(".") and f.parent.name != "locks"):
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
                    if _meta(root / kind / name)["digest"] != digest:
                        return f"it was made from {reference}, which has another result now"
                    break
        return None

    def _partial(self, kind: str, name: str, code: str | None) -> Path:
        """The folder to fill. What a killed process left there is continued, unless other code left it."""
        partial = self.root / kind / PARTIAL / name
        by = self.root / "locks" / f"{name}.code"
        if partial.exists() and (by.read_text() if by.exists() else "None") != str(code):
            shutil.rmtree(partial)
        write_atomically(by, str(code))
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def _commit(self, partial: Path, final: Path, meta: dict) -> None:
        files = _synced_hashes(partial)
        sealed = _sealed({**meta, "files": files, "digest": canonical_hash(files)})
        if final.exists():
            with self._without_readers(final.name):
                self._swap(partial, final, sealed)
        else:
            _write_synced(partial / META, sealed)
            os.replace(partial, final)
            _sync_folder(final.parent)

    def _swap(self, new: Path, final: Path, meta: str) -> None:
        """Put a new folder in the place of a stage; the caller holds its lock and no process reads it."""
        _write_synced(new / META, meta)
        old = self._bin(final.parent.name, final.name)
        os.replace(final, old)
        os.replace(new, final)
        _sync_folder(final.parent)
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

    @contextmanager
    def _locked(self, name: str, wait: bool | None = None) -> Iterator[None]:
        """A kernel lock, freed when its process dies; says once when it has to wait."""
        wait = self.on_busy == "wait" if wait is None else wait
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise Busy(f"{name} is being computed by another process") from None
            print(f"waiting for {name}, held by another process", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _without_readers(self, name: str, wait: bool = True) -> Iterator[None]:
        with _flock(self.root / "locks" / f"{name}.readers", fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextmanager
    def _as_reader(self, stage: Stage) -> Iterator[None]:
        locks = stage.path.parent.parent / "locks"
        try:
            locks.mkdir(exist_ok=True)
            (locks / f"{stage.path.name}.readers").touch()
        except OSError:  # a store that cannot be written is changed by nobody
            yield
            return
        with _flock(locks / f"{stage.path.name}.readers", fcntl.LOCK_SH):
            yield


@contextmanager
def _flock(file: Path, how: int) -> Iterator[None]:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            raise Busy(f"{file.stem} is being read by another process") from None
        yield
    finally:
        os.close(handle)


def _is(stage: Stage) -> bool:
    """Whether the folder still holds what it held when it was looked up."""
    with suppress(Damaged):
        return _meta(stage.path) == stage.meta
    return False


def opened(kind: str, folder: Path, spec: dict | None = None, verify: bool = True) -> Stage:
    """A finished stage, everything in it as it was written (verify=False: sizes are not wrong, contents are not read).

    Raises Damaged; ValueError for a stage of another schema.
    """
    try:
        meta = _meta(folder)
        _check_files(folder, meta, verify)
    except Damaged:  # or replaced by another process between two looks
        meta = _meta(folder)
        _check_files(folder, meta, verify)
    difference = first_difference(plain(spec), meta["specification"]) if spec is not None else None
    if difference:
        raise Damaged(f"stage {folder} was made for another specification; first difference: {difference}.")
    return Stage(kind, meta["key"], folder, meta["digest"], meta)


def _meta(folder: Path) -> dict:
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
            whole = file.stat().st_size == told["bytes"] and (not verify or file_digest(file) == told["sha256"])
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
        told = _meta(folder)["files"].get(name)
        if told is None or sha256(content).hexdigest() != told["sha256"]:
            raise Damaged(f"stage {folder} holds a file that was changed after it was written: {name}.")
    return content.decode()


def _check_schema(root: Path) -> None:
    """One readable stage speaks for its store."""
    for file in root.glob(f"*/*/{META}"):
        with suppress(Damaged):
            _meta(file.parent)
            return


def _other_schema(root: Path, schema: Any) -> str:
    return (
        f"the store {root} was written in schema {schema}, and this version of Vestige reads schema {SCHEMA}. Nothing in it was used or "
        "changed. Choose an empty place (runtime.store=/path, --store /path), or read it with the version that wrote it."
    )


def _seal(meta: dict) -> str:
    return sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sealed(meta: dict) -> str:
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


def _synced_hashes(folder: Path) -> dict[str, dict]:
    """File -> size and SHA-256, for all files of a stage; each is on the disk when this returns."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != META and f.suffix != ".tmp")
    found = {}
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
        found[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": file_digest(file)}
    for inner in {folder, *(file.parent for file in files)}:
        _sync_folder(inner)
    return found


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
