"""Zero-shot judge: a CLIP model picks the nearest of the labels of the prompt set, or nothing."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from bench.judges.presence import PresenceJudge, Verdict
from bench.prompts import slug
from bench.types import Concept

BACKDROP = "an empty background"  # the text that stands for "none of them" beside the other candidates


class ClipJudge(PresenceJudge):
    """The expected label must be nearer to the picture than every other label of the set, and than nothing."""

    def __init__(self, clip, name: str) -> None:
        super().__init__(None, {}, name, family="clip")
        self.clip = clip

    def about(self, concepts: list[Concept]) -> PresenceJudge:
        informed = super().about(concepts)
        informed.wording = {c.slug: slug(c.name) for c in concepts} | informed.wording
        return informed

    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        return self.among(sorted(set(expect)))(images, expect, names)

    @torch.no_grad()
    def among(self, candidates: list[str]) -> PresenceJudge:
        """The judge that answers one of `candidates`, or nothing."""
        labels = sorted({self.wording.get(label, label) for label in candidates})
        written = self.clip.text([f"a photo of a {label.replace('_', ' ')}" for label in labels] + [BACKDROP])

        def logits(images: Tensor) -> dict[str, Tensor]:
            return {"object": 100 * torch.cat([self.clip.image(part) for part in images.split(32)]) @ written.T}

        chosen = PresenceJudge(logits, {"object": [*labels, "nothing"]}, self.name, family=self.family)
        chosen.wording = self.wording
        return chosen


def check(judge_id: str) -> None:
    if "/" not in judge_id:
        raise ValueError(f"judge={judge_id!r}: write clip:<open_clip model>/<pretrained tag or file>, for example clip:ViT-B-32/openai.")
    if importlib.util.find_spec("open_clip") is None:
        raise ValueError(f"judge={judge_id} needs open_clip. Install it: pip install open_clip_torch")


def load(judge_id: str) -> ClipJudge:
    from bench.features import OpenClip

    return ClipJudge(OpenClip(judge_id.removeprefix("clip:")), judge_id)
