"""What a step costs: processor and wall seconds without loading, memory above the loaded model, how busy the machine was."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

EVERY = 0.005  # seconds between two looks at the resident size


class Clock:
    """Wall and processor seconds of this process that stand still while something is loaded, or made for all jobs.

    Processor seconds are those of all threads. On a GPU the wall is read when the device has finished, so it is the device's too.
    """

    def __init__(self) -> None:
        self.left_out = {"seconds": 0.0, "cpu_seconds": 0.0}
        self.depth = 0

    def read(self) -> dict[str, float]:
        return {name: value - self.left_out[name] for name, value in _now().items()}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begun = _now()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:  # inside another stop it is left out already
                for name, value in _now().items():
                    self.left_out[name] += value - begun[name]


def _now() -> dict[str, float]:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def load() -> float | None:
    """Programs that wanted a processor in the last minute; above the number of processors, wall seconds say little."""
    with suppress(OSError):
        return os.getloadavg()[0]
    return None


@dataclass
class Peak:
    bytes: int
    kind: str


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """The most memory at one time inside the `with`, above what was in use before it; to be read afterwards."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        peak = Peak(0, "GPU memory above the loaded model")
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    _give_back_free_memory()
    before = _resident()
    peak, done = Peak(0, "resident memory above the loaded model"), threading.Event()

    def look() -> None:
        peak.bytes = max(peak.bytes, _resident() - before)

    def watch() -> None:
        while not done.wait(EVERY):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
        look()
    finally:
        done.set()
        watcher.join()


def _give_back_free_memory() -> None:
    """Else a step that fits into what an earlier one has freed would seem to need nothing."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    """Bytes; 0 where the system does not tell."""
    with suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
