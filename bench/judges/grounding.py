"""GroundingDINO as a judge: a thing is present when the detector draws any box for its word.

gdino:<folder or hub id> in transformers' format, for example IDEA-Research/grounding-dino-tiny (Swin-T). Receler judges CIFAR-10
with both thresholds at 0.5.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vestige.bench.judges.asking import AskingJudge
from vestige.bench.models import hub

THRESHOLD = 0.5  # of a box and of its words


def check(judge_id: str) -> None:
    _folder(judge_id)


def _folder(judge_id: str) -> Path:
    return hub.folder(judge_id.partition(":")[2], f"judge={judge_id}")


def inputs(judge_id: str) -> dict[str, str]:
    return hub.inputs(judge=judge_id.partition(":")[2])


def blank(judge_id: str) -> AskingJudge:
    return AskingJudge(None, judge_id, family="gdino")


def load(judge_id: str) -> AskingJudge:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    net = AutoModelForZeroShotObjectDetection.from_pretrained(_folder(judge_id), use_safetensors=True).eval().requires_grad_(False)
    process = AutoProcessor.from_pretrained(_folder(judge_id))

    @torch.no_grad()
    def ask(images: Tensor, label: str) -> tuple[Tensor, Tensor]:
        """Any box; probability: the surest box, also below the threshold."""
        present, surest = [], []
        for image in images:
            inputs = process(images=[image], text=[f"{label.lower()}."], return_tensors="pt")
            outputs = net(**inputs)
            boxes = process.post_process_grounded_object_detection(outputs, inputs["input_ids"], THRESHOLD, THRESHOLD)[0]
            present.append(len(boxes["scores"]) > 0)
            surest.append(outputs.logits.sigmoid().max())
        return torch.tensor(present), torch.stack(surest)

    return AskingJudge(ask, judge_id, family="gdino")
