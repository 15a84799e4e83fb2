"""One resumable training loop for every model of the emoji world.

Each step draws all its randomness from a generator seeded by (seed, step), never by name: a killed run that resumes from its
checkpoint ends with the same weights as one that was never killed, and a retrained oracle sees the same schedule.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.types import derived_seed

SAVE_EVERY = 120  # seconds between checkpoints


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: AdamW, linear warm-up, cosine decay to zero, exponential moving average of the weights."""

    name: str
    steps: int
    lr: float
    ema: float = 0.999
    weight_decay: float = 0.01
    warmup: int = 100
    seed: int = 0

    def lr_at(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


def fit(model: nn.Module, loss_at: Callable[[int, torch.Generator], Tensor], schedule: Schedule, folder: Path) -> None:
    """Train `model` in place and leave the averaged weights in it. `loss_at(step, generator)` is one batch's loss."""
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    checkpoint = folder / f"{schedule.name}.pt"
    start = _resume(checkpoint, schedule, model, optimiser, average)
    model.train()
    saved_at = begun = time.time()
    recent = 0.0
    for step in range(start, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr_at(step)
        generator = torch.Generator().manual_seed(derived_seed("world", schedule.seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_at(step, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(schedule.ema, (1 + step) / (10 + step))
        for name, p in parameters.items():
            average[name].lerp_(p.detach(), 1 - decay)
        recent = loss.item() if step == start else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            each = (time.time() - begun) / (step + 1 - start)
            print(f"{schedule.name} step {step + 1}/{schedule.steps} loss {recent:.5f} {each:.3f} s/step", flush=True)
        if time.time() - saved_at > SAVE_EVERY or step + 1 == schedule.steps:
            _save(checkpoint, schedule, step + 1, model, optimiser, average)
            saved_at = time.time()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(average[name])
    model.eval().requires_grad_(False)


def _save(path: Path, schedule: Schedule, step: int, model: nn.Module, optimiser, average: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"schedule": repr(schedule), "step": step, "model": model.state_dict(), "average": average}
    state["optimiser"] = optimiser.state_dict()
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _resume(path: Path, schedule: Schedule, model: nn.Module, optimiser, average: dict[str, Tensor]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["schedule"] != repr(schedule):
        raise ValueError(
            f"{path} belongs to another training ({state['schedule']}), not to {schedule!r}. Move it away to start afresh."
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    for name, tensor in state["average"].items():
        average[name].copy_(tensor)
    print(f"{schedule.name}: resumed at step {state['step']}", flush=True)
    return state["step"]
