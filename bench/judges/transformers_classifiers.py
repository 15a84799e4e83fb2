"""Image classifiers in transformers' format: an ImageNet ResNet-50 and the classifier of 129 WikiArt artists.

resnet50_hf:<folder or hub id> (UnlearnDiffAtk uses microsoft/resnet-50) and artist:<folder or hub id> (UnlearnDiffAtk's ViT,
checkpoint-2800). Both read images through the image processor that lies beside their weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.types import canonical_hash
from vestige.bench.judges import imagenet
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models import hub
from vestige.bench.models.device import placed
from vestige.bench.prompts.prompt_sets import slug


@dataclass
class HubClassifier(Judge):
    """What both have in common. how: where to get one."""

    argument: ClassVar[str] = "folder"
    how: ClassVar[str] = ""

    folder: str  # or a hub id

    def check(self, name: str) -> None:
        try:
            hub.folder(self.folder, f"judge={name}")
        except ValueError as reason:
            raise ValueError(f"{reason} {self.how}") from reason

    def inputs(self) -> dict[str, str]:
        return hub.inputs(judge=self.folder)

    def blank(self, name: str) -> PresenceJudge | None:
        """Its labels stand in its configuration; without one nobody knows them before the weights are here."""
        place = hub.cached(self.folder)
        if place is None or not (place / "config.json").is_file():
            return None
        config = json.loads((place / "config.json").read_text())
        return self.with_labels([label for _, label in sorted((int(k), label) for k, label in config.get("id2label", {}).items())], name)

    def with_labels(self, labels: list[str], name: str) -> PresenceJudge:
        """The judge without its network, of the labels that its configuration lists, in their order."""
        raise TypeError(f"{type(self).__name__} must define with_labels(labels, name).")

    def load(self, name: str) -> PresenceJudge:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        where = hub.folder(self.folder, f"judge={name}")
        judge = self.blank(name)
        assert judge is not None, "check() asks for the labels"
        net = placed(AutoModelForImageClassification.from_pretrained(where, use_safetensors=True))
        process = AutoImageProcessor.from_pretrained(where)
        (head,) = judge.labels

        @torch.no_grad()
        def logits(images: Tensor) -> dict[str, Tensor]:
            return {head: net(**process(images=list(images), return_tensors="pt").to(net.device)).logits}

        return judge.with_logits(logits)


class HubImageNet(HubClassifier):
    how: ClassVar[str] = "For example judge=resnet50_hf:microsoft/resnet-50."

    def inputs(self) -> dict[str, str]:
        return super().inputs() | {"groups": canonical_hash(imagenet.groups())}

    def with_labels(self, labels: list[str], name: str) -> PresenceJudge:
        known = _imagenet(labels, name)
        return PresenceJudge(None, {"object": known}, name, imagenet.groups() if len(known) == 1000 else {}, "imagenet")


class Artists(HubClassifier):
    how: ClassVar[str] = (
        "The README of github.com/OPTML-Group/Diffusion-MU-Attack links to the style classifier (its folder checkpoint-2800)."
    )

    def with_labels(self, labels: list[str], name: str) -> PresenceJudge:
        return PresenceJudge(None, {"style": list(map(slug, labels))}, name, family="artist")


def _imagenet(names: list[str], judge: str) -> list[str]:
    """torchvision's words for the 1,000 classes: transformers lists all synonyms of each. Other sizes: the first synonym."""
    first = [slug(name.split(",")[0]) for name in names]
    if len(names) != 1000:
        return first
    known = imagenet.labels()
    agreed = sum(a == b for a, b in zip(first, known, strict=True))
    if agreed < 900:  # a few classes have another first synonym
        raise ValueError(
            f"judge={judge}: only {agreed} of its 1,000 labels are where ImageNet has them, so its classes have another order."
        )
    return known
