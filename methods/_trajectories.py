"""Latents on the way from noise to image: what erasers train on that want the model's own sampling runs."""

import torch
from torch import Tensor, nn

from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import guided
from vestige.bench.models.pipe import Pipe

CHUNK = 16  # sampling runs side by side


@torch.no_grad()
def latents_of(
    pipe: Pipe, module: nn.Module, cond: Conditioning, run: Tensor, done: Tensor, steps: int, guidance: float, generator: torch.Generator
) -> Tensor:
    """[visits, c, h, w] on the CPU: for each visit the latent of sampling run `run` (a row of cond) after `done` deterministic steps.

    The grid has no offset: the last call's level is 0. Every row is one run from its own noise; only visited latents are kept, and
    no run goes further than its last visit asks.
    """
    levels = pipe.process.grid(steps, offset=0)
    shape = (len(cond), pipe.family.latent_channels(pipe), *pipe.family.native_size(pipe))
    noise = torch.randn(shape, generator=generator)
    latents = torch.empty(len(run), *noise.shape[1:])
    for rows in torch.arange(len(cond)).split(CHUNK):
        x, c, null = noise[rows].to(pipe.device, pipe.dtype), cond.rows(rows), pipe.null(len(rows))
        mine = torch.isin(run, rows)
        for k in range(int(done[mine].max()) + 1 if mine.any() else 0):
            now = mine & (done == k)
            latents[now] = x[(run[now] - rows[0]).to(x.device)].float().cpu()
            if k < steps:
                x = pipe.process.step(guided(pipe, x, levels[k], c, null, guidance, module), x, levels[k], levels[k + 1])
    return latents
