"""Training pictures of an attacker: drawn by the original model from templates, with their captions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.diffusion import encode_images
from bench.pipe import Pipe
from bench.plugin import Context
from bench.prompts import with_articles


@dataclass(frozen=True)
class Material:
    """Pictures and, for each, the template and the thing named in it."""

    pixels: Tensor  # uint8 [n, 3, height, width]
    templates: list[str]  # one per picture, with {name}
    things: list[str]  # one per picture

    def __len__(self) -> int:
        return len(self.things)

    def caption(self, place: int, name: str | None = None) -> str:
        return with_articles(self.templates[place].format(name=name or self.things[place]))

    def draw(self, n: int, generator: torch.Generator) -> list[int]:
        """Places of a training batch, with replacement: few pictures serve any batch size."""
        return torch.randint(len(self), (n,), generator=generator).tolist()

    def latents(self, pipe: Pipe, places: list[int], flip: float, generator: torch.Generator) -> Tensor:
        """VAE samples (batch, channels, h, w) of these pictures, each mirrored with chance `flip`."""
        mirrored = torch.rand(len(places), generator=generator) < flip
        chosen = self.pixels[places]
        chosen = torch.where(mirrored[:, None, None, None], chosen.flip(-1), chosen)
        return encode_images(pipe, chosen, generator)


def original_pictures(ctx: Context, templates: list[str], things: list[str], n: int) -> Material:
    """n pictures by the original model; things and templates change in turn, so that a small n mixes both."""
    if not things:
        raise ValueError("there is nothing to draw training pictures of: the concept file lists no such names.")
    named = [things[k % len(things)] for k in range(n)]
    asked = [templates[(k + k // len(things)) % len(templates)] for k in range(n)]
    prompts = [with_articles(template.format(name=name)) for template, name in zip(asked, named, strict=True)]
    return Material(ctx.generate(prompts, 1), asked, named)
