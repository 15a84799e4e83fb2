"""From noise to latents: the loop over denoiser calls, the guidance rule in force, and the trajectory that latents take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vestige.bench.contract.types import Sampler
from vestige.bench.models.conditioning import Conditioning

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

GuidanceRule = Callable[["Step"], Tensor]


@dataclass(frozen=True)
class Call:
    """One call of the generator, as adapters and hooks see it just before it is made (`Pipe.before_denoiser`)."""

    x: Tensor  # (batch, channels, height, width); of a token model the image tokens so far, (batch, tokens)
    level: Tensor  # what the denoiser is told about the noise, scalar or (batch,); of a token model the number of tokens so far
    cond: Conditioning  # `cond.branches` says which rows are prompts and which the unconditional ones
    step: int | None  # index of the sampling step, 0 for the first; None outside of sampling
    steps: int | None  # how many there are


@dataclass(frozen=True)
class Step:
    """What a guidance rule sees in one sampling step."""

    pipe: Pipe
    x: Tensor  # (batch, channels, height, width), already scaled for the scheduler
    t: Tensor  # the level: what the scheduler calls a timestep, scalar
    index: int  # of the denoiser call, 0 for the noisiest
    total: int  # number of calls
    cond: Conditioning
    null: Conditioning
    scale: float  # guidance scale w
    image_ids: tuple = ()  # one per row: (row_id, repetition), or the seed where no prompt set is drawn; empty outside of sampling
    steps: int | None = None  # asked of the sampler, whose scheduler may call more often (PNDM: once more); None: as many as calls

    def predict(self, conds: Sequence[Conditioning]) -> tuple[Tensor, ...]:
        """The predictions under several conditionings, each of as many rows as `x`, from one call of the generator."""
        n = len(conds)
        # cat, not repeat: it keeps the memory layout, on which rounding depends
        return self.pipe.predict(torch.cat([self.x] * n), self.t, Conditioning.cat(list(conds))).chunk(n)

    def predict_both(self) -> tuple[Tensor, Tensor]:
        """(unconditional, conditional) predictions from one denoiser call of twice the batch."""
        null, cond = self.predict([self.null.serving(self.cond), self.cond])
        return null, cond


def classifier_free() -> GuidanceRule:
    """e_null + w (e_cond - e_null); without guidance (w <= 1) the conditional prediction alone (Ho & Salimans 2022, eq. 6)."""

    def rule(step: Step) -> Tensor:
        if step.scale <= 1:
            return step.pipe.predict(step.x, step.t, step.cond)
        e_null, e_cond = step.predict_both()
        return e_null + step.scale * (e_cond - e_null)

    return rule


class Trajectory:
    """The way of one batch of latents from noise to image. Subclass it to begin elsewhere, to stop early or to step otherwise.

    seeds: one per row. image_ids: which image each row is, (row_id, repetition), without them the seeds: prompts of one set may share
    a seed. `times` are the levels of the denoiser calls; those of `first` to `last - 1` are made.
    """

    def __init__(self, pipe: Pipe, seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> None:
        self.pipe, self.seeds, self.sampler = pipe, seeds, sampler
        self.image_ids = tuple(seeds if image_ids is None else image_ids)
        # Stochastic samplers draw from a per-row generator too, so a row never depends on its batch mates.
        self.generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
        self.times = self.scheduled()
        self.first, self.last = 0, len(self.times)

    def scheduled(self) -> Tensor:
        """The levels of the denoiser calls, noisiest first. A subclass that steps by itself needs no scheduler."""
        self.scheduler = self.pipe.scheduler_for(self.sampler)
        self.pipe.family.set_timesteps(self.scheduler, self.pipe, self.sampler)
        self.extra = {"generator": self.generators} if "generator" in self.scheduler.step.__code__.co_varnames else {}
        return self.scheduler.timesteps

    def start(self) -> Tensor:
        """Latents (n, channels, h, w) before step `first`."""
        return self.noise() * getattr(self.scheduler, "init_noise_sigma", 1.0)  # flows begin with noise itself

    def scaled(self, x: Tensor, index: int) -> Tensor:
        """What the denoiser reads of the latents before step `index`."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        return x if scale is None else scale(x, self.times[index])

    def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
        """Latents after step `index`; e is the guided prediction."""
        return self.scheduler.step(e, self.times[index], x, **self.extra).prev_sample

    def noised(self, x0: Tensor, noise: Tensor, index: int) -> Tensor:
        """Clean latents as they would stand before step `index`: in the scheduler's own scale, which need not be the model's."""
        add_noise = getattr(self.scheduler, "add_noise", None) or self.pipe.process.add_noise  # those of flows have none
        return add_noise(x0, noise, self.times[index].expand(len(x0)))

    def noise(self) -> Tensor:
        """Standard normal latents, from the rows' own seeds."""
        return self.pipe.noise(self.seeds, self.sampler.height, self.sampler.width)


def denoised(pipe: Pipe, cond: Conditioning, seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> Tensor:
    """Latents (n, channels, h, w) for the rows of `cond`, by the guidance rule and on the trajectory in force."""
    trajectory = pipe.trajectory(pipe, seeds, sampler, image_ids)
    x, null, rule = trajectory.start(), pipe.family.unconditional(pipe, cond), pipe.guidance()
    times, asked = trajectory.times, trajectory.sampler
    for index in range(trajectory.first, trajectory.last):
        with pipe.at_step(index, len(times)):
            seen = trajectory.scaled(x, index)
            step = Step(pipe, seen, times[index], index, len(times), cond, null, asked.guidance, trajectory.image_ids, asked.steps)
            x = trajectory.step(rule(step), index, x)
    return x
