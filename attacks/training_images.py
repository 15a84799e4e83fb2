"""Images an attacker owns, with their captions, drawn by the original model; and, for control runs, images of something else.

An attack that is given images can "recover" what the model never knew. The same attack, fed with other images under the
same captions and judged for the same concept, says how much of the result is the attack's own doing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.attacks.wording import concept_of, instead, named_as
from vestige.bench.contract.controls import SOURCES
from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, PromptSet
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.bench.vision.made_up import made_up

SQUARES = 4  # per side, for `scrambled`


@dataclass(frozen=True)
class TrainingImages:
    """Images and, for each, the template and the thing that its caption names."""

    pixels: Tensor  # uint8 [n, 3, height, width]
    templates: list[str]  # one per image, with {name}
    things: list[str]  # one per image

    def __len__(self) -> int:
        return len(self.things)

    def caption(self, place: int, name: str | None = None) -> str:
        return with_articles(self.templates[place].format(name=name or self.things[place]))

    def draw(self, n: int, generator: torch.Generator) -> list[int]:
        """Places of a training batch, with replacement: few images serve any batch size."""
        return torch.randint(len(self), (n,), generator=generator).tolist()

    def latents(self, pipe: Pipe, places: list[int], flip: float, generator: torch.Generator) -> Tensor:
        """VAE samples (batch, channels, h, w) of these images, each mirrored with chance `flip`."""
        mirrored = torch.rand(len(places), generator=generator) < flip
        chosen = self.pixels[places]
        chosen = torch.where(mirrored[:, None, None, None], chosen.flip(-1), chosen)
        return pipe.encode_images(chosen, generator)


def original_images(ctx: Context, templates: list[str], things: list[str], n: int) -> TrainingImages:
    """n images by the original model; things and templates change in turn, so that a small n mixes both."""
    if not things:
        raise ValueError("there is nothing to draw training images of: the concept file lists no such names.")
    named = [things[k % len(things)] for k in range(n)]
    asked = [templates[(k + k // len(things)) % len(templates)] for k in range(n)]
    prompts = [with_articles(template.format(name=name)) for template, name in zip(asked, named, strict=True)]
    return TrainingImages(ctx.generate(prompts, 1), asked, named)


def concept_images(ctx: Context, templates: list[str], concepts: list[Concept], n: int, source: str) -> TrainingImages:
    """As `original_images`, of the concepts. `source` (one of SOURCES) decides what is seen; captions name the concept in any case."""
    if source == "wrong_concept":
        seen = original_images(ctx, templates, [concept.siblings[0] for concept in concepts], n)
        return TrainingImages(seen.pixels, seen.templates, [concepts[k % len(concepts)].name for k in range(n)])
    seen = original_images(ctx, templates, [concept.name for concept in concepts], n)
    return TrainingImages(_disguised(ctx, seen.pixels, source), seen.templates, seen.things)


def row_images(ctx: Context, prompts: PromptSet, concepts: list[Concept], source: str, per_row: int) -> Tensor:
    """uint8 [rows * per_row, 3, h, w]: what the original model draws for each row's prompt, from other seeds than the row's."""
    rows = prompts.table.to_dict("records")
    texts = [about_sibling(row, concepts) for row in rows] if source == "wrong_concept" else prompts.prompts
    return _disguised(ctx, ctx.generate(texts, per_row), source)


def check_source(attack: str, source: str) -> None:
    if source not in SOURCES:
        raise ValueError(f"attack.{attack}.source={source!r} is not known. Allowed: {', '.join(SOURCES)}.")


def unsupported_source(source: str, concepts: list[Concept]) -> str | None:
    """Why these concepts have no such images, or None."""
    alone = [concept.slug for concept in concepts if not concept.siblings]
    if source == "wrong_concept" and alone:
        return f"source=wrong_concept needs the entry `siblings` in the concept file of {', '.join(alone)}."
    return None


def shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image cut into SQUARES x SQUARES pieces that change places; rows and columns that do not fit stay."""
    n, channels, height, width = pixels.shape
    h, w = height // SQUARES, width // SQUARES
    inner = pixels[..., : h * SQUARES, : w * SQUARES]
    pieces = inner.reshape(n, channels, SQUARES, h, SQUARES, w).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.stack([torch.randperm(SQUARES**2, generator=generator) for _ in range(n)])
    pieces = pieces[torch.arange(n)[:, None], order].unflatten(1, (SQUARES, SQUARES))
    out = pixels.clone()
    out[..., : h * SQUARES, : w * SQUARES] = pieces.permute(0, 3, 1, 4, 2, 5).reshape(inner.shape)
    return out


def _disguised(ctx: Context, pixels: Tensor, source: str) -> Tensor:
    if source == "scrambled":
        return shuffled(pixels, ctx.generator("scrambled"))
    if source == "never_knew":
        height, width = pixels.shape[-2:]
        return made_up(len(pixels), height, width, ctx.generator("never_knew"))
    return pixels


def about_sibling(row: dict, concepts: list[Concept]) -> str:
    concept = concept_of(row, concepts) or concepts[0]
    name = named_as(row["prompt"], concept)
    return with_articles(f"a {concept.siblings[0]}") if name is None else instead(row["prompt"], name, concept.siblings[0])
