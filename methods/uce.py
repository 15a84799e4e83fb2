"""Rewrite, in closed form, what the model looks up when it reads the concept's words; other words keep their answers.

UCE, Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761);
rohitgandikota/unified-concept-editing@35e91e2 (produced the paper; uce) and @28c81ed (the 2025 rewrite; uce_lasttoken).
Erasing and moderating only: debiasing is another loop around the same solution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.pipe import Pipe
from bench.plugin import Context
from bench.types import Concept, Erasure, ModelSpec
from methods._closed_form import LinearEdit, aligned_rows, all_rows, kept_names, last_rows, low_rank_edit, worded

ROWS = ("last_to_end_aligned", "last")
PRESERVE = ("empty", "siblings", "others")


@dataclass
class UCE(LinearEdit):
    """Edits the keys and values of cross-attention. Artefact: see LinearEdit."""

    rows: str  # which token positions are edited: one of ROWS
    guide: str  # the text whose output the concept gets; {anchor} is the concept's anchor, {sibling} its first sibling
    preserve: list[str]  # what must stay: any of PRESERVE
    templates: list[str]  # wordings of concept, guide and preserved names: {name}, and {other}: each unrelated thing in turn
    erase_scale: float
    preserve_scale: float
    ridge: float  # lambda, pull towards the original weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows not in ROWS:
            raise ValueError(f"method.rows={self.rows!r} is not known. Allowed: {', '.join(ROWS)}.")
        unknown = set(self.preserve) - set(PRESERVE)
        if unknown:
            raise ValueError(f"method.preserve={self.preserve} contains {sorted(unknown)}. Allowed: {', '.join(PRESERVE)}.")
        if not self.templates:
            raise ValueError('method.templates is empty. The bare name is method.templates=["{name}"].')

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        needs = {"{other}": ("others", "".join(self.templates)), "{sibling}": ("siblings", self.guide)}
        for placeholder, (entry, where) in needs.items():
            if placeholder in where and not all(getattr(concept, entry) for concept in concepts):
                return f"its settings use {placeholder}: the concept file needs entries under `{entry}`."
        return super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        edit, goal = self.edited_rows(pipe, concepts)
        u, v = low_rank_edit(edit, goal, self.erase_scale, self.kept_rows(pipe, concepts), self.preserve_scale, self.ridge)
        return self.artefact(pipe, u, v, rows=len(edit))

    def edited_rows(self, pipe: Pipe, concepts: list[Concept]) -> tuple[Tensor, Tensor]:
        """C and G, [N, d] each; all concepts are solved together."""
        edits, goals = [], []
        for concept in concepts:
            guide = self.guided_name(concept)
            for asked, wanted in zip(self.worded(concept.name, concept), self.worded(guide, concept), strict=True):
                pair = aligned_rows(pipe, asked, wanted) if self.rows == ROWS[0] else (last_rows(pipe, asked), last_rows(pipe, wanted))
                edits.append(pair[0])
                goals.append(pair[1])
        return torch.cat(edits), torch.cat(goals)

    def worded(self, name: str, concept: Concept) -> list[str]:
        return worded(self.templates, name, concept)

    def guided_name(self, concept: Concept) -> str:
        return self.guide.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def kept_texts(self, concepts: list[Concept]) -> list[str]:
        names = kept_names(concepts, [source for source in self.preserve if source != "empty"])
        return [""] * ("empty" in self.preserve) + [text for name in names for text in self.worded(name, names[name])]

    def kept_rows(self, pipe: Pipe, concepts: list[Concept]) -> Tensor:
        """P [M, d]: every position of the preserved texts, or their last tokens."""
        texts = self.kept_texts(concepts)
        if not texts:
            return torch.zeros(0, pipe.unet.config.cross_attention_dim, device=pipe.device)
        return all_rows(pipe, texts) if self.rows == ROWS[0] else torch.cat([last_rows(pipe, text) for text in texts])
