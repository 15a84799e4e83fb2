"""UCE's other use: an attribute that a concept's images show too often (doctors who are men) is balanced, nothing is erased.

Section 4.3 and appendix of the paper cited in methods/uce.py; rohitgandikota/unified-concept-editing@35e91e2,
train-scripts/train_debias.py. Draw the concept, let a CLIP model say which attribute each image shows, push the concept's
answers towards the rare attributes and away from the common ones, and repeat from the weights so far. Goals differ by layer
(each attribute is scaled to the layer's answers), so there is no common T: all layers share one factorisation instead.

Every attribute is scaled to the answers before the round. In the code the goal is an alias of the answers, so that the second
attribute is scaled to what the first has moved: 6 to 21 % of the step in one round.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.pipe import Pipe
from vestige.methods._checks import check_pairs
from vestige.methods._closed_form import left_out, projections, solved_per_layer
from vestige.methods._text_rows import all_rows
from vestige.methods.uce import UCE

BATCH = 32  # images drawn at once


@dataclass
class UCEDebias(UCE):
    """Artefact: the new key and value weights by name. Of UCE's fields `guide` and `rows` have no effect here."""

    evidence: ClassVar[tuple[str, ...]] = (
        "rohitgandikota/unified-concept-editing@35e91e2: differs by 6 to 21 % in one round, its target is aliased",
    )

    attributes: list[str]  # what fills {name} instead of the concept: male, female; may itself hold {name}
    ratios: list[float]  # the wanted share of each attribute; empty: equal shares
    step: float  # of the goals, in units of the answers' norm, for a share that is off by one
    tolerance: float  # a text whose shares are nearer than this is done: preserved from then on and drawn no more
    rounds: int  # at most
    images: int  # per text and round
    clip: str  # who tells attributes apart: emoji, or <open_clip model>/<weights>

    quick: ClassVar[dict] = {"images": 2, "rounds": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attributes) < 2:
            raise ValueError(f"method.attributes={self.attributes} needs at least two: for example method.attributes=[male,female].")
        if self.ratios and (len(self.ratios) != len(self.attributes) or abs(sum(self.ratios) - 1) > 1e-6):
            raise ValueError(f"method.ratios={self.ratios} must be shares of {self.attributes}, together 1; [] makes them equal.")
        for field in ("rounds", "images"):
            if getattr(self, field) < 1:
                raise ValueError(f"method.{field}={getattr(self, field)} must be at least 1.")
        if self.form != "merge":
            raise ValueError("method.form=hook is impossible here: each layer gets weights of its own. Set method.form=merge.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        from vestige.bench.vision import features

        return features.check(self.clip) or super().supports(model, concepts)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("draw", *super().needs)

    attach = Method.attach

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        from vestige.bench.vision import features

        return features.inputs(f"clip:{self.clip}")

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        texts = self.texts(concepts)
        check_pairs(pipe, [(text, other) for text, others in texts.items() for other in others])
        shares: dict[str, Tensor] = {}
        done: list[str] = []
        names = [f"{pipe.denoiser_name}.{name}" for name in projections(pipe, self.layers)]
        for k in range(self.rounds):
            active = [text for text in texts if text not in done]
            shares |= {text: self.measured_shares(pipe, text, texts[text], ctx, k) for text in active}
            gaps = {text: self.wanted(len(share)) - share for text, share in shares.items()}
            ctx.log(k, largest_gap=max(gap.abs().max().item() for gap in gaps.values()))
            done += [text for text in active if gaps[text].abs().max() < self.tolerance]
            active = [text for text in active if text not in done]
            if not active:
                break
            kept = [*self.kept_texts(concepts), *done]
            for name, new in self.moved(pipe, active, texts, gaps, kept).items():
                pipe.parameter(name).copy_(new)  # the next round starts from here; the harness restores the model
        tensors = {name: pipe.parameter(name).detach().clone() for name in names}
        facts = {"rounds": k + 1, "balanced": done, "shares": {text: share.tolist() for text, share in shares.items()}}
        facts |= {"left_out": left_out(concepts, self.preserved_sources)}
        return Erasure(tensors, {"parameters": sum(t.numel() for t in tensors.values()), **facts})

    def texts(self, concepts: list[Concept]) -> dict[str, list[str]]:
        """Each wording of each concept -> the same wording with each attribute in the concept's place."""
        found: dict[str, list[str]] = {}
        for concept in concepts:
            for name in self.edited_names(concept):
                others = [self.worded(attribute.format(name=name), concept) for attribute in self.attributes]
                found |= {text: list(attributed) for text, *attributed in zip(self.worded(name, concept), *others, strict=True)}
        return found

    def wanted(self, n: int) -> Tensor:
        return torch.tensor(self.ratios or [1 / n] * n, dtype=torch.float64)

    def measured_shares(self, pipe: Pipe, text: str, attributed: list[str], ctx: Context, k: int) -> Tensor:
        """[attributes]: of new images of the text by the model so far, the share that is nearest to each attributed text."""
        from vestige.bench.vision.clip_models import load_clip

        clip = load_clip(self.clip)
        seeds = torch.randint(2**31, (self.images,), generator=ctx.generator(f"pictures {k} of {text}")).tolist()
        written, counts = clip.text(attributed), torch.zeros(len(attributed), dtype=torch.float64)
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]
            seen = clip.image(pipe([text] * len(part), part, ctx.sampler).pixels)
            counts += torch.bincount((seen @ written.T).argmax(-1), minlength=len(counts))
        return counts / len(seeds)

    def moved(
        self, pipe: Pipe, active: list[str], texts: dict[str, list[str]], gaps: dict[str, Tensor], kept: list[str]
    ) -> dict[str, Tensor]:
        """New weights by name: the texts' rows C answer W C + step sum_a gap_a |W C| W A_a / |W A_a|, kept rows as they do."""
        weights = {f"{pipe.denoiser_name}.{n}": w for n, w in projections(pipe, self.layers).items()}
        contexts: list[Tensor] = []
        goals: dict[str, list[Tensor]] = {name: [] for name in weights}
        for text in active:
            context, *others = spans(pipe, [text, *texts[text]])
            contexts.append(context)
            for name, w in weights.items():
                answers = context @ w.double().T
                pushes = [gap * normalised(rows @ w.double().T) for gap, rows in zip(gaps[text].tolist(), others, strict=True)]
                goals[name].append(answers + self.step * answers.norm() * sum(pushes))
        edit = torch.cat(contexts)
        rows = all_rows(pipe, kept) if kept else edit[:0]
        settings = (self.erase_scale, rows, self.preserve_scale, self.ridge)
        return solved_per_layer(weights, edit, {name: torch.cat(rows) for name, rows in goals.items()}, *settings)


def spans(pipe: Pipe, texts: list[str]) -> list[Tensor]:
    """Rows [n, d] of each text from its last token to the end of the padding, shifted so that the last tokens meet; float64."""
    cond = pipe.encode(texts)
    first = pipe.text.last_token(cond.ids).tolist()
    n = pipe.text.length - max(first)
    return [hidden[k : k + n].double() for hidden, k in zip(cond.hidden, first, strict=True)]


def normalised(rows: Tensor) -> Tensor:
    return rows / rows.norm()
