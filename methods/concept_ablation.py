"""Teach the model to draw a neighbour: for the concept's words, predict what it predicts for the anchor's words.

Concept Ablation, Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023 (arXiv 2303.13516);
nupurkmr9/concept-ablation@c11fb1b, whose compvis/ folder produced the paper. Trains on images that the original model
draws from anchor prompts. The paper's 200 captions per anchor are replaced by templates, which are settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.diffusion import frozen_copy, make_trainable
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles

GROUPS = {"cross_attn": "text_kv", "attn": "attention", "full": "all"}  # train -> weights by their role
CHOICES = {"train": tuple(GROUPS), "loss": ("model", "noise"), "teacher": ("current", "frozen"), "augment": ("none", "scale")}
# Object augmentation of the paper: words put before the student's prompt for shrunk and for enlarged images
FAR, CLOSE = ("a far away ", "very small "), ("zoomed in ", "close up ")
WHOLE_FROM = 0.6  # scales from here to 1 leave the image as it is


@dataclass(frozen=True)
class Pair:
    """A caption of the anchor and the concept's prompts that must come to mean the same."""

    caption: str
    targets: list[str]


@dataclass
class ConceptAblation(Method):
    """Edits denoiser weights in place. Artefact: "<denoiser>.<parameter>", full new values of the trained tensors."""

    version: ClassVar[int] = 2
    evidence: ClassVar[tuple[str, ...]] = ("nupurkmr9/concept-ablation@c11fb1b: losses and gradients (both targets, with prior) to 5e-6",)
    quick: ClassVar[dict] = {"images": 2, "iterations": 2, "batch": 2, "lr": 1e-3, "material_steps": 2}

    train: str  # which weights: cross_attn, attn or full
    loss: str  # model: match the prediction for the anchor; noise: the ordinary denoising loss
    teacher: str  # current: the network in training, without gradient (official); frozen: the original network
    anchor: str  # what the concept becomes; {anchor} is the concept's anchor, {sibling} its first sibling
    captions: list[str]  # prompts of the training images; {anchor}, and {other}: each unrelated thing in turn
    targets: list[str]  # the concept's prompts; {caption}, {name}, and {swapped}: the caption with the name for the anchor
    doubled: float  # chance that the name is said twice
    images: int  # images drawn from the captions
    material_steps: int  # sampling steps of these images
    material_guidance: float
    iterations: int
    batch: int
    lr: float
    weight_decay: float
    clip_gradient: float | None  # largest gradient norm; null: no clipping
    prior_weight: float  # weight of the ordinary loss on anchor pairs; 0: none
    cut_begin_token: bool  # no gradient through keys and values of the begin token (official)
    augment: str  # none, or scale: images shrunk or enlarged, with words that say so
    flip: float  # chance that a training image is mirrored

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"method.{field}={getattr(self, field)!r} is not known. Allowed: {', '.join(allowed)}.")
        for field in ("captions", "targets"):
            if not getattr(self, field):
                raise ValueError(f"method.{field} is empty: give at least one template.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return ("draw", "levels", GROUPS[self.train], *(("words", "text_kv") if self.cut_begin_token else ()))

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if model.dtype != "float32":
            return f"concept ablation trains float32 weights (steps of {self.lr:g} vanish in {model.dtype}): set model.dtype=float32."
        if any("{other}" in caption for caption in self.captions) and not all(concept.others for concept in concepts):
            return "its captions name unrelated things: the concept file needs entries under `others`."
        if "{sibling}" in self.anchor and not all(concept.siblings for concept in concepts):
            return "its anchor is a sibling: the concept file needs entries under `siblings`."
        return super().supports(model, concepts)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        generator = ctx.generator("training")
        pairs = [self.pairs(concept) for concept in concepts]
        images = [self.training_images([pair.caption for pair in of_concept], ctx) for of_concept in pairs]
        chosen = pipe.group(GROUPS[self.train])
        frozen = frozen_copy(pipe.denoiser, chosen.values()) if self.teacher == "frozen" else None
        optimiser = torch.optim.AdamW(make_trainable(chosen), lr=self.lr, weight_decay=self.weight_decay)
        with begin_token_cut(pipe) if self.cut_begin_token else nullcontext():
            state = {"weights": chosen, "optimiser": optimiser, "generator": generator}
            for step in ctx.resumable("training", range(self.iterations), **state):
                which = step % len(concepts)
                loss = self.step_loss(pipe, pairs[which], images[which], frozen, generator)
                optimiser.zero_grad()
                loss.backward()
                if self.clip_gradient is not None:
                    torch.nn.utils.clip_grad_norm_(chosen.values(), self.clip_gradient)
                optimiser.step()
                ctx.log(step, loss=loss.item())
        meta = {"train": self.train, "tensors": len(chosen), "parameters": sum(p.numel() for p in chosen.values())}
        return Erasure({f"{pipe.denoiser_name}.{name}": p.detach().clone() for name, p in chosen.items()}, meta)

    def pairs(self, concept: Concept) -> list[Pair]:
        anchor = self.anchor.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))
        made = []
        for template in self.captions:
            for other in concept.others if "{other}" in template else [""]:
                caption = with_articles(template.format(anchor=anchor, other=other))
                swapped = with_articles(template.format(anchor=concept.name, other=other))
                targets = []
                for name in (concept.name, f"{concept.name} {concept.name}"):
                    targets += [with_articles(t.format(caption=caption, name=name, swapped=swapped)) for t in self.targets]
                made.append(Pair(caption, targets))
        return made

    def training_images(self, captions: list[str], ctx: Context) -> Tensor:
        """uint8 [captions * each, 3, h, w]: as many images of every caption, those of one caption together."""
        sampler = replace(ctx.sampler, steps=self.material_steps, guidance=self.material_guidance)
        return ctx.generate(captions, max(1, self.images // len(captions)), sampler)

    def step_loss(self, pipe: Pipe, pairs: list[Pair], images: Tensor, frozen, generator: torch.Generator) -> Tensor:
        x0, mask, captions, prompts = self.batch_of(pipe, pairs, images, generator)
        at = pipe.corruption(x0, generator)
        x, t = pipe.process.add_noise(x0, at.noise, at.level), at.level
        with torch.no_grad():
            c, target = pipe.encode(captions), pipe.encode(prompts)
            wanted = pipe.process.target(x0, at.noise, t) if self.loss == "noise" else pipe.predict(x, t, c, frozen)
        # Divided by the one-channel mask, as the official code does: latents of four channels count four times.
        loss = masked_error(pipe.predict(x, t, target), wanted, mask)
        if self.prior_weight == 0:
            return loss
        x0, _, captions, _ = self.batch_of(pipe, pairs, images, generator, plain=True)
        at = pipe.corruption(x0, generator)
        x, t = pipe.process.add_noise(x0, at.noise, at.level), at.level
        with torch.no_grad():
            c = pipe.encode(captions)
        return loss + self.prior_weight * F.mse_loss(pipe.predict(x, t, c), pipe.process.target(x0, at.noise, t))

    def batch_of(
        self, pipe: Pipe, pairs: list[Pair], shown: Tensor, generator: torch.Generator, plain: bool = False
    ) -> tuple[Tensor, Tensor, list[str], list[str]]:
        """(clean latents, loss mask [batch, 1, h, w], the teacher's captions, the student's prompts)."""
        places = torch.randint(len(shown), (self.batch,), generator=generator).tolist()
        images = shown[places].float() / 255
        mirrored = torch.rand(self.batch, generator=generator) < self.flip
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        chosen = [pairs[place // (len(shown) // len(pairs))] for place in places]
        prompts = [self.target_of(pair, generator) for pair in chosen]
        factor = pipe.latent_factor
        mask = torch.ones(self.batch, 1, images.shape[-2] // factor, images.shape[-1] // factor)
        if self.augment == "scale" and not plain:
            for k in range(self.batch):
                images[k], mask[k], lead = scaled(images[k], factor, generator)
                prompts[k] = lead + prompts[k]
        x0 = pipe.encode_images(images, generator)
        return x0, mask.to(x0), [pair.caption for pair in chosen], prompts

    def target_of(self, pair: Pair, generator: torch.Generator) -> str:
        doubled = int(torch.rand(1, generator=generator).item() < self.doubled)
        return pair.targets[doubled * len(self.targets) + int(torch.randint(len(self.targets), (1,), generator=generator))]


def masked_error(prediction: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean over the batch of sum(mask (prediction - wanted)^2) / sum(mask); mask (batch, 1, h, w)."""
    error = (mask * (prediction - wanted).square()).sum((1, 2, 3))
    return (error / mask.sum((1, 2, 3))).mean()


def scaled(image: Tensor, factor: int, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
    """(image [3, h, w] in [0, 1], mask [1, h / factor, w / factor], lead words): random scale of the code's compvis/.

    Two thirds of the scales are uniform in 1/3..1, of which those from 0.6 on leave the image whole; one third enlarge it
    1.2 to 1.4 times. Around a shrunk image all is mid-grey, the VAE's 0.
    """
    height, width = image.shape[-2:]
    whole = torch.ones(1, height // factor, width // factor)
    draw = torch.rand(2, generator=generator)
    scale = float(1 / 3 + draw[1] * 2 / 3) if draw[0] < 2 / 3 else float(1.2 + 0.2 * draw[1])
    if WHOLE_FROM <= scale <= 1:
        return image, whole, ""
    size = max(factor, round(height * scale)), max(factor, round(width * scale))
    resized = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    word = int(torch.randint(2, (1,), generator=generator))
    top, left = (int(torch.randint(abs(a - b) + 1, (1,), generator=generator)) for a, b in zip(size, (height, width), strict=True))
    if scale > 1:
        return resized[:, top : top + height, left : left + width], whole, CLOSE[word]
    canvas = torch.full_like(image, 0.5)
    canvas[:, top : top + size[0], left : left + size[1]] = resized
    # The seen area, one latent cell smaller on each side: cells on its border mix image and canvas.
    rows = slice(top // factor + 1, max(top // factor + 2, (top + size[0]) // factor - 1))
    columns = slice(left // factor + 1, max(left // factor + 2, (left + size[1]) // factor - 1))
    mask = torch.zeros_like(whole)
    mask[:, rows, columns] = 1
    return canvas, mask if mask.any() else whole, FAR[word]


@contextmanager
def begin_token_cut(pipe: Pipe) -> Iterator[None]:
    """Detach the begin token's keys and values in every attention to text; values of the forward pass do not change."""
    encoder, _ = pipe.null(1).layout[0]
    first = pipe.text.reader(encoder).begins  # 1, or 0 where texts have no begin token

    def cut(module, args, kwargs, output):
        return torch.cat([output[:, :first].detach(), output[:, first:]], dim=1)

    with pipe.hooked({f"{pipe.denoiser_name}.{name}": cut for name in pipe.layers("text_kv")}):
        yield
