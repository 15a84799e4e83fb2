"""Tensor functions that many methods and attacks share. Tensors in, tensors out."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vestige.bench.models.text import Conditioning

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

ALIGNMENTS = ("legacy", "exact", "leco")
CROSS_ATTENTION_KV = r"attn2\.to_[kv]\.weight$"


def choose_parameters(module: nn.Module, include: str, exclude: str | None = None, expect: int | None = None) -> dict[str, nn.Parameter]:
    """Parameters whose name matches the regular expression `include` and not `exclude`; raises when none or not `expect`."""
    named = dict(module.named_parameters())
    chosen = {n: p for n, p in named.items() if re.search(include, n) and not (exclude and re.search(exclude, n))}
    if not chosen:
        near = difflib.get_close_matches(include, list(named), 3, cutoff=0.2)
        raise ValueError(f"no parameter matches {include!r} (excluding {exclude!r}). Near names: {', '.join(near) or 'none'}.")
    if expect is not None and len(chosen) != expect:
        raise ValueError(f"{include!r} matches {len(chosen)} parameters, expected {expect}.")
    return chosen


def make_trainable(parameters: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return list(parameters.values())


def frozen_copy(module: nn.Module, changing: Iterable[nn.Parameter] | None = None) -> nn.Module:
    """The teacher: a copy that takes no gradient.

    changing: the parameters that will be written in place, as training does; of those the copy has its own, all others it shares.
    None: any may be. (`pipe.replaced` and `pipe.hooked` write nothing in place.)
    """
    own = {id(p) for p in (module.parameters() if changing is None else changing)}
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters() if id(p) not in own}
    return copy.deepcopy(module, dict[int, Any](shared)).eval().requires_grad_(False)


def train_scheduler(pipe: Pipe) -> Any:
    """The noising process the model was trained with: betas from the model's own scheduler config."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(dict(pipe.scheduler.config))


def add_noise(pipe: Pipe, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise; t (batch,)."""
    return train_scheduler(pipe).add_noise(x0, noise, t)


def training_target(pipe: Pipe, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the denoiser was trained to output: the noise, or the velocity for v-prediction models (SD 2.x at 768)."""
    kind = pipe.scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return train_scheduler(pipe).get_velocity(x0, noise, t)
    raise ValueError(f"prediction type {kind!r} is not supported; known: epsilon, v_prediction.")


@torch.no_grad()
def encode_images(pipe: Pipe, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """uint8 or float [0, 1] images [n, 3, h, w] to scaled latents: the posterior mean, or a sample with a generator."""
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    posterior = pipe.vae.encode((pixels * 2 - 1).to(pipe.device, pipe.vae.dtype)).latent_dist
    latents = posterior.mean
    if generator is not None:
        latents = latents + posterior.std * torch.randn(latents.shape, generator=generator).to(latents)
    return (latents * pipe.vae.config.scaling_factor).to(pipe.dtype)


def guided(
    pipe: Pipe, x: Tensor, t: Tensor, cond: Conditioning, null: Conditioning, scale: float, module: nn.Module | None = None
) -> Tensor:
    """Plain classifier-free guidance, whatever rule the pipe samples by: e_null + scale (e_cond - e_null)."""
    if scale <= 1:
        return pipe.predict(x, t, cond, module)
    e_null, e_cond = pipe.predict(torch.cat([x, x]), t, cond.with_null(null), module).chunk(2)
    return e_null + scale * (e_cond - e_null)


@torch.no_grad()
def partial_denoise(
    pipe: Pipe,
    cond: Conditioning,
    *,
    bin: int,
    bins: int,
    guidance: float,
    alignment: str,
    generator: torch.Generator,
    module: nn.Module | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents (rows of `cond`) denoised from pure noise part of the way, and the timestep a trainer should use with them.

    `bins` DDIM steps cover the 1000 training steps; `bin` counts from the clean end (0 .. bins-1). alignment:
    legacy - as the CompVis code of ESD (rohitgandikota/erasing@a2189e9, ldm/models/diffusion/ddim.py): sampling starts
    from pure noise one grid entry late and stops one early, so the latent is 1.95 to 2.9 bins cleaner than t, which is
    uniform in the bin; exact - the latent lies exactly at the returned grid timestep; leco - as LECO and its descendants
    (Con6924/SPM@3dd762e, train_spm.py): the grid has no offset and t is taken from the 1000-step grid, 33 to 42 steps
    noisier than the latent with 30 bins.
    `module` samples with another denoiser (a frozen teacher) than the pipe's own; `size` is the latents' height and width.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"timestep_alignment={alignment!r} is not known. Allowed: {', '.join(ALIGNMENTS)}.")
    from diffusers import DDIMScheduler

    grid_of = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading"}
    scheduler = DDIMScheduler.from_config(dict(pipe.scheduler.config), **grid_of, steps_offset=0 if alignment == "leco" else 1)
    scheduler.set_timesteps(bins)
    grid = scheduler.timesteps  # descending, e.g. 981, 961, ..., 1 for 50 bins
    span = scheduler.config.num_train_timesteps // bins
    if alignment == "legacy":
        run = grid[1:][: bins - bin] if bin > 1 else grid[1:]
        t = bin * span + int(torch.randint(span, (1,), generator=generator))
    elif alignment == "exact":
        run = grid[: bins - 1 - bin]
        t = int(grid[bins - 1 - bin])
    else:
        run = grid[: bins - 1 - bin]
        t = 999 - 1000 * (bins - 1 - bin) // bins
    height, width = size or (pipe.unet.config.sample_size,) * 2
    x = torch.randn((len(cond), pipe.unet.config.in_channels, height, width), generator=generator).to(pipe.device, pipe.dtype)
    null = pipe.null(len(cond))
    for step in run:
        x = scheduler.step(guided(pipe, x, step, cond, null, guidance, module), step, x, eta=0.0).prev_sample
    return x, torch.tensor(t, device=pipe.device)
