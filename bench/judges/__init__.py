"""Presence judges: is the thing a prompt asked for in the image? One interface over classifiers and detectors of very different makes.

Identities, <folder> standing for a folder or a hub id:
  emoji_a, emoji_b                   the emoji world's classifiers
  resnet50                           torchvision's ImageNet classifier (V2 weights)
  resnet50_imagenette                the same among the ten classes of Imagenette
  clip:<open_clip model>/<pretrained>  the nearest of a list of texts; <pretrained> is an open_clip tag or a file;
                                     also clip:hf:<folder>, clip:emoji
  clip_cifar10:..., clip_imagenette:...  the same among a closed list of candidates.yaml
  resnet50_hf:<folder>               the same architecture in transformers' format (microsoft/resnet-50)
  artist:<folder>                    UnlearnDiffAtk's ViT of 129 WikiArt artists
  celebrity:<folder>                 GIPHY's celebrity detector; images without a face are not judged
  gdino:<folder>                     GroundingDINO: any box for the word, yes or no
  vlm:<folder>                       a visual language model, asked for a yes or no
  canvas:<folder>                    UnlearnCanvas' style and object classifiers
  q16:<file>                         Q16's two learnt prompts: inappropriate, yes or no
  nudenet:<rule>                     NudeNet under a rule of bench/vision/nudity_rules.py: yes or no
  <judge>+<judge>                    each label goes to the first that knows it
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from types import ModuleType

from vestige.bench.contract.types import Concept
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.chain import Chain
from vestige.bench.judges.presence import PresenceJudge, Verdict
from vestige.bench.vision.pixels import at_side

__all__ = ["AskingJudge", "Chain", "PresenceJudge", "Verdict", "at_side"]

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
YES_OR_NO = ("nudenet", "q16", "gdino", "vlm")  # judges that answer about one thing and rank nothing
LAST = {"photo": "clip:ViT-B-32/laion2b_s34b_b79k", "emoji": "clip:emoji"}  # by domain: a judge that anyone has, of any word
_JOINT = re.compile(rf"\+(?=(?:{'|'.join(map(re.escape, MAKES))})(?:[:+]|$))")

Judge = PresenceJudge | AskingJudge | Chain


def parts(judge_id: str) -> list[str]:
    """The judges of a chain; of another judge itself."""
    return _JOINT.split(judge_id)


def check(judge_id: str) -> None:
    """Raise a ValueError for a judge that cannot be loaded. Nothing is loaded."""
    _make(judge_id).check(judge_id)


def check_ranks(judge_id: str) -> None:
    """The same for a judge whose answers must be ranked."""
    if all(part.partition(":")[0] in YES_OR_NO for part in parts(judge_id)):
        raise ValueError(f"judge={judge_id!r} says yes or no about one thing: it ranks no answers. Use metric presence with it.")
    check(judge_id)


def inputs(judge_id: str) -> dict[str, str]:
    """What the judge's answers follow from beside its name: digests of weights (shipped, cached or the user's own), of groups of labels
    and of lists of candidates, for the key of what it scored. Weights that are not on this machine have no entry."""
    return _make(judge_id).inputs(judge_id)


def blank(judge_id: str) -> Judge | None:
    """The judge without its network: it says which labels it knows. None where its labels lie beside weights that are not here."""
    return _make(judge_id).blank(judge_id)


def unknown(judge_id: str, concepts: list[Concept], labels: list[str]) -> list[str]:
    """Those of the labels that the judge cannot be asked for, as far as this machine knows. Loads no weights."""
    judge = blank(judge_id)
    if judge is None:
        return []
    informed = judge.about(concepts)
    if isinstance(informed, Chain) and len(informed.members) < len(parts(judge_id)):
        return []  # the labels of a member are not here
    return [label for label in labels if not informed.knows(label)]


def ranking_part(judge_id: str, concepts: list[Concept], labels: list[str]) -> str:
    """Who of a chain ranks answers about these labels (Chain.ranking), as far as this machine knows; another judge itself."""
    ranks = [part for part in parts(judge_id) if part.partition(":")[0] not in YES_OR_NO]
    return next((part for part in ranks if not unknown(part, concepts, labels)), judge_id)


def unknown_labels(judge_id: str, domain: str, concepts: list[Concept], labels: list[str], where: str = "") -> str | None:
    """Which labels the judge cannot be asked for and what to type instead, in a sentence, or None."""
    lost = unknown(judge_id, concepts, labels)
    if not lost:
        return None
    some = ", ".join(repr(label) for label in lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
    families = " or ".join(dict.fromkeys(family for part in parts(judge_id) if (family := getattr(blank(part), "family", ""))))
    return (
        f"judge={judge_id!r} has no label for {some}{where}. Let a zero-shot judge see what it does not know: "
        f"judge={judge_id}+{LAST.get(domain) or LAST['photo']}; or, if it knows the thing by another word, write that word in the "
        f"concept's file: labels: {{{families}: <its word>}}."
    )


@cache
def load(judge_id: str) -> Judge:
    check(judge_id)
    return _make(judge_id).load(judge_id)


def _make(judge_id: str) -> ModuleType:
    if len(parts(judge_id)) > 1:
        return importlib.import_module("vestige.bench.judges.chain")
    make = MAKES.get(judge_id.partition(":")[0])
    if make is None:
        raise ValueError(
            f"judge={judge_id!r} is not known. Allowed: {', '.join(MAKES)} (bench/judges/__init__.py says how each is written)."
        )
    return importlib.import_module(f"vestige.bench.judges.{make}")
