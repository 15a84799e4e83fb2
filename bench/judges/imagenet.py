"""ImageNet classifiers as judges of objects. Groups: imagenet_groups.yaml beside this file."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vestige.bench.contract.building import read_yaml
from vestige.bench.contract.types import canonical_hash
from vestige.bench.judges import zero_shot
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import Columns, PresenceJudge
from vestige.bench.models import hub
from vestige.bench.models.device import beside, placed
from vestige.bench.models.fingerprints import given
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.vision import listings
from vestige.bench.vision.pixels import IMAGENET, at_side, normalised

GROUPS = Path(__file__).parent / "imagenet_groups.yaml"
FILE = "resnet50-11ad3fa6.pth"


@cache
def groups() -> dict[str, Columns]:
    """Everyday words -> the ImageNet classes they cover, as columns of the head "object"."""
    written = read_yaml(GROUPS)
    return {name: ("object", [k for part in parts for k in _range(part)]) for name, parts in written.items()}


def _range(part: int | str) -> list[int]:
    """497 -> [497]; "7-9" -> [7, 8, 9]."""
    first, _, last = str(part).partition("-")
    return list(range(int(first), int(last or first) + 1))


@cache
def labels() -> list[str]:
    """The 1,000 class names of torchvision, as slugs."""
    return [slug(name) for name in listings.imagenet_classes()]


@dataclass
class ImageNetJudge(Judge):
    """Answers with one of 1,000 classes; with candidates the likeliest of that list."""

    candidates: str | None  # a list of candidates.yaml, or null

    def check(self, name: str) -> None:
        if self.candidates:
            zero_shot.closed_list(self.candidates)
        _file(name)

    def inputs(self) -> dict[str, str]:
        narrow = {"candidates": canonical_hash(zero_shot.closed_list(self.candidates))} if self.candidates else {}
        return given(judge=hub.torch_path(FILE)) | {"groups": canonical_hash(groups())} | narrow

    def blank(self, name: str) -> PresenceJudge:
        return self._narrowed(PresenceJudge(None, {"object": labels()}, name, groups(), "imagenet"))

    def load(self, name: str) -> PresenceJudge:
        from torchvision.models import resnet50

        net = resnet50()
        net.load_state_dict(torch.load(_file(name), weights_only=True, map_location="cpu"))
        placed(net)

        def logits(images: Tensor) -> dict[str, Tensor]:
            # V2's own preprocessing: side 232 (bilinear), centre crop 224.
            pixels = at_side(beside(net, images).float() / 255, 232, "bilinear")[..., 4:228, 4:228]
            return {"object": net(normalised(pixels, **IMAGENET))}

        return self._narrowed(PresenceJudge(logits, {"object": labels()}, name, groups(), "imagenet"))

    def _narrowed(self, whole: PresenceJudge) -> PresenceJudge:
        return closed(whole, zero_shot.closed_list(self.candidates)[1]) if self.candidates else whole


def closed(judge: PresenceJudge, chosen: list[str]) -> PresenceJudge:
    """The judge that answers only these of its objects."""
    columns = [judge.labels["object"].index(label) for label in chosen]
    narrow = PresenceJudge(lambda images: {"object": judge.logits(images)["object"][:, columns]}, {"object": chosen}, judge.name)
    narrow.family = judge.family
    narrow.meta = {"candidates": len(chosen), "candidates_hash": canonical_hash(chosen), "candidate_texts": {"object": chosen}}
    return narrow


def _file(name: str) -> Path:
    how = "from torchvision.models import *; resnet50(weights=ResNet50_Weights.IMAGENET1K_V2)"
    return hub.torch_file(FILE, f"judge={name}", how)
