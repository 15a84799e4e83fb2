"""DDIM as attacks need it: one step with mean and deviation apart, inversion through the defended model, and given start latents.

Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), eqs. 12 and 16. The grid is that of the editing papers
(scaled linear, leading, offset 1, last alpha that of training step 0), on which inversion and sampling match step by step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vestige.bench.contract.types import Sampler
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step, Trajectory

GRID = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 1}


def ddim_sampler(sampler: Sampler, steps: int, guidance: float) -> Sampler:
    """The protocol's image size with a deterministic DDIM of our own."""
    return replace(sampler, scheduler="DDIMScheduler", arguments=GRID, steps=steps, guidance=guidance)


def clean_and_noise(scheduler, out: Tensor, alpha: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(x_0, epsilon) as the denoiser's output implies them at noise level alpha = alpha_bar_t."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (x - (1 - alpha).sqrt() * out) / alpha.sqrt(), out
    if kind == "v_prediction":
        return alpha.sqrt() * x - (1 - alpha).sqrt() * out, alpha.sqrt() * out + (1 - alpha).sqrt() * x
    raise ValueError(f"prediction type {kind!r} is not supported; known: epsilon, v_prediction.")


def ddim_step(scheduler, out: Tensor, t: Tensor, x: Tensor, eta: float | Tensor) -> tuple[Tensor, Tensor]:
    """(mean, sigma) of x_{t-1}; eta a number or (batch, 1, 1, 1).

    The square root takes the absolute value: it is negative for eta > 1, where stock schedulers return NaN.
    """
    before = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha = scheduler.alphas_cumprod[int(t)].to(x)
    alpha_before = (scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod).to(x)
    x_0, noise = clean_and_noise(scheduler, out, alpha, x)
    sigma = eta * ((1 - alpha_before) / (1 - alpha) * (1 - alpha / alpha_before)).clamp(min=0).sqrt()
    return alpha_before.sqrt() * x_0 + (1 - alpha_before - sigma**2).abs().sqrt() * noise, sigma


@torch.no_grad()
def inverted(pipe: Pipe, x_0: Tensor, cond: Conditioning, sampler: Sampler) -> list[Tensor]:
    """Latents from x_0 to x_T, steps + 1 of them, by DDIM inversion under the guidance rule in force.

    Entry k stands where sampling begins with step `steps - k`. A prediction is made at the noisier of the two levels.
    """
    from diffusers import DDIMInverseScheduler

    forward = pipe.scheduler_for(sampler)
    scheduler = DDIMInverseScheduler.from_config(forward.config)
    scheduler.set_timesteps(sampler.steps, device=pipe.device)
    rule, null, trajectory = pipe.guidance(), pipe.null(len(x_0)), [x_0]
    for k, t in enumerate(scheduler.timesteps):
        step = Step(pipe, trajectory[-1], t, sampler.steps - 1 - k, sampler.steps, cond, null, sampler.guidance)
        trajectory.append(scheduler.step(rule(step), int(t), trajectory[-1]).prev_sample)
    return trajectory


def from_latents(latents: Callable[[tuple], Tensor], sampler: Sampler, first: int = 0) -> Callable[..., Trajectory]:
    """A course that begins before step `first` with latents(image_ids), which are at that step's noise level already."""

    class FromLatents(Trajectory):
        def __init__(self, pipe: Pipe, seeds: list[int], _: Sampler, image_ids: Sequence | None = None) -> None:
            super().__init__(pipe, seeds, sampler, image_ids)
            self.first = first

        def start(self) -> Tensor:
            return latents(self.image_ids).to(self.pipe.device, self.pipe.dtype)

    return FromLatents
