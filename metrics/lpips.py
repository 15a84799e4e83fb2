"""How different each image looks from the original model's image of the same prompt and noise: LPIPS and its like."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores
from vestige.bench.vision import perceptual
from vestige.metrics._rows import pairs, refuse_empty, scored


@dataclass
class Lpips(Metric):
    """lpips_<net>_<side>, 0 for equal images. Networks: bench/vision/perceptual.py; lpips_emoji is a distance of the emoji world's own.

    The value depends on the size at which images are compared: ESD brings the shorter side to 64, EAP to 512. LPIPS_d of the
    tables of UCE and RECE is its mean on target prompts less its mean on kept ones. Of attacked prompts it says how far the
    attacked image lies from the unattacked original.
    """

    columns: ClassVar[dict[str, bool]] = {"lpips": False}

    net: str
    side: int  # pixels
    batch_size: int

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ValueError(f"metric side={self.side} must be at least 32 pixels: smaller images vanish in the network's strides.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return perceptual.check(self.net)

    def inputs(self) -> dict[str, str]:
        return perceptual.inputs(self.net)

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "lpips")
        net = perceptual.load(self.net)
        both = pairs(images, context.original(), "lpips", self.batch_size)
        values = [net.distance(*(perceptual.at_shorter_side(each, self.side) for each in pair)) for pair in both]
        return scored(images, {f"lpips_{self.net}_{self.side}": torch.cat(values)}, {"net": self.net, "side": self.side})
