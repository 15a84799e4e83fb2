"""Presence judges: is the thing a prompt asked for in the picture? One interface over classifiers of very different makes.

Identities: emoji_a and emoji_b (the emoji world's classifiers), resnet50 (torchvision's ImageNet classifier) and
clip:<open_clip model>/<pretrained> (the nearest of a list of texts; <pretrained> is an open_clip tag or a file).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

KNOWN = "emoji_a, emoji_b, resnet50, clip:<open_clip model>/<pretrained>"
BACKDROP = "an empty background"  # the text that stands for "none of them" beside a CLIP judge's other candidates
NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet


@dataclass(frozen=True)
class Verdict:
    """Per picture: was the expected label among the first answers (bool [n]), and its probability (float [n])."""

    present: Tensor
    probability: Tensor


class PresenceJudge:
    """Calls a classifier and looks the expected labels up in the head that knows them.

    `logits` maps uint8 pictures [n, 3, h, w] to {head: [n, labels]}; `labels` names each head's columns.
    """

    def __init__(self, logits: Callable[[Tensor], dict[str, Tensor]], labels: dict[str, list[str]], name: str) -> None:
        self.logits, self.labels, self.name = logits, labels, name

    @torch.no_grad()
    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        """`expect`: one label per picture; `names`: how many objects its prompt names, so how many object answers count."""
        if not len(images) == len(expect) == len(names):
            raise ValueError(f"judge {self.name}: {len(images)} pictures, {len(expect)} expected labels, {len(names)} counts must agree.")
        if len(images) == 0:
            raise ValueError(f"judge {self.name}: there is no picture to judge.")
        places = [self.place(label) for label in expect]
        logits = self.logits(images)
        order = {head: answer.argsort(dim=-1, descending=True) for head, answer in logits.items()}
        share = {head: answer.float().softmax(-1) for head, answer in logits.items()}
        present, probability = [], []
        for row, ((head, column), count) in enumerate(zip(places, names, strict=True)):
            k = max(1, int(count)) if head == "object" else 1  # a picture has one style and one background
            present.append(column in order[head][row, :k].tolist())
            probability.append(share[head][row, column].item())
        return Verdict(torch.tensor(present), torch.tensor(probability))

    def present(self, images: Tensor, expect: list[str]) -> Tensor:
        """The yes or no an attack may ask for: bool [n], one object per picture."""
        return self(images, expect, [1] * len(expect)).present

    @torch.no_grad()
    def shares(self, images: Tensor, candidates: list[str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """All answers: {head: probabilities [n, labels]} and {head: labels}. Zero-shot judges choose among `candidates`."""
        return {head: answer.float().softmax(-1) for head, answer in self.logits(images).items()}, self.labels

    def place(self, label: str) -> tuple[str, int]:
        """The head that knows a label, and its column there."""
        for head, known in self.labels.items():
            if label in known:
                return head, known.index(label)
        heads = "; ".join(f"{head}: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" for head, known in self.labels.items())
        raise ValueError(f"judge {self.name!r} does not know the label {label!r} (column expect of the prompt set). It knows {heads}.")


class ClipJudge(PresenceJudge):
    """Zero-shot: the expected label must be nearer to the picture than every other label of the set, and than nothing."""

    def __init__(self, clip, name: str) -> None:
        self.clip, self.name = clip, name

    @torch.no_grad()
    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        # Candidates are the expected labels of this call: one call per prompt set keeps them independent of batches.
        return self.among(sorted(set(expect)))(images, expect, names)

    def shares(self, images: Tensor, candidates: list[str]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        return self.among(candidates).shares(images, candidates)

    @torch.no_grad()
    def among(self, candidates: list[str]) -> PresenceJudge:
        """The judge that answers one of `candidates`, or nothing."""
        texts = [f"a photo of a {label.replace('_', ' ')}" for label in candidates] + [BACKDROP]
        written = self.clip.text(texts)

        def logits(images: Tensor) -> dict[str, Tensor]:
            return {"object": 100 * torch.cat([self.clip.image(part) for part in images.split(32)]) @ written.T}

        return PresenceJudge(logits, {"object": [*candidates, "nothing"]}, self.name)


def check(judge_id: str) -> None:
    """Raise a ValueError for a judge that cannot be loaded. Nothing is loaded."""
    if judge_id in ("emoji_a", "emoji_b"):
        from bench.world.judges import weights_file

        weights_file(judge_id[-1])
    elif judge_id == "resnet50":
        _resnet_file()
    elif judge_id.startswith("clip:") and "/" in judge_id:
        if importlib.util.find_spec("open_clip") is None:
            raise ValueError(f"judge={judge_id} needs open_clip. Install it: pip install open_clip_torch")
    else:
        raise ValueError(f"judge={judge_id!r} is not known. Allowed: {KNOWN}.")


@cache
def load(judge_id: str) -> PresenceJudge:
    check(judge_id)
    if judge_id.startswith("emoji_"):
        return _emoji(judge_id)
    if judge_id == "resnet50":
        return _resnet()
    from bench.features import OpenClip

    return ClipJudge(OpenClip(judge_id.removeprefix("clip:")), judge_id)


def _emoji(judge_id: str) -> PresenceJudge:
    from bench.world.judges import load_judge

    net = load_judge(judge_id[-1])

    def logits(images: Tensor) -> dict[str, Tensor]:
        return net(at_side(images.float() / 255, 64))

    return PresenceJudge(logits, net.labels, judge_id)


def at_side(images: Tensor, side: int) -> Tensor:
    """Float pictures [n, 3, h, w] at side x side, antialiased; unchanged when they have that size."""
    if tuple(images.shape[-2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _resnet_file() -> Path:
    """ResNet50_Weights.IMAGENET1K_V2 in torch's cache; nothing is downloaded here."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / "resnet50-11ad3fa6.pth"
    if not file.exists():
        raise ValueError(
            f"judge=resnet50 needs torchvision's weights at {file}. On a machine with a network run: "
            'python -c "from torchvision.models import *; resnet50(weights=ResNet50_Weights.IMAGENET1K_V2)"'
        )
    return file


def _resnet() -> PresenceJudge:
    from torchvision.models import ResNet50_Weights, resnet50

    from bench.prompts import slug

    net = resnet50()
    net.load_state_dict(torch.load(_resnet_file(), weights_only=True))
    net.eval().requires_grad_(False)
    mean, std = (torch.tensor(NORM[key]).view(3, 1, 1) for key in ("mean", "std"))

    def logits(images: Tensor) -> dict[str, Tensor]:
        # V2's own preprocessing: side 232, centre crop 224.
        cropped = at_side(images.float() / 255, 232)[..., 4:228, 4:228]
        return {"object": net((cropped - mean) / std)}

    return PresenceJudge(logits, {"object": [slug(name) for name in ResNet50_Weights.IMAGENET1K_V2.meta["categories"]]}, "resnet50")
