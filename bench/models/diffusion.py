"""Tensor functions that many methods and attacks share. Tensors in, tensors out."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.families import family

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

ALIGNMENTS = ("legacy", "exact", "leco")


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


def unaligned(model: ModelSpec, alignment: str) -> str | None:
    """Why `partial_denoise` cannot align latents and levels of this model in this way, in a sentence, or None."""
    if alignment == "exact" or family(model.family).diffusion:
        return None
    return (
        f"timestep_alignment={alignment} is the way of a program for diffusion models, which those of family {model.family} are not: "
        "set method.timestep_alignment=exact."
    )


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
    """Latents (rows of `cond`) denoised from pure noise part of the way, and the level a trainer should tell the denoiser.

    `bins` deterministic steps cover the noise process; `bin` counts from the clean end (0 .. bins-1). alignment: one of ALIGNMENTS, see
    `partial_run` of the model's process. `module` samples with another denoiser (a frozen teacher) than the pipe's own; `size` is
    the latents' height and width.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"timestep_alignment={alignment!r} is not known. Allowed: {', '.join(ALIGNMENTS)}.")
    levels, told = pipe.process.partial_run(bins, bin, alignment, generator)
    height, width = size or pipe.family.native_size(pipe)
    x = torch.randn((len(cond), pipe.family.latent_channels(pipe), height, width), generator=generator).to(pipe.device, pipe.dtype)
    null = pipe.null(len(cond))
    for level, to in pairwise(levels):
        x = pipe.process.step(guided(pipe, x, level, cond, null, guidance, module), x, level, to)
    return x, told.to(pipe.device)
