"""Presence judges: is the thing a prompt asked for in the picture? One interface over classifiers and detectors of very different makes.

Identities, <folder> standing for a folder or a hub id:
  emoji_a, emoji_b                   the emoji world's classifiers
  resnet50                           torchvision's ImageNet classifier (V2 weights)
  resnet50_imagenette                the same among the ten classes of Imagenette
  clip:<open_clip model>/<pretrained>  the nearest of a list of texts; <pretrained> is an open_clip tag or a file; also clip:hf:<folder>
  clip_cifar10:..., clip_imagenette:...  the same among a closed list of candidates.yaml
  resnet50_hf:<folder>               the same architecture in transformers' format (microsoft/resnet-50)
  artist:<folder>                    UnlearnDiffAtk's ViT of 129 WikiArt artists
  celebrity:<folder>                 GIPHY's celebrity detector; pictures without a face are not judged
  gdino:<folder>                     GroundingDINO: any box for the word, yes or no
  vlm:<folder>                       a visual language model, asked for a yes or no
  canvas:<folder>                    UnlearnCanvas' style and object classifiers
  q16:<file>                         Q16's two learnt prompts: inappropriate, yes or no
  nudenet:<rule>                     NudeNet under a rule of bench/vision/nudity_rules.py: yes or no
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from bench.fingerprints import given
from bench.judges.asking import AskingJudge
from bench.judges.presence import PresenceJudge, Verdict
from bench.vision import features
from bench.vision.pixels import at_side

__all__ = ["AskingJudge", "PresenceJudge", "Verdict", "at_side", "check", "check_ranks", "inputs", "load"]

MAKES = {  # the word before the colon -> module
    "emoji_a": "emoji",
    "emoji_b": "emoji",
    "resnet50": "imagenet",
    "resnet50_imagenette": "imagenet",
    "clip": "zero_shot",
    "clip_cifar10": "zero_shot",
    "clip_imagenette": "zero_shot",
    "resnet50_hf": "transformers_classifiers",
    "artist": "transformers_classifiers",
    "vlm": "vlm",
    "canvas": "canvas",
    "celebrity": "celebrity",
    "gdino": "grounding",
    "nudenet": "nudity",
    "q16": "q16",
}
OF_FILES = ("artist", "canvas", "celebrity", "gdino", "q16", "resnet50_hf", "vlm")  # after the colon: a folder, a file or a hub id
YES_OR_NO = ("nudenet", "q16", "gdino", "vlm")  # judges that answer about one thing and rank nothing


def check(judge_id: str) -> None:
    """Raise a ValueError for a judge that cannot be loaded. Nothing is loaded."""
    _make(judge_id).check(judge_id)


def check_ranks(judge_id: str) -> None:
    """The same for a judge whose answers must be ranked."""
    if judge_id.partition(":")[0] in YES_OR_NO:
        raise ValueError(f"judge={judge_id!r} says yes or no about one thing: it ranks no answers. Use metric presence with it.")
    check(judge_id)


def inputs(judge_id: str) -> dict[str, str]:
    """SHA-256 of weights that the user keeps in a file or folder, for the key of what the judge scored. Others have none."""
    make, _, which = judge_id.partition(":")
    if make in OF_FILES:
        return given(judge=which)
    return features.inputs(f"clip:{which}") if make.startswith("clip") else {}


@cache
def load(judge_id: str) -> PresenceJudge | AskingJudge:
    check(judge_id)
    return _make(judge_id).load(judge_id)


def _make(judge_id: str) -> ModuleType:
    make = MAKES.get(judge_id.partition(":")[0])
    if make is None:
        raise ValueError(
            f"judge={judge_id!r} is not known. Allowed: {', '.join(MAKES)} (bench/judges/__init__.py says how each is written)."
        )
    return importlib.import_module(f"bench.judges.{make}")
