"""How far each image moved from the original model's image of the same prompt and noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import ImageSet, Scores
from vestige.bench.vision import features
from vestige.metrics._rows import pairs, places_in, refuse_empty, scored

BATCH = 64


@dataclass
class ImageChange(Metric):
    """mse on pixels in [0, 1]; psnr in dB, at most `psnr_limit` (equal images); cosine_<extractor> of its features.

    The field's CLIP and DINO image cosines are extractor=clip:ViT-L-14/openai and dino:facebook/dinov2-base.
    """

    version: ClassVar[int] = 2

    columns: ClassVar[dict[str, bool]] = {"mse": False, "psnr": True, "cosine": True}

    extractor: str
    psnr_limit: float

    def supports(self, model, concepts) -> str | None:
        return features.check(self.extractor)

    def inputs(self) -> dict[str, str]:
        return features.inputs(self.extractor)

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "image_change")
        original = context.original()
        order = places_in(original, images, "image_change")
        both = pairs(images, original, "image_change", BATCH)
        mse = torch.cat([(ours.float() / 255 - theirs.float() / 255).square().mean((1, 2, 3)) for ours, theirs in both])
        psnr = (-10 * mse.clamp_min(1e-30).log10()).clamp_max(self.psnr_limit)
        a, b = context.features(images, self.extractor), context.features(original, self.extractor)[order]
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        columns = {"mse": mse, "psnr": psnr, f"cosine_{features.short_name(self.extractor)}": cosine}
        return scored(images, columns, {"extractor": self.extractor})
