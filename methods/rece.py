"""After UCE, find the text states that still reach the concept, erase those too, and repeat: all in closed form.

RECE, Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models", ECCV 2024 (arXiv 2407.12383);
CharlesGong12/RECE@403a67f. The official scripts pick the epoch by a detector on validation images; here the number of
epochs is a setting. Sums over layers run through one Gram matrix, so no layer is visited before the edit is attached.

All is solved in float64. The scripts invert float32 matrices, which at the small regular scales of styles and hard objects is
not their own formula: at 0.001 the edit came out with norm 182 where the formula gives 49.5.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure
from vestige.bench.models.pipe import Pipe
from vestige.methods._closed_form import chained, gram, low_rank_edit, single_thread, width_of
from vestige.methods._text_rows import all_rows
from vestige.methods.uce import UCE

REGULARISERS = ("zero", "standard", "own")


@dataclass
class RECE(UCE):
    """The fields of UCE describe the start; `adversarial_*` the rounds after it. Artefact: see LinearEdit."""

    version: ClassVar[int] = 2
    evidence: ClassVar[tuple[str, ...]] = (
        "CharlesGong12/RECE@403a67f: edits to 1e-7, one and several concepts, regulariser zero and standard",
    )

    epochs: int  # rounds; 0 is UCE
    regulariser: str  # what states are pulled to; zero: nothing (official default), standard: the guide's (official), own: the concept's
    regular_scale: float  # r, its weight
    adversarial_ridge: float  # lambda 1, pull towards the weights of the round before
    adversarial_preserve_scale: float  # lambda 2
    empty_per_text: bool  # rounds preserve the empty text once for each edited text (official for explicit content), not once in all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regulariser not in REGULARISERS:
            raise ValueError(f"method.regulariser={self.regulariser!r} is not known. Allowed: {', '.join(REGULARISERS)}.")
        if self.regular_scale <= 0:
            raise ValueError(f"method.regular_scale={self.regular_scale} must be positive: without it the states have no limit.")

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        edit, goal = self.edited_rows(pipe, concepts)
        kept = self.kept_rows(pipe, concepts)
        factors = low_rank_edit(edit, goal, self.erase_scale, kept, self.preserve_scale, self.ridge)
        weights = gram(pipe, self.layers)
        asked, wanted = (list(texts) for texts in zip(*self.pairs(concepts), strict=True))
        k, g, preserved = all_rows(pipe, asked).double(), all_rows(pipe, wanted).double(), self.preserved_rows(pipe, concepts)
        towards = {"zero": torch.zeros_like(k), "standard": g, "own": k}[self.regulariser]
        for epoch in range(self.epochs):
            found = adversarial_rows(k, factors, weights, towards, self.regular_scale)
            ctx.log(epoch, growth=(found.norm() / k.norm()).item())
            step = low_rank_edit(found, g, self.erase_scale, preserved, self.adversarial_preserve_scale, self.adversarial_ridge)
            factors = chained(factors, step)
        return self.artefact(pipe, *factors, rows=len(edit), epochs=self.epochs)

    def preserved_rows(self, pipe: Pipe, concepts: list[Concept]) -> Tensor:
        """All positions of the preserved texts, whatever rule the start has."""
        texts = self.kept_texts(concepts)
        if self.empty_per_text:
            texts += [""] * (texts.count("") * (len(self.pairs(concepts)) - 1))
        return all_rows(pipe, texts) if texts else torch.zeros(0, width_of(pipe), device=pipe.device)


def adversarial_rows(k: Tensor, factors: tuple[Tensor, Tensor], weights: Tensor, towards: Tensor, r: float) -> Tensor:
    """Rows x [n, d] whose edited outputs come nearest to the original outputs of rows k [n, d]:
    min sum_l |W_l T x - W_l k|^2 + r |x - towards|^2; eq. 8 of the paper has towards = 0 [n, d], W_l T are the edited weights,
    and weights = sum W_l^T W_l.
    """
    t = torch.eye(k.shape[1], dtype=k.dtype, device=k.device) + factors[0] @ factors[1].T
    left = t.T @ weights @ t + r * torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    right = t.T @ weights @ k.T + r * towards.T
    with single_thread():
        return torch.linalg.solve((left + left.T) / 2, right).T
