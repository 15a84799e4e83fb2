"""Latents on the way from noise to image: what erasers train on that want the model's own sampling runs."""

import torch
from torch import Tensor, nn

from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import guided
from vestige.bench.models.pipe import Pipe

CHUNK = 16  # sampling runs side by side


def ddim(pipe: Pipe, steps: int):
    """DDIM on the grid without offset, whose last timestep is 0."""
    from diffusers import DDIMScheduler

    how = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 0}
    scheduler = DDIMScheduler.from_config(dict(pipe.scheduler.config), **how)
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def latents_of(
    pipe: Pipe, module: nn.Module, cond: Conditioning, run: Tensor, done: Tensor, steps: int, guidance: float, generator: torch.Generator
) -> Tensor:
    """[visits, c, h, w] on the CPU: for each visit the latent of sampling run `run` (a row of cond) after `done` DDIM steps.

    Every row is one run from its own noise; only visited latents are kept, and no run goes further than its last visit asks.
    """
    side, scheduler = pipe.denoiser.config.sample_size, ddim(pipe, steps)
    noise = torch.randn((len(cond), pipe.denoiser.config.in_channels, side, side), generator=generator)
    latents = torch.empty(len(run), *noise.shape[1:])
    for rows in torch.arange(len(cond)).split(CHUNK):
        x, c, null = noise[rows].to(pipe.device, pipe.dtype), cond.rows(rows), pipe.null(len(rows))
        mine = torch.isin(run, rows)
        for k in range(int(done[mine].max()) + 1 if mine.any() else 0):
            now = mine & (done == k)
            latents[now] = x[(run[now] - rows[0]).to(x.device)].float().cpu()
            if k < steps:
                t = scheduler.timesteps[k]
                x = scheduler.step(guided(pipe, x, t, c, null, guidance, module), t, x, eta=0.0).prev_sample
    return latents
