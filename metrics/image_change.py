"""How far each picture moved from the original model's picture of the same prompt and noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench import features
from bench.plugin import Material, Metric
from bench.types import ImageSet, Scores
from metrics._rows import refuse_empty, scored


@dataclass
class ImageChange(Metric):
    """mse on pixels in [0, 1]; psnr in dB, at most `psnr_limit` (equal pictures); cosine of the extractor's features."""

    columns: ClassVar[dict[str, bool]] = {"mse": False, "psnr": True, "cosine": True}

    extractor: str
    psnr_limit: float

    def supports(self, model, concepts) -> str | None:
        return features.check(self.extractor)

    def score(self, images: ImageSet, material: Material) -> Scores:
        refuse_empty(images, "image_change")
        original = material.original()
        place = {key: k for k, key in enumerate(zip(original.index["row_id"], original.index["rep"], strict=True))}
        keys = list(zip(images.index["row_id"], images.index["rep"], strict=True))
        lost = [key for key in keys if key not in place]
        if lost:
            raise ValueError(f"image_change: the original set lacks {len(lost)} pictures (row_id, rep), first {lost[0]}.")
        order = [place[key] for key in keys]
        files = original.index["file"].tolist()
        mse = []
        for start in range(0, len(order), 64):
            ours = images.pixels(images.index["file"].tolist()[start : start + 64]).float() / 255
            theirs = original.pixels([files[k] for k in order[start : start + 64]]).float() / 255
            mse.append((ours - theirs).square().mean((1, 2, 3)))
        mse = torch.cat(mse)
        psnr = (-10 * mse.clamp_min(1e-30).log10()).clamp_max(self.psnr_limit)
        a, b = material.features(images, self.extractor), material.features(original, self.extractor)[order]
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
        return scored(images, {"mse": mse, "psnr": psnr, "cosine": cosine}, {"extractor": self.extractor})
