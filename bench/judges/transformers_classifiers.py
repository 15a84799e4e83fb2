"""Image classifiers in transformers' format: an ImageNet ResNet-50 and the classifier of 129 WikiArt artists.

resnet50_hf:<folder or hub id> (UnlearnDiffAtk uses microsoft/resnet-50) and artist:<folder or hub id> (UnlearnDiffAtk's ViT,
checkpoint-2800). Both read images through the image processor that lies beside their weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from vestige.bench.contract.types import canonical_hash
from vestige.bench.judges import imagenet
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models import hub
from vestige.bench.prompts.prompt_sets import slug

GET = {
    "resnet50_hf": "For example judge=resnet50_hf:microsoft/resnet-50.",
    "artist": "The README of github.com/OPTML-Group/Diffusion-MU-Attack links to the style classifier (its folder checkpoint-2800).",
}


def check(judge_id: str) -> None:
    _folder(judge_id)


def _folder(judge_id: str) -> Path:
    make, _, which = judge_id.partition(":")
    try:
        return hub.folder(which, f"judge={judge_id}")
    except ValueError as reason:
        raise ValueError(f"{reason} {GET[make]}") from reason


def inputs(judge_id: str) -> dict[str, str]:
    make, _, which = judge_id.partition(":")
    return hub.inputs(judge=which) | ({"groups": canonical_hash(imagenet.groups())} if make == "resnet50_hf" else {})


def blank(judge_id: str) -> PresenceJudge | None:
    """Its labels stand in its configuration; without one nobody knows them before the weights are here."""
    place = hub.cached(judge_id.partition(":")[2])
    if place is None or not (place / "config.json").is_file():
        return None
    names = [name for _, name in sorted((int(k), name) for k, name in _config(place).get("id2label", {}).items())]
    if judge_id.startswith("artist:"):
        return PresenceJudge(None, {"style": list(map(slug, names))}, judge_id, family="artist")
    known = _imagenet(names, judge_id)
    return PresenceJudge(None, {"object": known}, judge_id, imagenet.groups() if len(known) == 1000 else {}, "imagenet")


def _config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def load(judge_id: str) -> PresenceJudge:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    where = _folder(judge_id)
    judge = blank(judge_id)
    assert judge is not None, "check() asks for the labels"
    net = AutoModelForImageClassification.from_pretrained(where, use_safetensors=True).eval().requires_grad_(False)
    process = AutoImageProcessor.from_pretrained(where)
    (head,) = judge.labels

    @torch.no_grad()
    def logits(images: Tensor) -> dict[str, Tensor]:
        return {head: net(**process(images=list(images), return_tensors="pt")).logits}

    return judge.with_logits(logits)


def _imagenet(names: list[str], judge_id: str) -> list[str]:
    """torchvision's words for the 1,000 classes: transformers lists all synonyms of each. Other sizes: the first synonym."""
    first = [slug(name.split(",")[0]) for name in names]
    if len(names) != 1000:
        return first
    known = imagenet.labels()
    agreed = sum(a == b for a, b in zip(first, known, strict=True))
    if agreed < 900:  # a few classes have another first synonym
        raise ValueError(
            f"judge={judge_id}: only {agreed} of its 1,000 labels are where ImageNet has them, so its classes have another order."
        )
    return known
