"""Presence judges: is the thing a prompt asked for in the picture? One interface over classifiers of very different makes.

Identities: emoji_a and emoji_b (the emoji world's classifiers), resnet50 (torchvision's ImageNet classifier) and
clip:<open_clip model>/<pretrained> (the nearest of a list of texts; <pretrained> is an open_clip tag or a file).
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from bench.judges.pixels import at_side
from bench.judges.presence import PresenceJudge, Verdict

__all__ = ["PresenceJudge", "Verdict", "at_side", "check", "load"]

KNOWN = "emoji_a, emoji_b, resnet50, clip:<open_clip model>/<pretrained>"
MAKES = {"emoji_a": "emoji", "emoji_b": "emoji", "resnet50": "imagenet", "clip": "zero_shot"}  # word before the colon -> module


def check(judge_id: str) -> None:
    """Raise a ValueError for a judge that cannot be loaded. Nothing is loaded."""
    _make(judge_id).check(judge_id)


@cache
def load(judge_id: str) -> PresenceJudge:
    check(judge_id)
    return _make(judge_id).load(judge_id)


def _make(judge_id: str) -> ModuleType:
    make = MAKES.get(judge_id.partition(":")[0])
    if make is None:
        raise ValueError(f"judge={judge_id!r} is not known. Allowed: {KNOWN}.")
    return importlib.import_module(f"bench.judges.{make}")
