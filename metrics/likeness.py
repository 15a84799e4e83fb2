"""How similar the erased model's images of a prompt are to the original's, by images and by captions, over all pairs.

EraseEval (Fuchi & Takagi, "Erasing with Precision", 2025), arXiv 2502.13989; evaluator/protocol1.py and protocol2.py of
fmp453/erase-eval@fab9900: the mean cosine of every erased image with every original one of the same prompt. Its rule that a
image in which the concept is seen counts as 0 is a view (bench/reports/composite_catalogue.py).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores
from vestige.bench.judges import captions
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.vision import features
from vestige.metrics._rows import refuse_empty, scored


@dataclass
class Likeness(Metric):
    """image_cosine: of features; caption_cosine: of captions' embeddings. Both: mean over the original's images of the same row.

    caption_named: 1 when the caption of this image holds the concept's name or an alias. A caption of several words names a
    concept by them in order; the paper's code looks for them joined by a hyphen and never finds one.
    """

    columns: ClassVar[dict[str, bool]] = {"image_cosine": True, "caption_cosine": True, "caption_named": False}
    rates: ClassVar[tuple[str, ...]] = ("caption_named",)

    extractor: str
    captioner: str | None  # labels:<judge>, or the hub id or folder of a captioning model; null: no captions
    encoder: str  # of captions: emoji, or the hub id or folder of a text model (mean over tokens)

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        found = features.check(self.extractor)
        return found or (captions.check(self.captioner, self.encoder) if self.captioner else None)

    def inputs(self) -> dict[str, str]:
        return features.inputs(self.extractor) | (captions.inputs(self.captioner, self.encoder) if self.captioner else {})

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "likeness")
        original = context.original()
        ours, theirs = (context.features(each, self.extractor) for each in (images, original))
        columns = {"image_cosine": _mean_cosine(images, ours, original, theirs)}
        if self.captioner:
            told = [captions.describe(each, self.captioner) for each in (images, original)]
            embedded = captions.embed(told[0] + told[1], self.encoder).split([len(images), len(original)])
            columns["caption_cosine"] = _mean_cosine(images, embedded[0], original, embedded[1])
            names = [slug(name) for concept in context.concepts for name in (concept.name, *concept.aliases)]
            columns["caption_named"] = torch.tensor([any(f"_{name}_" in f"_{slug(text)}_" for name in names) for text in told[0]])
        return scored(images, columns, {"extractor": self.extractor, "captioner": self.captioner, "encoder": self.encoder})


def _mean_cosine(images: ImageSet, ours: Tensor, original: ImageSet, theirs: Tensor) -> Tensor:
    """For each image the mean cosine with the original's images of its row, [n]."""
    ours, theirs = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (ours, theirs))
    of_row: dict[str, list[int]] = {}
    for k, row in enumerate(original.index["row_id"]):
        of_row.setdefault(row, []).append(k)
    means = {row: theirs[places].mean(0) for row, places in of_row.items()}
    return torch.stack([vector @ means[row] for vector, row in zip(ours, images.index["row_id"], strict=True)])
