"""Take the concept out of the words around it, teach one small adapter per concept not to look at it, and fuse all adapters.

MACE, Lu et al., "MACE: Mass Concept Erasure in Diffusion Models", CVPR 2024 (arXiv 2403.06135); Shilin-LU/MACE@057e7a6.
Three stages: closed-form refinement of the cross-attention keys and values (CFR), a rank-1 LoRA per concept trained to take
attention off the concept's place in images of it, and a closed-form fusion. All closed forms go through sums of squares
of text states, so that preserved texts cost [d, d] whatever their number, and are exact. The official templates and caches
of preserved texts are replaced: wordings are settings, and texts come from the concept's file or from a file of captions.

All closed forms are solved in float64. The code inverts float32 matrices, which without a ridge and with few preserved texts is
not its own formula (cosine of the two edits: -0.95).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.adapters import adapters
from vestige.bench.models.attention_maps import attention_loss, positions, recorded
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.bench.vision.masks import MASKERS, masker
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import (
    check_spanned,
    edit_keeping,
    factored,
    kept_names,
    merged,
    projections,
    sum_of_squares,
    width_of,
    worded,
)
from vestige.methods._lora import edited_weights
from vestige.methods._text_rows import context_rows

SOURCES = ("empty", "siblings", "others")
CHOICES = {
    "mask": MASKERS,
    "refinement_scale": ("squared", "plain"),
    "loss": ("norm", "squared_norm"),
    "tokens": ("concept_and_end", "concept"),
    "pixels": ("imagenet", "signed"),
    "timesteps": ("focal", "uniform"),
}
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]  # mean and deviation, [2, 3, 1, 1]


@dataclass
class MACE(Method):
    """Artefact: "edit.U", "edit.V" [d, rows], shared, and "lora.<layer>.up" [out, n], ".down" [n, d], n concepts.

    W* = W (I + U V^T) + up down. A fused LoRA of rank 1 keeps rank 1.
    """

    evidence: ClassVar[tuple[str, ...]] = ("Shilin-LU/MACE@057e7a6: refinement and fusion to 4e-7, attention loss and gradient to 3e-6",)
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels", "words", "states", "cross_kv", "cross_q")
    quick: ClassVar[dict] = {"images": 2, "material_steps": 2, "iterations": 3, "lr": 1e-2, "mask": "background_difference"}

    anchor: str  # what the concept becomes; {anchor} is the concept's anchor, {sibling} its first sibling
    templates: list[str]  # wordings of concept, anchor and preserved names: {name}, and {other}: each unrelated thing in turn
    ridge: float  # lambda, pull of refinement and fusion towards the weights before them
    prior: list[str]  # whose wordings are preserved in general: any of SOURCES
    captions: str | None  # a text file, one caption a line, that joins the prior (paper: MS COCO 2014)
    prior_size: int  # the prior weighs as much as this many captions
    domain: list[str]  # whose wordings are preserved in particular: any of SOURCES
    domain_size: int  # the domain weighs as much as this many texts
    domain_weight: float  # w, beside the prior's 1
    refine_preserve: float  # weight of prior and domain in the refinement
    refinement_scale: str  # squared (official: the weight is applied twice) or plain
    fuse_preserve: float  # their weight in the fusion
    image_prompts: list[str]  # what the training images show; {name}, {other}
    images: int  # per concept
    material_steps: int  # sampling steps of these images
    material_guidance: float
    mask: str  # where the concept stands in them: one of MASKERS
    mask_threshold: float  # box score (grounded) or colour distance (background_difference)
    detector: str  # grounded only: repository or folder of the box finder
    segmenter: str  # grounded only: of the mask maker
    pixels: str  # how images reach the encoder: imagenet (official normalisation) or signed, -1 to 1
    tokens: str  # concept_and_end (official: end and padding too) or concept (paper)
    loss: str  # norm (official) or squared_norm (paper)
    timesteps: str  # focal (concept-focal importance sampling) or uniform
    focus: list[int]  # focal: the two timesteps between which most are drawn
    sharpness: float  # focal: of the two edges
    iterations: int  # per concept
    batch: int
    lr: float
    weight_decay: float
    clip_gradient: float

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"method.{field}={getattr(self, field)!r} is not known. Allowed: {', '.join(allowed)}.")
        for field in ("prior", "domain"):
            unknown = set(getattr(self, field)) - set(SOURCES)
            if unknown:
                raise ValueError(f"method.{field}={getattr(self, field)} contains {sorted(unknown)}. Allowed: {', '.join(SOURCES)}.")
        if not self.templates or not all("{name}" in template for template in self.templates):
            raise ValueError('method.templates needs wordings, each with {name}: for example method.templates=["a photo of {name}"].')
        if not self.image_prompts:
            raise ValueError('method.image_prompts is empty: for example method.image_prompts=["a photo of the {name}"].')
        if len(self.focus) != 2 or self.focus[0] >= self.focus[1]:
            raise ValueError(f"method.focus={self.focus} must be two timesteps, the smaller first: method.focus=[200,400].")
        if self.captions is not None and not Path(self.captions).is_file():
            raise ValueError(f"method.captions={self.captions!r} is no file. Give a text file with one caption a line, or null.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if model.dtype != "float32":
            return f"MACE trains float32 adapters inside the model: set model.dtype=float32 (it is {model.dtype})."
        texts = {"anchor": self.anchor, "templates": "".join(self.templates), "image_prompts": "".join(self.image_prompts)}
        sources = [source for source in (*self.prior, *self.domain) if source != "empty"]
        return unsupported_reason(concepts, texts, sources, self.anchored_name) or super().supports(model, concepts)

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        from vestige.bench.models.fingerprints import given

        networks = {"detector": self.detector, "segmenter": self.segmenter} if self.mask == "grounded" else {}
        return given(captions=self.captions, **networks)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        check_pairs(pipe, [(concept.name, self.anchored_name(concept)) for concept in concepts])
        sentences = sum(len(self.worded(concept.name, concept)) for concept in concepts)
        check_spanned(sentences * pipe.text.length + self.kept_count(pipe, concepts, self.fuse_preserve), *self.width_and_ridge(pipe))
        find = masker(self.mask, self.mask_threshold, self.detector, self.segmenter)
        weights = projections(pipe)
        kept = self.kept_squares(pipe, concepts)
        scale = self.refine_preserve ** (2 if self.refinement_scale == "squared" else 1)
        u, v = self.refine(pipe, concepts, scale * kept)
        with pipe.replaced({f"{pipe.denoiser_name}.{name}": merged(weight, u, v) for name, weight in weights.items()}):
            loras = [self.train(pipe, concept, find, ctx) for concept in concepts]
        with torch.no_grad():
            squares = [sum_of_squares(pipe, self.worded(concept.name, concept)) for concept in concepts]
        v, downs = fused(v, u, loras, squares, self.fuse_preserve * kept, self.ridge)
        ups = {name: torch.stack([up for _, up in (lora[name] for lora in loras)], 1) for name in loras[0]}
        tensors = {"edit.U": u, "edit.V": v}
        tensors |= {f"lora.{name}.up": up for name, up in ups.items()} | {f"lora.{name}.down": down for name, down in downs.items()}
        meta = {"parts": [pipe.denoiser_name], "parameters": sum(weight.numel() for weight in weights.values())}
        meta["concepts"] = [concept.slug for concept in concepts]
        return Erasure({name: tensor.float() for name, tensor in tensors.items()}, meta)

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        with pipe.replaced(edited_weights(pipe, erasure.tensors)):
            yield pipe

    # Texts

    def worded(self, name: str, concept: Concept) -> list[str]:
        return [with_articles(text) for text in worded(self.templates, name, concept)]

    def anchored_name(self, concept: Concept) -> str:
        return self.anchor.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def kept_parts(self, concepts: list[Concept]) -> list[tuple[list[str], float]]:
        """Prior and domain: preserved texts and what all of them together weigh."""
        captions = Path(self.captions).read_text(encoding="utf-8").splitlines() if self.captions else []
        prior, domain = [*captions, *self.kept_texts(concepts, self.prior)], self.kept_texts(concepts, self.domain)
        return [(prior, float(self.prior_size)), (domain, self.domain_weight * self.domain_size)]

    def kept_squares(self, pipe: Pipe, concepts: list[Concept]) -> Tensor:
        """S [d, d]: sum over the preserved texts' states of h h^T, prior and weighted domain."""
        with torch.no_grad():
            parts = (weight / max(1, len(texts)) * sum_of_squares(pipe, texts) for texts, weight in self.kept_parts(concepts))
            return sum(parts, start=torch.zeros(()))

    def kept_count(self, pipe: Pipe, concepts: list[Concept], scale: float) -> int:
        """Preserved rows that weigh anything."""
        return pipe.text.length * sum(len(texts) for texts, weight in self.kept_parts(concepts) if scale * weight > 0)

    def width_and_ridge(self, pipe: Pipe) -> tuple[int, float]:
        return width_of(pipe), self.ridge

    def kept_texts(self, concepts: list[Concept], sources: list[str]) -> list[str]:
        names = kept_names(concepts, [source for source in sources if source != "empty"])
        return [""] * ("empty" in sources) + [text for name in names for text in self.worded(name, names[name])]

    # The three stages

    @torch.no_grad()
    def refine(self, pipe: Pipe, concepts: list[Concept], kept: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 1: words around the concept get the output they have around the anchor."""
        pairs = []
        for concept in concepts:
            anchor = self.anchored_name(concept)
            pairs.append(context_rows(pipe, self.worded(concept.name, concept), self.worded(anchor, concept)))
        f, g = (torch.cat([pair[k] for pair in pairs]) for k in range(2))
        check_spanned(len(f) + self.kept_count(pipe, concepts, self.refine_preserve), *self.width_and_ridge(pipe))
        return edit_keeping(f, g, 1.0, kept, self.ridge)

    def train(self, pipe: Pipe, concept: Concept, find, ctx: Context) -> dict[str, tuple[Tensor, Tensor]]:
        """Stage 2: layer -> (down [d], up [out]) of one concept's LoRA, trained alone on the refined model."""
        generator = ctx.generator(f"training {concept.slug}")
        x0, masks = self.context(pipe, concept, find, ctx, generator)
        texts = self.worded(concept.name, concept)
        with torch.no_grad():
            cond = pipe.encode(texts)
        behind = [int(k) if self.tokens == "concept_and_end" else None for k in pipe.text.last_token(cond.ids)]
        words = pipe.text.token_ids(concept.name)
        spots = torch.stack([positions(row, words, last) for row, last in zip(cond.ids, behind, strict=True)]).to(pipe.device)
        layers = {name.removesuffix(".weight"): weight for name, weight in projections(pipe).items()}
        down = {n: nn.Parameter(torch.randn(1, w.shape[1], generator=generator).to(w)) for n, w in layers.items()}
        up = {n: nn.Parameter(torch.zeros(1, len(w)).to(w)) for n, w in layers.items()}
        learnt = [*down.values(), *up.values()]
        optimiser = torch.optim.AdamW(learnt, lr=self.lr, weight_decay=self.weight_decay)
        order = shuffled(len(x0), self.iterations * self.batch, generator).view(-1, self.batch)
        # The adapters come first, so that the recorder sees the keys they change.
        with adapters(pipe, down, up, lambda: None, "paper"), recorded(pipe) as maps:
            for step, picked in enumerate(order):
                text = torch.randint(len(texts), (self.batch,), generator=generator)
                t = self.drawn_timesteps(pipe, generator).to(pipe.device)
                noise = torch.randn(x0[picked].shape, generator=generator).to(x0)
                pipe.predict(pipe.process.add_noise(x0[picked], noise, t), t, cond.rows(text))
                loss = attention_loss(maps, masks[picked], spots[text], self.loss == "squared_norm")
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learnt, self.clip_gradient)
                optimiser.step()
                ctx.log(step, loss=loss.item(), t=t[0].item())
        return {name: (down[name][0].detach(), up[name][0].detach()) for name in layers}

    def context(self, pipe: Pipe, concept: Concept, find, ctx: Context, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents of images of the concept [n, c, h, w], drawn once from the posterior, and its masks, bool [n, height, width]."""
        sampler = replace(ctx.sampler, steps=self.material_steps, guidance=self.material_guidance)
        prompts = [with_articles(text) for text in worded(self.image_prompts, concept.name, concept)]
        images = ctx.generate(prompts, max(1, self.images // len(prompts)), sampler)
        masks = find(images, concept.name)
        if not masks.any():
            raise ValueError(f"no {concept.name} was found in {len(images)} images: lower method.mask_threshold ({self.mask_threshold}).")
        pixels = images.float() / 255
        if self.pixels == "imagenet":
            pixels = ((pixels - IMAGENET[0]) / IMAGENET[1] + 1) / 2  # encode_images maps 0..1 to -1..1
        return pipe.encode_images(pixels, generator), masks.to(pipe.device)

    def drawn_timesteps(self, pipe: Pipe, generator: torch.Generator) -> Tensor:
        """[batch] timesteps. Focal: most of them between the two of `focus`, where things take shape."""
        t = torch.arange(pipe.process.length, dtype=torch.float64)
        low, high = (torch.sigmoid(self.sharpness * (t - edge)) for edge in self.focus)
        weight = low - high if self.timesteps == "focal" else torch.ones_like(t)
        return torch.multinomial(weight, self.batch, replacement=True, generator=generator)


def shuffled(n: int, total: int, generator: torch.Generator) -> Tensor:
    """[total] indices below n: every one once, in random order, before any comes again."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(1 + total // n)])[:total]


def fused(
    v: Tensor, u: Tensor, loras: list[dict[str, tuple[Tensor, Tensor]]], squares: list[Tensor], kept: Tensor, ridge: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Stage 3, exactly: (new V [d, rows], layer -> fused downs [n, d]); U and all ups stay.

    With W' = W (I + U V^T), LoRAs b_i a_i^T, G_i = sum of e e^T over the texts of concept i (`squares`), S the preserved
    sum times its weight (`kept`) and B = ridge I + sum_i G_i + S, the minimiser of
    sum_i |(W* - W' - b_i a_i^T) E_i|^2 + |(W* - W) P|^2 + ridge |W* - W'|^2  is
    W* = W' + [sum_i b_i (a_i^T G_i) + (W - W') S] B^-1 = W (I + U (V - B^-1 S V)^T) + sum_i b_i (B^-1 G_i a_i)^T.
    """
    with torch.no_grad():
        factor = factored(sum(squares) + kept, ridge)
        v = v.double() - torch.cholesky_solve(kept @ v.double(), factor)
        downs = {}
        for name in loras[0]:
            weighed = [g @ lora[name][0].double() for g, lora in zip(squares, loras, strict=True)]
            downs[name] = torch.cholesky_solve(torch.stack(weighed, 1), factor).T
    return v, downs
