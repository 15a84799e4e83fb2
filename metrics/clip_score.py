"""How well image and prompt agree in a CLIP model (cosine x 100), and whether CLIP names the expected concept."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, Scores
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.vision import clip_models, features
from vestige.metrics._rows import refuse_empty, scored


@dataclass
class ClipScore(Metric):
    """clip_cos: 100 cos(image, prompt), not clamped (Hessel et al. 2021 without the factor 2.5).

    clip_accuracy: 1 when, of the candidate names of its kind, the expected one is nearest. An object competes with objects
    and a style with styles: every image of a prompt that names a style shows an object too, which always lies nearer to
    its own name. Candidates of the concepts' kind: their names and siblings (for objects also the others); of the rest: the
    others and every expected label that is none of those. Their numbers are in the meta data because chance depends on them.
    """

    version: ClassVar[int] = 3
    columns: ClassVar[dict[str, bool]] = {"clip_cos": True, "clip_accuracy": True}
    rates: ClassVar[tuple[str, ...]] = ("clip_accuracy",)

    clip: str
    template: str  # around candidates that are things or persons
    style_template: str  # around candidates that are styles

    def supports(self, model, concepts) -> str | None:
        return features.check(self.clip)

    def inputs(self) -> dict[str, str]:
        return features.inputs(f"clip:{self.clip}")

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "clip_score")
        if "private" in images.index:
            raise ValueError(
                "clip_score needs the prompts' texts, and those of published lists are not stored (bench/prompts/published_lists.py)."
            )
        clip = clip_models.load_clip(self.clip)
        seen = context.features(images, "clip_emoji" if self.clip == "emoji" else f"clip:{self.clip}")
        prompts, expect = images.index["prompt"].tolist(), images.index["expect"].tolist()
        unique = sorted(set(prompts))
        place = {prompt: k for k, prompt in enumerate(unique)}
        written = torch.cat([clip.text(unique[k : k + 64]) for k in range(0, len(unique), 64)])
        cosine = 100 * (seen * written[[place[prompt] for prompt in prompts]]).sum(-1)
        name_of = {slug(n): n for c in context.concepts for n in (*c.others, *c.siblings, c.name)}
        name_of |= {c.slug: c.name for c in context.concepts}
        labels = [name_of.get(label, label.replace("_", " ")) for label in expect]
        hit = torch.zeros(len(labels), dtype=torch.bool)
        kinds = candidates(context.concepts, set(labels))
        for kind, names in kinds.items():
            rows = [k for k, label in enumerate(labels) if label in names]
            if rows:
                template = self.style_template if kind == "style" else self.template
                choice = (seen[rows] @ clip.text([template.format(name) for name in names]).T).argmax(-1).tolist()
                hit[rows] = torch.tensor([names[c] == labels[k] for c, k in zip(choice, rows, strict=True)])
        numbers = {kind: len(names) for kind, names in kinds.items()}
        return scored(images, {"clip_cos": cosine, "clip_accuracy": hit}, {"clip": self.clip, "candidates": numbers})


def candidates(concepts: list[Concept], labels: set[str]) -> dict[str, list[str]]:
    """kind -> sorted names that compete with each other. Labels no concept knows join the concepts' others."""
    own: dict[str, set[str]] = {}
    for concept in concepts:
        names = {concept.name, *concept.siblings, *(concept.others if concept.kind == "object" else [])}
        own.setdefault(concept.kind, set()).update(names)
    known = set().union(*own.values())
    rest = ({n for c in concepts for n in c.others} | {label for label in labels if label}) - known
    own.setdefault("object", set()).update(rest)
    return {kind: sorted(names) for kind, names in own.items() if names}
