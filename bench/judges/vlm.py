"""A visual language model as a judge: vlm:<hub id or folder>[@<precision>], asked for a yes or no (bench/vision/vlm.py).

HUB asks InternVL2.5-8B-MPO with three reference images of the original model and lets it reason first; EraseEval asks PaliGemma.
Here the question stands alone and the answer is greedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.types import Concept
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.plugin import Judge
from vestige.bench.vision import vlm


class VlmJudge(AskingJudge):
    """A style is asked for as a style."""

    def about(self, concepts: list[Concept]) -> AskingJudge:
        informed = super().about(concepts)
        informed.wording |= {c.slug: f"the style of {c.name}" for c in concepts if c.kind == "style"}
        return informed


@dataclass
class VisualLanguageModel(Judge):
    argument: ClassVar[str] = "folder"
    ranks: ClassVar[bool] = False

    folder: str  # or a hub id; @bfloat16 or @float16 after it is its precision
    question: str  # {} stands for the thing

    def check(self, name: str) -> None:
        vlm.folder(self.folder, f"judge={name}")

    def inputs(self) -> dict[str, str]:
        return vlm.inputs(judge=self.folder)

    def blank(self, name: str) -> AskingJudge:
        return VlmJudge(None, name, family="vlm")

    def load(self, name: str) -> AskingJudge:
        model = vlm.load(self.folder, f"judge={name}")

        def ask(images: Tensor, label: str) -> tuple[Tensor, Tensor]:
            """Probability: 1 or 0, the answer itself."""
            yes = torch.tensor([vlm.says_yes(answer) for answer in model.answer(images, self.question.format(label), 8)])
            return yes, yes.float()

        return VlmJudge(ask, name, family="vlm")
