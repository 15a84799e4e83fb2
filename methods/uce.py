"""Rewrite, in closed form, what the model looks up when it reads the concept's words; other words keep their answers.

UCE, Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761);
rohitgandikota/unified-concept-editing@35e91e2 (produced the paper; uce) and @28c81ed (the 2025 rewrite; uce_lasttoken).
Erasing and moderating (all words of a concept towards the empty text) differ in settings; debiasing is methods/uce_debias.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.pipe import Pipe
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import LinearEdit, kept_names, left_out, low_rank_edit, width_of, worded
from vestige.methods._text_rows import aligned_rows, all_rows, last_rows

ROWS = ("last_to_end_aligned", "last")
EDITS = ("name", "aliases")
PRESERVE = ("empty", "siblings", "others")


@dataclass
class UCE(LinearEdit):
    """Edits the keys and values of cross-attention. Artefact: see LinearEdit."""

    evidence: ClassVar[tuple[str, ...]] = (
        "rohitgandikota/unified-concept-editing@35e91e2: edits to 3e-7",
        "rohitgandikota/unified-concept-editing@28c81ed: edits to 3e-7 (uce_lasttoken)",
    )

    rows: str  # which token positions are edited: one of ROWS
    edits: list[str]  # which words of a concept: any of EDITS
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
        for key, allowed in (("edits", EDITS), ("preserve", PRESERVE)):
            unknown = set(getattr(self, key)) - set(allowed)
            if unknown:
                raise ValueError(f"method.{key}={getattr(self, key)} contains {sorted(unknown)}. Allowed: {', '.join(allowed)}.")
        if not self.edits:
            raise ValueError("method.edits is empty: nothing would be erased. The usual choice is method.edits=[name].")
        if not self.templates:
            raise ValueError('method.templates is empty. The bare name is method.templates=["{name}"].')
        if self.ridge < 0:
            raise ValueError(f"method.ridge={self.ridge} must not be negative.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if not all(self.edited_names(concept) for concept in concepts):
            return f"method.edits={self.edits} leaves nothing to edit: the concept file needs entries under `aliases`."
        texts = {"guide": self.guide, "templates": "".join(self.templates)}
        return unsupported_reason(concepts, texts, self.preserved_sources, self.guided_name) or super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        edit, goal = self.edited_rows(pipe, concepts)
        u, v = low_rank_edit(edit, goal, self.erase_scale, self.kept_rows(pipe, concepts), self.preserve_scale, self.ridge)
        return self.artefact(pipe, u, v, rows=len(edit), left_out=left_out(concepts, self.preserved_sources))

    def edited_rows(self, pipe: Pipe, concepts: list[Concept]) -> tuple[Tensor, Tensor]:
        """C and G, [N, d] each; all concepts are solved together."""
        check_pairs(pipe, [(name, self.guided_name(concept)) for concept in concepts for name in self.edited_names(concept)])
        edits, goals = [], []
        for asked, wanted in self.pairs(concepts):
            pair = aligned_rows(pipe, asked, wanted) if self.rows == ROWS[0] else (last_rows(pipe, asked), last_rows(pipe, wanted))
            edits.append(pair[0])
            goals.append(pair[1])
        return torch.cat(edits), torch.cat(goals)

    def pairs(self, concepts: list[Concept]) -> list[tuple[str, str]]:
        """(text, the text whose answers it gets), in every wording."""
        return [
            pair
            for concept in concepts
            for name in self.edited_names(concept)
            for pair in zip(self.worded(name, concept), self.worded(self.guided_name(concept), concept), strict=True)
        ]

    def edited_names(self, concept: Concept) -> list[str]:
        return [concept.name] * ("name" in self.edits) + concept.aliases * ("aliases" in self.edits)

    @property
    def preserved_sources(self) -> list[str]:
        """Entries of the concept file that are preserved."""
        return [source for source in self.preserve if source != "empty"]

    def worded(self, name: str, concept: Concept) -> list[str]:
        return worded(self.templates, name, concept)

    def guided_name(self, concept: Concept) -> str:
        return self.guide.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def kept_texts(self, concepts: list[Concept]) -> list[str]:
        names = kept_names(concepts, self.preserved_sources)
        return [""] * ("empty" in self.preserve) + [text for name in names for text in self.worded(name, names[name])]

    def kept_rows(self, pipe: Pipe, concepts: list[Concept]) -> Tensor:
        """P [M, d]: every position of the preserved texts, or their last tokens."""
        texts = self.kept_texts(concepts)
        if not texts:
            return torch.zeros(0, width_of(pipe), device=pipe.device)
        return all_rows(pipe, texts) if self.rows == ROWS[0] else torch.cat([last_rows(pipe, text) for text in texts])
