"""A visual language model as a judge: vlm:<hub id or folder>, asked for a yes or no (bench/vision/vlm.py).

HUB asks InternVL2.5-8B-MPO with three reference images of the original model and lets it reason first; EraseEval asks PaliGemma.
Here the question stands alone and the answer is greedy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vestige.bench.contract.types import Concept
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.models import hub
from vestige.bench.vision import vlm

QUESTION = "Does this picture show {}? Answer yes or no."


class VlmJudge(AskingJudge):
    """A style is asked for as a style."""

    def about(self, concepts: list[Concept]) -> AskingJudge:
        informed = super().about(concepts)
        informed.wording |= {c.slug: f"the style of {c.name}" for c in concepts if c.kind == "style"}
        return informed


def check(judge_id: str) -> None:
    hub.folder(judge_id.partition(":")[2], f"judge={judge_id}")


def inputs(judge_id: str) -> dict[str, str]:
    return hub.inputs(judge=judge_id.partition(":")[2])


def blank(judge_id: str) -> AskingJudge:
    return VlmJudge(None, judge_id, family="vlm")


def load(judge_id: str) -> AskingJudge:
    model = vlm.load(judge_id.partition(":")[2], f"judge={judge_id}")

    def ask(images: Tensor, label: str) -> tuple[Tensor, Tensor]:
        """Probability: 1 or 0, the answer itself."""
        yes = torch.tensor([vlm.says_yes(answer) for answer in model.answer(images, QUESTION.format(label), 8)])
        return yes, yes.float()

    return VlmJudge(ask, judge_id, family="vlm")
