"""What a model's weights are, by content: so retrained weights under an old path are never mistaken for the old ones."""

import hashlib
import time
from pathlib import Path

from bench.model import folder_of
from bench.types import ModelSpec, canonical_hash


def weights_digest(spec: ModelSpec) -> str | None:
    """Hash over all files of a local model folder; None for hub models, which their revision identifies."""
    folder = folder_of(spec)
    return None if folder is None else folder_digest(folder)


def given(**places: str | None) -> dict[str, str]:
    """Name -> SHA-256 of what lies there, for a stage's key: a changed file under an old path is another input.

    Only of files and folders of the user's own: a hub id, the name of published weights or null has no entry.
    """
    found = {name: Path(place).expanduser() for name, place in places.items() if place}
    return {name: folder_digest(p) if p.is_dir() else file_digest(p) for name, p in found.items() if p.exists()}


def folder_digest(folder: Path) -> str:
    return canonical_hash({str(f.relative_to(folder)): file_digest(f) for f in sorted(folder.rglob("*")) if f.is_file()})


def file_digest(file: Path) -> str:
    """SHA-256; read once per process, and again when size, times or inode differ.

    A file written in the last moments is not remembered: clocks of file systems tick slowly, and it may change within one tick.
    """
    facts = file.stat()
    mark = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    known = _KNOWN.get(file)
    if known is not None and known[0] == mark:
        return known[1]
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - max(mark[1:3]) > TICK:
        _KNOWN[file] = (mark, digest)
    return digest


TICK = 100_000_000  # nanoseconds
_KNOWN: dict[Path, tuple[tuple[int, ...], str]] = {}
