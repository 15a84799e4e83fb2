"""DDIM as attacks need it: sampling from given latents, inversion through the defended model, and steps with noise of their own.

Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), eqs. 12 and 16, written in the levels of the model's noise process: on
a flow the step without noise is Euler's. Inversion and sampling share one grid, on which they match step by step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from vestige.bench.contract.types import Sampler
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.process import NoiseProcess
from vestige.bench.models.sampling import Step, Trajectory


class OnGrid(Trajectory):
    """Deterministic steps on the grid of the model's own noise process, whatever scheduler the protocol samples with."""

    def scheduled(self) -> Tensor:
        self.levels = self.pipe.process.grid(self.sampler.steps).to(self.pipe.device)
        return self.levels[:-1]

    def start(self) -> Tensor:
        return self.noise()

    def scaled(self, x: Tensor, index: int) -> Tensor:
        return x

    def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
        return self.pipe.process.step(e, x, self.levels[index], self.levels[index + 1])


def asked_for(sampler: Sampler, steps: int, guidance: float | None) -> Sampler:
    """The protocol's sampler with other numbers; guidance None: the protocol's."""
    return replace(sampler, steps=steps, guidance=sampler.guidance if guidance is None else guidance)


def noisy_step(process: NoiseProcess, out: Tensor, x: Tensor, level: Tensor, to: Tensor, eta: float | Tensor) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of x at the cleaner level `to`; eta a number or (batch, 1, 1, 1).

    The square root takes the absolute value: it is negative for eta > 1, where stock schedulers return NaN.
    """
    # Squares of what was rounded twice over would not be the numbers that the process has: hence double precision
    a, s, a_to, s_to = ((scale**2).to(x.dtype) for at in (level, to) for scale in process.scales(at, x.double()))
    deviation = eta * (s_to / s * (a + s - a / a_to * (a_to + s_to))).clamp(min=0).sqrt()  # a + s is 1 where variance is preserved
    x_0, noise = process.clean_and_noise(out, x, level)
    return a_to.sqrt() * x_0 + (s_to - deviation**2).abs().sqrt() * noise, deviation


@torch.no_grad()
def inverted(pipe: Pipe, x_0: Tensor, cond: Conditioning, sampler: Sampler) -> list[Tensor]:
    """Latents from x_0 to x_T, steps + 1 of them, by DDIM inversion under the guidance rule in force.

    Entry k stands where sampling begins with step `steps - k`. A prediction is made at the noisier of the two levels.
    """
    rule, null, path = pipe.guidance(), pipe.null(len(x_0)), [x_0]
    levels = pipe.process.grid(sampler.steps).to(pipe.device).flip(0)
    for k, (level, to) in enumerate(pairwise(levels)):
        index = sampler.steps - 1 - k
        with pipe.at_step(index, sampler.steps):
            out = rule(Step(pipe, path[-1], to, index, sampler.steps, cond, null, sampler.guidance))
        path.append(pipe.process.step(out, path[-1], level, to))
    return path


def from_latents(latents: Callable[[tuple], Tensor], sampler: Sampler, first: int = 0) -> Callable[..., Trajectory]:
    """A trajectory that begins before step `first` with latents(image_ids), which are at that step's noise level already."""

    class FromLatents(OnGrid):
        def __init__(self, pipe: Pipe, seeds: list[int], _: Sampler, image_ids: Sequence | None = None) -> None:
            super().__init__(pipe, seeds, sampler, image_ids)
            self.first = first

        def start(self) -> Tensor:
            return latents(self.image_ids).to(self.pipe.device, self.pipe.dtype)

    return FromLatents
