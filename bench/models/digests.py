"""SHA-256 of files, computed once: remembered in this process, and for large files across processes."""

import contextlib
import hashlib
import json
import re
import time
import uuid
from pathlib import Path

from vestige.bench.places import cache

TICK = 100_000_000  # nanoseconds; a file written in the last moments is not remembered: clocks of file systems tick slowly
LARGE = 8 * 2**20  # bytes; smaller files are read as fast as a note about them
_READ: dict[Path, tuple[list[int], str]] = {}


def file_digest(file: Path) -> str:
    """Of a file that an earlier process may have read: weights are gigabytes and hardly ever change. Read again when size, times or
    inode differ. Not for a check that stored bytes are still intact: see `read_digest`.
    """
    mark = _mark(file)
    if mark[0] < LARGE or _was_read(file, mark):
        return read_digest(file)
    digest = _noted(file, mark)
    if digest is None:
        digest = read_digest(file)
        if _was_read(file, mark):
            _note(file, mark, digest)
    return digest


def read_digest(file: Path) -> str:
    """Read once per process, and again when size, times or inode differ."""
    mark = _mark(file)
    if _was_read(file, mark):
        return _READ[file][1]
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settled = time.time_ns() - max(mark[1:3]) > TICK
    if settled and _mark(file) == mark:
        _READ[file] = (mark, digest)
    return digest


def _was_read(file: Path, mark: list[int]) -> bool:
    return file in _READ and _READ[file][0] == mark


def _mark(file: Path) -> list[int]:
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _place(file: Path) -> Path:
    """One small file for each large one, so that processes that hash different files never write the same note."""
    return cache() / "digests" / f"{hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:32]}.json"


def _noted(file: Path, mark: list[int]) -> str | None:
    """None also where a note is damaged: then the file is read again."""
    try:
        content = json.loads(_place(file).read_bytes())
        digest = content["sha256"] if content["mark"] == mark else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # RuntimeError: this user has no home
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None


def _note(file: Path, mark: list[int], digest: str) -> None:
    """Whole or not at all. Where nothing can be written, the file is read again next time."""
    with contextlib.suppress(OSError, RuntimeError):
        place = _place(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{uuid.uuid4().hex[:8]}.draft")
        try:
            draft.write_text(json.dumps({"file": str(file.absolute()), "mark": mark, "sha256": digest}))
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
