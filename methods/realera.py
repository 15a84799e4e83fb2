"""Erase a concept and, with it, random neighbours of its text states; what lies beyond the neighbourhood keeps its place.

A RECONSTRUCTION of RealEra, Liu et al., "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", 2024 (arXiv
2410.09140), from its abstract and a summary: no code and no settings are public. Known are the two steps (keys and values in
closed form, then a low-rank adapter on noise predictions), the neighbourhood (a distance and a band of cosines) and that
samples beyond it are preserved. Rows, alignment, weights, the shape of the random samples and all numbers are ours, so the
results say nothing about the published method.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.adapters import adapters
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import frozen_copy, partial_denoise
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import (
    check_spanned,
    edit_of_sums,
    kept_names,
    left_out,
    plane_normal,
    projections,
    shared_head,
    sum_of_squares,
    width_of,
    worded,
)
from vestige.methods._lora import edited_weights
from vestige.methods._neighbours import far, near
from vestige.methods.time_edit import comparable_ids, eraser

PRESERVE = ("empty", "siblings", "others")


@dataclass(frozen=True)
class Sentences:
    """A concept in its wordings. goals [n, length, d]: for every position the anchor's state that its output shall become;
    changed bool [n, length]: positions from the concept's first token on, which alone know of it."""

    asked: Conditioning
    wanted: Conditioning
    goals: Tensor
    changed: Tensor


@dataclass
class RealEra(Method):
    """Artefact: "edit.U", "edit.V" [d, d] of stage 1 and "lora.<layer>.up" [out, n], ".down" [n, d] of stage 2, n = rank x concepts."""

    quick: ClassVar[dict] = {"neighbours": 2, "iterations": 2, "lr": 1e-2, "bins": 4}

    anchor: str  # what the concept becomes; {anchor} is the concept's anchor, {sibling} its first sibling
    templates: list[str]  # wordings of concept, anchor and preserved names: {name}, and {other}: each unrelated thing in turn
    preserve: list[str]  # what must stay: any of PRESERVE
    captions: str | None  # a text file, one caption a line, to preserve as well
    preserve_scale: float  # lambda 1, of every preserved row
    ridge: float  # lambda, pull towards the original weights
    centred: bool  # cosines and distances are taken from the mean of the preserved texts: raw states all look alike
    neighbours: int  # K, random samples of either kind for each row
    cosine: list[float]  # S1 and S2: the band of a neighbour's cosine
    distance: float  # D1, its largest distance in units of the row's norm
    beyond_cosine: float  # the least cosine of a sample beyond the neighbourhood; the largest is S1
    neighbour_weight: float  # mu, of all neighbours of a row together, beside the row's 1
    beyond_weight: float  # nu, of all its samples beyond; in stage 2 beside the neighbours' 1
    iterations: int  # of stage 2 for each concept; 0: stage 1 alone
    rank: int
    batch: int
    lr: float
    weight_decay: float
    bins: int  # DDIM steps that cover the whole noise range
    material_guidance: float  # classifier-free guidance scale while making noisy latents

    def __post_init__(self) -> None:
        unknown = set(self.preserve) - set(PRESERVE)
        if unknown:
            raise ValueError(f"method.preserve={self.preserve} contains {sorted(unknown)}. Allowed: {', '.join(PRESERVE)}.")
        if not self.templates or not all("{name}" in template for template in self.templates):
            raise ValueError('method.templates needs wordings, each with {name}: for example method.templates=["a photo of {name}"].')
        if len(self.cosine) != 2 or not 0 < self.cosine[0] <= self.cosine[1] <= 1:
            raise ValueError(f"method.cosine={self.cosine} must be a band within 0 and 1, the smaller end first: method.cosine=[0.8,0.95].")
        least = (1 - self.cosine[0] ** 2) ** 0.5
        if not least - 1e-9 <= self.distance < 1:
            raise ValueError(
                f"method.distance={self.distance} must lie below 1 and at {least:.3f} or above: at a cosine of {self.cosine[0]} "
                "(method.cosine) no row is nearer than that."
            )
        if not -1 <= self.beyond_cosine <= self.cosine[0]:
            raise ValueError(f"method.beyond_cosine={self.beyond_cosine} must lie between -1 and the band {self.cosine} (method.cosine).")
        for field in ("neighbours", "rank", "batch", "bins"):
            if getattr(self, field) < 1:
                raise ValueError(f"method.{field}={getattr(self, field)} must be at least 1.")
        for field in ("ridge", "preserve_scale", "neighbour_weight", "beyond_weight", "iterations"):
            if getattr(self, field) < 0:
                raise ValueError(f"method.{field}={getattr(self, field)} must not be negative.")
        if self.captions is not None and not Path(self.captions).is_file():
            raise ValueError(f"method.captions={self.captions!r} is no file. Give a text file with one caption a line, or null.")
        if self.centred and not self.preserve and self.captions is None:
            raise ValueError(
                "method.centred needs preserved texts, whose mean is the centre: method.preserve=[empty], or method.centred=false."
            )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return ("words", "states", "cross_kv", *(("levels",) if self.iterations else ()))

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if self.iterations and model.dtype != "float32":
            return (
                f"RealEra trains float32 adapters: set model.dtype=float32 (it is {model.dtype}), or method.iterations=0 for stage 1 alone."
            )
        texts = {"anchor": self.anchor, "templates": "".join(self.templates)}
        if self.centred and not self.kept_texts(concepts):
            return "method.centred needs preserved texts, and the concept file names none: set method.preserve=[empty]."
        return unsupported_reason(concepts, texts, self.preserved_sources, self.anchored_name) or super().supports(model, concepts)

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        from vestige.bench.models.fingerprints import given

        return given(captions=self.captions)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        check_pairs(pipe, [(concept.name, self.anchored_name(concept)) for concept in concepts])
        original, kept = frozen_copy(pipe.denoiser), self.kept_texts(concepts)
        with torch.no_grad():
            examples = {concept.slug: self.sentences(pipe, concept) for concept in concepts}
            middle = self.middle(pipe, kept)
            u, v = self.refine(pipe, examples, kept, middle, ctx)
        tensors = {"edit.U": u.float(), "edit.V": v.float()}
        if self.iterations:
            with pipe.replaced(edited_weights(pipe, tensors)):
                trained = [self.train(pipe, original, slug, each, middle, ctx) for slug, each in examples.items()]
            tensors |= {f"lora.{n}.down": torch.cat([down[n] for down, _ in trained]) for n in trained[0][0]}
            tensors |= {f"lora.{n}.up": torch.cat([up[n] for _, up in trained]).T.contiguous() for n in trained[0][1]}
        facts = {"parts": [pipe.denoiser_name], "parameters": sum(weight.numel() for weight in projections(pipe).values())}
        return Erasure(tensors, {**facts, "left_out": left_out(concepts, self.preserved_sources)})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        with pipe.replaced(edited_weights(pipe, erasure.tensors)):
            yield pipe

    # Texts

    @property
    def preserved_sources(self) -> list[str]:
        return [source for source in self.preserve if source != "empty"]

    def anchored_name(self, concept: Concept) -> str:
        return self.anchor.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def worded(self, name: str, concept: Concept) -> list[str]:
        return [with_articles(text) for text in worded(self.templates, name, concept)]

    def kept_texts(self, concepts: list[Concept]) -> list[str]:
        captions = Path(self.captions).read_text(encoding="utf-8").splitlines() if self.captions else []
        names = kept_names(concepts, self.preserved_sources)
        return captions + [""] * ("empty" in self.preserve) + [text for name in names for text in self.worded(name, names[name])]

    def sentences(self, pipe: Pipe, concept: Concept) -> Sentences:
        """Words around the concept meet themselves, its tokens the anchor's last token, what follows is shifted along."""
        asked, wanted = self.worded(concept.name, concept), self.worded(self.anchored_name(concept), concept)
        ids = [[comparable_ids(pipe, text) for text in pair] for pair in zip(asked, wanted, strict=True)]
        places = torch.tensor([eraser(one, other, pipe.text.length) for one, other in ids], device=pipe.device)
        first = torch.tensor([1 + shared_head(*pair) for pair in ids], device=pipe.device)
        told, become = pipe.encode(asked), pipe.encode(wanted)
        goals = become.hidden.double().take_along_dim(places[..., None], 1)
        changed = torch.arange(pipe.text.length, device=pipe.device) >= first[:, None]
        return Sentences(told, become, goals, changed)

    def middle(self, pipe: Pipe, kept: list[str], batch: int = 250) -> Tensor:
        """[length, d], float64: the mean state of the preserved texts at each position, or zero."""
        total = torch.zeros(pipe.text.length, width_of(pipe), dtype=torch.float64, device=pipe.device)
        if not self.centred:
            return total
        for start in range(0, len(kept), batch):
            total += pipe.encode(kept[start : start + batch]).hidden.double().sum(0)
        return total / len(kept)

    # Samples

    def near(self, rows: Tensor, normal: Tensor | None, generator: torch.Generator) -> Tensor:
        low, high = self.cosine
        return near(rows, (low, high), self.distance, normal, generator)

    def far(self, rows: Tensor, normal: Tensor | None, generator: torch.Generator) -> Tensor:
        return far(rows, (self.beyond_cosine, self.cosine[0]), self.distance, normal, generator)

    # The two stages

    def refine(self, pipe: Pipe, examples: dict[str, Sentences], kept: list[str], middle: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Factors of the minimiser of, over all rows e with goals g, neighbours n and samples beyond b of e, preserved rows p,

        sum |W'e - W g|^2 + mu mean_k |W'n_k - W g|^2 + nu mean_k |W'b_k - W b_k|^2 + lambda_1 sum |W'p - W p|^2 + lambda |W' - W|^2.
        """
        normal, k = plane_normal(pipe), self.neighbours
        squares = self.preserve_scale * sum_of_squares(pipe, kept)
        cross, rows = torch.zeros_like(squares), len(kept) * pipe.text.length * (self.preserve_scale > 0)
        for slug, each in examples.items():
            # By name, not by position in the list: other concepts in the list change nothing.
            generator = ctx.generator(f"neighbours {slug}")
            for hidden, goals, changed in zip(each.asked.hidden.double(), each.goals, each.changed, strict=True):
                around = middle[changed].repeat(k, 1)
                centred = hidden[changed].repeat(k, 1) - around
                neighbours, beyond = (draw(centred, normal, generator) + around for draw in (self.near, self.far))
                for c, g, weight in ((hidden, goals, 1.0), (neighbours, goals[changed].repeat(k, 1), self.neighbour_weight / k)):
                    cross += weight * (g - c).T @ c
                    squares += weight * c.T @ c
                squares += self.beyond_weight / k * beyond.T @ beyond
                rows += len(hidden) + len(neighbours) * ((self.neighbour_weight > 0) + (self.beyond_weight > 0))
        check_spanned(rows, len(squares), self.ridge)
        return edit_of_sums(cross, squares, self.ridge)

    def train(
        self, pipe: Pipe, original: nn.Module, slug: str, each: Sentences, middle: Tensor, ctx: Context
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """layer -> down [rank, d] and layer -> up [rank, out] of one concept's adapter, trained alone on the weights of stage 1.

        mse(eps(x_t, neighbour), eps_0(x_t, anchor)) + nu mse(eps(x_t, beyond), eps_0(x_t, beyond)), on the way to images of it.
        """
        generator, normal = ctx.generator(f"training {slug}"), plane_normal(pipe)
        layers = {name.removesuffix(".weight"): weight for name, weight in projections(pipe).items()}
        size = self.rank**-0.5
        down = {n: nn.Parameter(size * torch.randn(self.rank, w.shape[1], generator=generator).to(w)) for n, w in layers.items()}
        up = {n: nn.Parameter(torch.zeros(self.rank, len(w)).to(w)) for n, w in layers.items()}
        optimiser = torch.optim.AdamW([*down.values(), *up.values()], lr=self.lr, weight_decay=self.weight_decay)

        def sampled(draw, picked: Tensor) -> Conditioning:
            """The sentences with every changed row replaced by a sample."""
            cond = each.asked.rows(picked)
            centred = cond.hidden.double() - middle
            moved = draw(centred.flatten(0, 1), normal, generator).view_as(centred) + middle
            return replace(cond, hidden=torch.where(each.changed[picked][..., None], moved.to(cond.hidden), cond.hidden))

        with adapters(pipe, down, up, lambda: None, "paper"):
            state = {"down": down, "up": up, "optimiser": optimiser, "generator": generator}
            for step in ctx.resumable(slug, range(self.iterations), **state):
                picked = torch.randint(len(each.asked), (self.batch,), generator=generator).to(pipe.device)
                bin = int(torch.randint(self.bins, (1,), generator=generator))
                how: dict[str, Any] = {"guidance": self.material_guidance, "alignment": "exact", "generator": generator, "module": original}
                x, t = partial_denoise(pipe, each.asked.rows(picked), bin=bin, bins=self.bins, **how)
                neighbours, beyond = sampled(self.near, picked), sampled(self.far, picked)
                with torch.no_grad():
                    wanted, kept = pipe.predict(x, t, each.wanted.rows(picked), original), pipe.predict(x, t, beyond, original)
                erasing = mse_loss(pipe.predict(x, t, neighbours), wanted)
                preserving = mse_loss(pipe.predict(x, t, beyond), kept)
                optimiser.zero_grad()
                (erasing + self.beyond_weight * preserving).backward()
                optimiser.step()
                ctx.log(step, loss=(erasing + self.beyond_weight * preserving).item(), erasing=erasing.item(), preserving=preserving.item())
        return {n: p.detach() for n, p in down.items()}, {n: p.detach() for n, p in up.items()}
