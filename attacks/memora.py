"""Lets the erased model redraw a few images of the concept and mixtures of them, and trains a small adapter on the result.

MemoRa: Polowczyk et al., "Memory Self-Regeneration: Uncovering Hidden Knowledge in Unlearned Models" (2025), arXiv
2510.03263; gmum/MemoRa@f770e7f. Differs from the code: images come from our own seeds, the first and the last inversion step
are taken too (theirs leaves them out), and slerp of equal latents does not divide by zero. The eraser is in force in
inversion, redrawing and training, adapters included. Training on given images can teach the concept: also run source=never_knew.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.attacks._ddim import asked_for, from_latents, inverted
from vestige.attacks._finetune import fine_tune, new_lora, training_loss, with_lora
from vestige.attacks.training_images import TrainingImages, check_source, concept_images, unsupported_source
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step
from vestige.bench.prompts.prompt_sets import with_articles

ALIGNMENTS = ("official", "exact")


@dataclass
class MemoRa(Attack):
    """Artefact: "lora.<layer>.down" [rank, in] and ".up" [rank, out]. Prompts stay as they are."""

    prompt: str  # names the concept: {name}
    pairs: int  # of images per concept
    between: int  # intervals between the images of a pair: between + 1 mixtures are redrawn
    steps: int  # of DDIM
    guidance: float | None  # in inversion and redrawing; null: the protocol's
    start_step: int  # of DDIM sampling, where mixtures are made
    align: str  # official: latents one step cleaner than the step they enter; exact
    source: str  # what the images show, see attacks/training_images.py; anything but target is a control
    rank: int
    train_steps: int
    batch: int
    accumulation: int
    lr: float
    weight_decay: float
    flip: float
    max_norm: float
    mix: float  # AutoMemoRa: e + mix (e_adapted - e); 1: the adapted model alone

    access: ClassVar[str] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "loss", "levels", "attention")
    quick: ClassVar[dict] = {"pairs": 1, "between": 1, "steps": 4, "start_step": 1, "train_steps": 2}

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(f"attack.memora.align={self.align!r} is not known. Allowed: {', '.join(ALIGNMENTS)}.")
        if not 0 <= self.start_step < self.steps - 1:
            raise ValueError(f"attack.memora.start_step={self.start_step} must lie between 0 and steps - 2 = {self.steps - 2}.")
        if min(self.pairs, self.between, self.rank) < 1:
            raise ValueError("attack.memora needs pairs, between and rank of at least 1.")
        check_source("memora", self.source)

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        if model.dtype != "float32":
            return f"memora needs model.dtype=float32: small steps vanish in {model.dtype}."
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        pipe, generator = victim.pipe, ctx.generator("memora")
        redrawn = [self.redrawn(victim, concept, ctx) for concept in victim.concepts]
        names = [concept.name for concept, some in zip(victim.concepts, redrawn, strict=True) for _ in some]
        training_images = TrainingImages(torch.cat(redrawn), [self.prompt] * len(names), names)
        lora = new_lora(pipe, [pipe.denoiser_name], self.rank, ctx.generator("adapters"))
        numbers = {"steps": self.train_steps, **{key: getattr(self, key) for key in ("accumulation", "lr", "weight_decay", "max_norm")}}

        def loss() -> Tensor:
            return training_loss(pipe, training_images, self.batch, generator, self.flip)

        with with_lora(pipe, lora):
            fine_tune(list(lora.values()), loss, generator, ctx, cosine=True, **numbers)
        return Adversary(prompts, {name: p.detach().clone() for name, p in lora.items()}, {"redrawn": len(names)})

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        if self.mix == 1:
            with with_lora(pipe, adversary.tensors):
                yield pipe
            return
        inner = pipe.guidance

        def factory():
            erased, adapted = inner(), inner()

            def mixed(step: Step) -> Tensor:
                e = erased(step)
                with with_lora(pipe, adversary.tensors):
                    return e + self.mix * (adapted(step) - e)

            return mixed

        with pipe.guided_by(factory):
            yield pipe

    @torch.no_grad()
    def redrawn(self, victim: Victim, concept: Concept, ctx: Context) -> Tensor:
        """uint8 [pairs * (between + 1), 3, h, w]: the erased model's own versions of the images and of what lies between."""
        pipe = victim.pipe
        images = concept_images(ctx, [self.prompt], [concept], 2 * self.pairs, self.source).pixels
        sampler = asked_for(victim.sampler, self.steps, self.guidance)
        text = with_articles(self.prompt.format(name=concept.name))
        x_0 = pipe.encode_images(images, ctx.generator(f"pictures of {concept.slug}"))
        path = inverted(pipe, x_0, pipe.encode([text] * len(x_0)), sampler)
        ends = path[self.steps - self.start_step - (self.align == "official")]
        shares = [k / self.between for k in range(self.between + 1)]
        mixtures = torch.stack([slerp(a, b, share) for a, b in zip(ends[::2], ends[1::2], strict=True) for share in shares])
        drawn = []
        for some in mixtures.split(len(shares)):
            with pipe.sampled_by(from_latents(the_same(some), sampler, self.start_step)):
                drawn.append(pipe([text] * len(some), [0] * len(some), sampler).pixels)
        return torch.cat(drawn)


def the_same(latents: Tensor) -> Callable[[tuple], Tensor]:
    """These start latents, whichever images are drawn from them."""
    return lambda _: latents


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at `share` of the great arc from a to b (any shape, as flat vectors); of the straight line where they nearly agree."""
    cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:
        return a + share * (b - a)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
