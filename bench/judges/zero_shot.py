"""Zero-shot judges: a CLIP model picks the nearest of the labels of the prompt set or nothing, or one of a closed list."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from bench.judges.presence import PresenceJudge, Verdict
from bench.prompts import slug
from bench.types import Concept, canonical_hash
from bench.vision import features

BACKDROP = "an empty background"  # the text that stands for "none of them" beside the other candidates
TEMPLATE = "a photo of a {}"
LISTS = Path(__file__).parent / "candidates.yaml"


class ClipJudge(PresenceJudge):
    """The expected label must be nearer to the picture than every other label of the set, and than nothing.

    With a closed list (template, labels) of candidates.yaml it competes with the labels of that list instead, and something is
    always seen.
    """

    def __init__(self, clip, name: str, closed: tuple[str, list[str]] | None = None) -> None:
        super().__init__(None, {}, name, family="clip")
        self.clip, self.closed = clip, closed

    def about(self, concepts: list[Concept]) -> PresenceJudge:
        informed = super().about(concepts)
        informed.wording = {c.slug: slug(c.name) for c in concepts} | informed.wording
        return informed

    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        return self.among(sorted(set(expect)))(images, expect, names)

    @torch.no_grad()
    def among(self, candidates: list[str]) -> PresenceJudge:
        """The judge that answers one of `candidates`, or nothing; one of the closed list where there is one."""
        template, labels = self.closed or (TEMPLATE, sorted({self.wording.get(label, label) for label in candidates}))
        texts = [template.format(label.replace("_", " ")) for label in labels]
        written = self.clip.text(texts if self.closed else [*texts, BACKDROP])

        def logits(images: Tensor) -> dict[str, Tensor]:
            return {"object": 100 * torch.cat([self.clip.image(part) for part in images.split(32)]) @ written.T}

        chosen = PresenceJudge(logits, {"object": labels if self.closed else [*labels, "nothing"]}, self.name, family=self.family)
        chosen.wording = self.wording
        chosen.meta = {"candidates": len(labels), "candidates_hash": canonical_hash([template, labels])}
        return chosen


@cache
def closed_list(name: str) -> tuple[str, list[str]]:
    """(template, labels) of a list of candidates.yaml."""
    lists = OmegaConf.to_container(OmegaConf.load(LISTS))
    if name not in lists:
        raise ValueError(f"there is no closed list {name!r} of candidates. Known: {', '.join(lists)} ({LISTS.name}).")
    return lists[name]["template"], lists[name]["labels"]


def check(judge_id: str) -> None:
    make, _, which = judge_id.partition(":")
    if "/" not in which:
        raise ValueError(
            f"judge={judge_id!r}: write {make}:<open_clip model>/<pretrained tag or file>, for example {make}:ViT-B-32/openai."
        )
    if make != "clip":
        closed_list(make.removeprefix("clip_"))
    if importlib.util.find_spec("open_clip") is None:
        raise ValueError(f"judge={judge_id} needs open_clip. Install it: pip install open_clip_torch")
    why_not = features.check(f"clip:{which}")
    if why_not:
        raise ValueError(f"judge={judge_id}: {why_not}")


def load(judge_id: str) -> ClipJudge:
    from bench.vision.clip_models import load_clip

    make, _, which = judge_id.partition(":")
    return ClipJudge(load_clip(which), judge_id, None if make == "clip" else closed_list(make.removeprefix("clip_")))
