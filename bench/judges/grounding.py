"""GroundingDINO as a judge: a thing is present when the detector draws any box for its word.

gdino:<folder or hub id> in transformers' format, for example IDEA-Research/grounding-dino-tiny (Swin-T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.plugin import Judge
from vestige.bench.models import hub
from vestige.bench.models.device import placed


@dataclass
class GroundingDino(Judge):
    argument: ClassVar[str] = "folder"
    ranks: ClassVar[bool] = False

    folder: str  # or a hub id
    threshold: float  # of a box and of its words

    def check(self, name: str) -> None:
        hub.folder(self.folder, f"judge={name}")

    def inputs(self) -> dict[str, str]:
        return hub.inputs(judge=self.folder)

    def blank(self, name: str) -> AskingJudge:
        return AskingJudge(None, name, family="gdino")

    def load(self, name: str) -> AskingJudge:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        folder = hub.folder(self.folder, f"judge={name}")
        net = placed(AutoModelForZeroShotObjectDetection.from_pretrained(folder, use_safetensors=True))
        process = AutoProcessor.from_pretrained(folder)

        @torch.no_grad()
        def ask(images: Tensor, label: str) -> tuple[Tensor, Tensor]:
            """Any box; probability: the surest box, also below the threshold."""
            present, surest = [], []
            for image in images:
                inputs = process(images=[image], text=[f"{label.lower()}."], return_tensors="pt").to(net.device)
                outputs = net(**inputs)
                boxes = process.post_process_grounded_object_detection(outputs, inputs["input_ids"], self.threshold, self.threshold)[0]
                present.append(len(boxes["scores"]) > 0)
                surest.append(outputs.logits.sigmoid().max().cpu())
            return torch.tensor(present), torch.stack(surest)

        return AskingJudge(ask, name, family="gdino")
