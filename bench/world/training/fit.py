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

from vestige.bench.contract.types import derived_seed
from vestige.bench.world.training.muon import PRECISION, Muon

SAVE_EVERY = 120  # seconds between checkpoints


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: linear warm-up, cosine decay to zero, exponential moving average of the weights.

    AdamW with `lr` for everything, or for vectors only when `matrix_lr` gives the matrices to Muon.
    """

    name: str
    steps: int
    lr: float
    ema: float = 0.999
    weight_decay: float = 0.01
    warmup: int = 100
    seed: int = 0
    matrix_lr: float | None = None

    def share_at(self, step: int) -> float:
        """The part of the full learning rate in force at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    def optimisers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        is_matrix = [p.ndim >= 2 and self.matrix_lr is not None for p in model.parameters()]
        split = [[p for p, matrix in zip(model.parameters(), is_matrix, strict=True) if matrix == wanted] for wanted in (False, True)]
        made: list[torch.optim.Optimizer] = [torch.optim.AdamW(split[0], lr=self.lr, weight_decay=self.weight_decay)]
        if self.matrix_lr is not None and split[1]:
            made.append(Muon(split[1], self.matrix_lr, weight_decay=self.weight_decay))
        return made


def fit(model: nn.Module, loss_at: Callable[[int, torch.Generator], Tensor], schedule: Schedule, folder: Path) -> None:
    """Train `model` in place and leave the averaged weights in it. `loss_at(step, generator)` is one batch's loss."""
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimisers = schedule.optimisers(model)
    full = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    checkpoint = folder / f"{schedule.name}.pt"
    start = _resume(checkpoint, schedule, model, optimisers, average)
    model.train()
    saved_at = begun = time.time()
    recent = 0.0
    for step in range(start, schedule.steps):
        for group, lr in zip([g for optimiser in optimisers for g in optimiser.param_groups], full, strict=True):
            group["lr"] = lr * schedule.share_at(step)
        generator = torch.Generator().manual_seed(derived_seed("world", schedule.seed, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            loss = loss_at(step, generator)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        decay = min(schedule.ema, (1 + step) / (10 + step))
        for name, p in parameters.items():
            average[name].lerp_(p.detach(), 1 - decay)
        recent = loss.item() if step == start else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            each = (time.time() - begun) / (step + 1 - start)
            print(f"{schedule.name} step {step + 1}/{schedule.steps} loss {recent:.5f} {each:.3f} s/step", flush=True)
        if time.time() - saved_at > SAVE_EVERY or step + 1 == schedule.steps:
            _save(checkpoint, schedule, step + 1, model, optimisers, average)
            saved_at = time.time()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(average[name])
    model.eval().requires_grad_(False)


def _save(path: Path, schedule: Schedule, step: int, model: nn.Module, optimisers: list, average: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"schedule": repr(schedule), "step": step, "model": model.state_dict(), "average": average}
    state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _resume(path: Path, schedule: Schedule, model: nn.Module, optimisers: list, average: dict[str, Tensor]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["schedule"] != repr(schedule):
        raise ValueError(f"{path} belongs to another training ({state['schedule']}), not to {schedule!r}. Move it away to start afresh.")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    for name, tensor in state["average"].items():
        average[name].copy_(tensor)
    print(f"{schedule.name}: resumed at step {state['step']}", flush=True)
    return state["step"]
