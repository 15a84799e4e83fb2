"""How well picture and prompt agree in a CLIP model (cosine x 100), and whether CLIP names the expected concept."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench import features
from bench.plugin import Material, Metric
from bench.types import ImageSet, Scores
from metrics._rows import refuse_empty, scored


@dataclass
class ClipScore(Metric):
    """clip_cos: 100 cos(picture, prompt), not clamped (Hessel et al. 2021 without the factor 2.5).

    clip_accuracy: 1 when, of all candidate names, the expected one is nearest. Candidates: the concepts' names, their
    siblings and others, and every expected label of the set; their number is in the meta data because chance depends on it.
    """

    columns: ClassVar[dict[str, bool]] = {"clip_cos": True, "clip_accuracy": True}

    clip: str
    template: str

    def supports(self, model, concepts) -> str | None:
        return features.check(self.clip)

    def score(self, images: ImageSet, material: Material) -> Scores:
        refuse_empty(images, "clip_score")
        clip = features.load_clip(self.clip)
        seen = material.features(images, "clip_emoji" if self.clip == "emoji" else f"clip:{self.clip}")
        prompts, expect = images.index["prompt"].tolist(), images.index["expect"].tolist()
        unique = sorted(set(prompts))
        place = {prompt: k for k, prompt in enumerate(unique)}
        written = torch.cat([clip.text(unique[k : k + 64]) for k in range(0, len(unique), 64)])
        cosine = 100 * (seen * written[[place[prompt] for prompt in prompts]]).sum(-1)
        names = {n for c in material.concepts for n in (c.name, *c.siblings, *c.others)}
        names = sorted(names | {label.replace("_", " ") for label in expect if label})
        choice = (seen @ clip.text([self.template.format(name) for name in names]).T).argmax(-1).tolist()
        hit = [names[k] == label.replace("_", " ") for k, label in zip(choice, expect, strict=True)]
        values = {"clip_cos": cosine, "clip_accuracy": torch.tensor(hit)}
        return scored(images, values, {"clip": self.clip, "candidates": len(names)})
