"""Make a short prompt mean a longer one, or another one: the closed-form edit from which UCE descends, preserving nothing.

TIME, Orgad et al., "Editing Implicit Assumptions in Text-to-Image Diffusion Models", ICCV 2023 (arXiv 2303.08084);
bahjat-kawar/time-diffusion@1d6784a. The published alignment of tokens needs a destination that contains the source's words
("a rose" -> "a blue rose"), so it edits assumptions and cannot erase. The alignment `eraser` is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import LinearEdit, low_rank_edit

ALIGNMENTS = ("subsequence", "eraser")


@dataclass
class TimeEdit(LinearEdit):
    """Artefact: see LinearEdit. Several concepts are edited together (the paper edits one at a time)."""

    source: str  # {name} is the concept's name
    destination: str  # what the source comes to mean; {name}, {anchor}, {sibling}
    alignment: str  # subsequence (paper) or eraser
    templates: list[str]  # sentences around source and destination; {} is either
    ridge: float  # lambda

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"method.alignment={self.alignment!r} is not known. Allowed: {', '.join(ALIGNMENTS)}.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        for concept in concepts:
            if self.meaning(concept).strip().lower() == self.source.format(**words(concept)).strip().lower():
                return f"{self.meaning(concept)!r} should become itself: nothing would be edited. Choose another method.destination."
        return unsupported_reason(concepts, {"destination": self.destination}, [], self.meaning) or super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        check_pairs(pipe, [(concept.name, "") for concept in concepts] + [pair for c in concepts for pair in self.sentences(c)])
        rows = [self.rows(pipe, *pair) for concept in concepts for pair in self.sentences(concept)]
        edit, goal = (torch.cat([pair[k] for pair in rows]) for k in range(2))
        nothing = edit[:0]
        u, v = low_rank_edit(edit, goal, 1.0, nothing, 0.0, self.ridge)
        return self.artefact(pipe, u, v, rows=len(edit))

    def meaning(self, concept: Concept) -> str:
        return self.destination.format(**words(concept))

    def sentences(self, concept: Concept) -> list[tuple[str, str]]:
        source, goal = self.source.format(**words(concept)), self.meaning(concept)
        return [(with_articles(template.format(source)), with_articles(template.format(goal))) for template in self.templates]

    def rows(self, pipe: Pipe, source: str, destination: str) -> tuple[Tensor, Tensor]:
        """All source positions [length, d] and the destination rows they are aligned with."""
        align = subsequence if self.alignment == "subsequence" else eraser
        places = align(comparable_ids(pipe, source), comparable_ids(pipe, destination), pipe.text.length)
        hidden = pipe.encode([source, destination]).hidden
        return hidden[0], hidden[1, places]


def words(concept: Concept) -> dict[str, str]:
    """What source and destination may name."""
    return {"name": concept.name, "anchor": concept.anchor, "sibling": next(iter(concept.siblings), "")}


def comparable_ids(pipe: Pipe, text: str) -> list[int]:
    """Token ids in which "an" counts as "a": the article depends on the word that is exchanged."""
    same = {pipe.text.token_ids("an")[0]: pipe.text.token_ids("a")[0]}
    return [same.get(token, token) for token in pipe.text.token_ids(text)]


def subsequence(source: list[int], destination: list[int], length: int) -> list[int]:
    """The destination position of every source position: equal tokens in order, everything after them shifted along."""
    places, at = [0], 0
    for token in source:
        at += 1
        while at <= len(destination) and destination[at - 1] != token:
            at += 1
        if at > len(destination):
            raise ValueError(
                "method.alignment=subsequence needs a destination that contains the source's words in order. "
                "To replace a concept set method.alignment=eraser."
            )
        places.append(at)
    return (places + [min(at + k, length - 1) for k in range(1, length)])[:length]


def eraser(source: list[int], destination: list[int], length: int) -> list[int]:
    """Shared words around the concept to themselves, the concept's tokens to the anchor's last token, padding shifted along."""
    shared = 0
    while shared < min(len(source), len(destination)) and source[shared] == destination[shared]:
        shared += 1
    tail, room = 0, min(len(source), len(destination)) - shared
    while tail < room and source[-1 - tail] == destination[-1 - tail]:
        tail += 1
    last = len(destination) - tail  # position of the anchor's last token: positions count the begin token
    places = list(range(shared + 1)) + [last] * (len(source) - shared - tail)
    return (places + [min(last + k, length - 1) for k in range(1, length)])[:length]
