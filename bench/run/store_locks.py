"""Who may use a stage now: one process makes or changes it, any number read it. Kernel locks, freed when their process dies."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS = "locks"  # the folder of a store that holds them


class Busy(Exception):
    """Another process holds the stage and this run was told not to wait."""


@contextmanager
def locked(root: Path, name: str, wait: bool) -> Iterator[None]:
    """Inside the `with` no other process makes, strips or removes the stage; says once when it has to wait."""
    locks = root / LOCKS
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
def without_readers(root: Path, name: str, wait: bool = True) -> Iterator[None]:
    """Inside the `with` no process reads the stage."""
    with _flock(root / LOCKS / f"{name}.readers", fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def as_reader(folder: Path) -> Iterator[None]:
    """Inside the `with` no process changes the stage in this folder."""
    file = folder.parent.parent / LOCKS / f"{folder.name}.readers"
    try:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    except OSError:  # a store that cannot be written is changed by nobody
        yield
        return
    with _flock(file, fcntl.LOCK_SH):
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
