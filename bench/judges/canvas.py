"""UnlearnCanvas' pair of ViT-L/16 classifiers (arXiv 2402.11846): one for its styles, one for its objects.

canvas:<folder>, a folder with the two published checkpoints under the names style.pth and object.pth: pickled dictionaries
whose key `model_state_dict` holds a timm vit_large_patch16_224.augreg_in21k with a fresh linear head
(machine_unlearning/evaluation/quantitative/accuracy.py at 920cfd1). They are read with weights_only.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.building import read_yaml
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models.device import beside, placed
from vestige.bench.models.fingerprints import given
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.vision.pixels import HALF, at_side, normalised

ARCHITECTURE, SIDE = "vit_large_patch16_224", 224
FILES = {"style": "style.pth", "object": "object.pth"}

NAMES: dict[str, list[str]] = read_yaml(Path(__file__).parent / "unlearncanvas.yaml")


@dataclass
class UnlearnCanvas(Judge):
    argument: ClassVar[str] = "folder"

    folder: str

    def check(self, name: str) -> None:
        if importlib.util.find_spec("timm") is None:
            raise ValueError(f"judge={name} needs timm. Install it: pip install timm")
        folder = Path(self.folder).expanduser()
        lost = [file for file in FILES.values() if not (folder / file).is_file()]
        if lost:
            raise ValueError(
                f"judge={name}: {folder} lacks {' and '.join(lost)}. Download the style and the object classifier of "
                "UnlearnCanvas (links in the README of github.com/OPTML-Group/UnlearnCanvas) and put them there under these names."
            )

    def inputs(self) -> dict[str, str]:
        return given(judge=self.folder)

    def blank(self, name: str) -> PresenceJudge:
        return PresenceJudge(None, {head: [slug(label) for label in labels] for head, labels in NAMES.items()}, name, family="canvas")

    def load(self, name: str) -> PresenceJudge:
        nets = {head: _net(Path(self.folder).expanduser() / file, len(NAMES[head])) for head, file in FILES.items()}

        def logits(images: Tensor) -> dict[str, Tensor]:
            # torchvision's Resize((224, 224)): squashed, bilinear.
            pixels = normalised(at_side(beside(nets["style"], images).float() / 255, SIDE, "bilinear"), **HALF)
            return {head: net(pixels) for head, net in nets.items()}

        return self.blank(name).with_logits(logits)


def _net(file: Path, labels: int) -> torch.nn.Module:
    import timm

    net = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=labels)
    content = torch.load(file, map_location="cpu", weights_only=True)
    state = content.get("model_state_dict", content)
    rows = len(state["head.weight"]) if "head.weight" in state else 0
    if rows != labels:
        raise ValueError(f"{file} has {rows} classes; this classifier has {labels}. Are style.pth and object.pth exchanged?")
    net.load_state_dict(state)
    return placed(net)
