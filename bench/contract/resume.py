"""Loops that another process can continue after a kill: their state is saved from time to time, with the cost so far.

A stage's scratch folder lies in its partial folder, survives a kill, and is gone when the stage is finished (bench/run/store.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARE = 0.05  # of the time, at most, that checkpoints of large models may take


@dataclass
class Progress:
    """The checkpoints of one stage in the making. Without a folder none are written.

    `read` gives counters of this process (calls, seconds). What lies on disk may be older than the kill by `every` seconds.
    """

    folder: Path | None = None
    read: Callable[[], dict[str, float]] = dict
    every: float = 60.0

    def __post_init__(self) -> None:
        self._before = {key: -value for key, value in self.read().items()}  # what to add to the counters
        self._due = time.monotonic() + self.every

    def spent(self) -> dict[str, float]:
        """What the stage has cost up to now, as if nobody had been killed: repeated work counts once."""
        return {key: value + self._before[key] for key, value in self.read().items()}

    def loop(self, name: str, steps: Sequence, history: list[dict], parts: dict[str, Any]) -> Iterator:
        """The steps that are left; before the first of them `parts` and `history` are as the last checkpoint knew them."""
        done = self._restore(name, history, parts)
        for number in range(done, len(steps)):
            yield steps[number]
            if self.folder is not None and time.monotonic() >= self._due:
                self._keep(self.folder, name, number + 1, history, parts)

    def _file(self, folder: Path, name: str) -> Path:
        return folder / f"{name.replace(' ', '_')}.pt"

    def _keep(self, folder: Path, name: str, done: int, history: list[dict], parts: dict[str, Any]) -> None:
        import torch

        begun = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = self._file(folder, name).with_suffix(".tmp")
        with open(temporary, "wb") as handle:
            torch.save({"done": done, "history": history, "spent": self.spent(), "parts": _state(parts)}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, self._file(folder, name))
        now = time.monotonic()
        self._due = now + max(self.every, (now - begun) / SHARE)

    def _restore(self, name: str, history: list[dict], parts: dict[str, Any]) -> int:
        """The number of finished steps."""
        import torch

        if self.folder is None or not self._file(self.folder, name).exists():
            return 0
        kept = torch.load(self._file(self.folder, name), map_location="cpu", weights_only=True)
        history[:] = kept["history"]
        for key, part in parts.items():
            restored = _restored(part, kept["parts"][key])
            if isinstance(part, list):
                part[:] = restored
            elif isinstance(part, dict):
                part.clear()
                part.update(restored)
        # What this process repeated on its way here was paid for by the killed one.
        self._before = {key: kept["spent"][key] - value for key, value in self.read().items()}
        return kept["done"]


def _state(part: Any) -> Any:
    """A part as tensors, numbers and text alone, so that it can be read without running code from the file."""
    import torch

    if isinstance(part, torch.Tensor):
        return part.detach()
    if isinstance(part, torch.Generator):
        return part.get_state()
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if isinstance(part, dict):
        return {key: _state(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_state(value) for value in part]
    return part


def _restored(part: Any, state: Any) -> Any:
    """The part as it was. Tensors of equal shape, generators and modules are written in place, all else is made anew."""
    import torch

    if isinstance(part, torch.Tensor) and part.shape == state.shape:
        with torch.no_grad():
            return part.copy_(state)
    if isinstance(part, torch.Generator):
        return part.set_state(state)
    if hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
        return part
    if isinstance(part, dict):
        return {key: _restored(part[key], value) if key in part else value for key, value in state.items()}
    if isinstance(part, list):
        return [_restored(part[k], value) if k < len(part) else value for k, value in enumerate(state)]
    return state
