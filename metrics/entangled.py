"""Was the thing changed and its surroundings kept? Similarity to another image inside and outside the thing's mask.

The question is that of ForgetMe and its Entangled metric (Yu, Idris & Wang 2025, arXiv 2504.12574), whose formula was not
seen: what is computed here is our own, hence the names entangled_ours_*.

s(A, B; region) = 1 - mean over the region of the perceptual distance map of A and B (bench/vision/perceptual.py), within 0 and 1. All
that A shows outside of the region is taken from B first: a network looks far around each place, and what changed elsewhere
must not count here.
M: the thing in the original model's image of the same prompt and noise. Only meaningful where equal noise keeps the layout:
a fine-tuned model that composes its images anew scores low even when it erased well. Any change inside the mask counts as
forgetting, noise included: read it together with a presence judge.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores
from vestige.bench.models import hub
from vestige.bench.models.fingerprints import given
from vestige.bench.vision import perceptual
from vestige.bench.vision.masks import MASKERS, border_colour, masker
from vestige.metrics._rows import pairs, refuse_empty, scored

PAINTED = "background"


@dataclass
class _Entangled(Metric):
    rates: ClassVar[tuple[str, ...]] = ("empty_mask",)

    net: str  # perceptual network: emoji or alex
    mask: str  # background_difference, grounded or whole (bench/vision/masks.py)
    threshold: float  # of the mask: colour distance or box score
    detector: str  # grounded: hub id or folder
    segmenter: str
    dilation: int  # pixels by which the mask grows on every side
    batch_size: int

    def __post_init__(self) -> None:
        if self.mask not in MASKERS:
            raise ValueError(f"metric mask={self.mask!r} is not known. Allowed: {', '.join(MASKERS)}.")
        if self.dilation < 0:
            raise ValueError(f"metric dilation={self.dilation} must be 0 pixels or more.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        styles = [c.slug for c in concepts if c.kind == "style"]
        if styles:
            return f"entangled asks for a region, and the style {styles[0]} has none: it fills its images."
        return perceptual.check(self.net)

    def inputs(self) -> dict[str, str]:
        masks = hub.inputs(detector=self.detector, segmenter=self.segmenter) if self.mask == "grounded" else {}
        return perceptual.inputs(self.net) | masks

    def reference(self, original: Tensor, inside: Tensor, rows: pd.DataFrame) -> Tensor:
        """The images that an erased one is compared with."""
        raise NotImplementedError

    def forgotten(self, inside: Tensor) -> Tensor:
        """T from the likeness inside the masks."""
        raise NotImplementedError

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        letter = "d" if isinstance(self, EntangledD) else "s"
        refuse_empty(images, f"entangled_{letter}")
        net = perceptual.load(self.net)
        find = masker(self.mask, self.threshold, self.detector, self.segmenter)
        target, background, empty = [], [], []
        for start, (ours, original) in enumerate(pairs(images, context.original(), f"entangled_{letter}", self.batch_size)):
            rows = images.index.iloc[start * self.batch_size : start * self.batch_size + len(ours)]
            inside = grown(_masks(find, original, rows["expect"].tolist(), context.concepts), self.dilation)
            reference = self.reference(original, inside, rows)
            target.append(self.forgotten(similarity(net, ours, reference, inside)))
            background.append(similarity(net, ours, reference, ~inside))
            empty.append(~inside.flatten(1).any(1) | inside.flatten(1).all(1))
        values = torch.cat(target), torch.cat(background)
        columns = {f"entangled_ours_{letter}": harmonic(*values), f"entangled_{letter}_target": values[0]}
        columns |= {f"entangled_{letter}_background": values[1], "empty_mask": torch.cat(empty)}
        scores = scored(images, columns, {"net": self.net, "mask": self.mask, "dilation": self.dilation})
        # With no mask at all there is no mean: the table keeps the empty values, the totals say only how many.
        return Scores({name: value for name, value in scores.totals.items() if value == value}, scores.per_image, scores.meta)


@dataclass
class EntangledS(_Entangled):
    """entangled_ours_s = 2 T B / (T + B) per pair, without a ground truth: T = 1 - s(erased, original; M), B = s(erased, original; not M).

    entangled_s_target and entangled_s_background are T and B. empty_mask: 1 where the masker found nothing, or nothing else;
    such a pair has no value. A model that changed nothing has T = 0.
    """

    columns: ClassVar[dict[str, bool]] = {
        "entangled_ours_s": False,  # on kept prompts; on target prompts high is good
        "entangled_s_target": False,
        "entangled_s_background": True,
        "empty_mask": False,
    }

    def reference(self, original: Tensor, inside: Tensor, rows) -> Tensor:
        return original

    def forgotten(self, inside: Tensor) -> Tensor:
        return 1 - inside


@dataclass
class EntangledD(_Entangled):
    """entangled_ours_d = 2 T B / (T + B) against an image R with the thing removed: T = s(erased, R; M), B = s(erased, R; not M).

    R: the original's image with M painted in the colour of its border (clean=background: drawings on a plain ground), or a
    file <row_id>-<rep>.png in a folder, as an inpainter leaves it. Columns as of EntangledS, with d.
    """

    columns: ClassVar[dict[str, bool]] = {
        "entangled_ours_d": False,
        "entangled_d_target": False,
        "entangled_d_background": True,
        "empty_mask": False,
    }

    clean: str  # background, or a folder of images without the thing

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean != PAINTED and not Path(self.clean).expanduser().is_dir():
            raise ValueError(f"metric clean={self.clean!r} is neither {PAINTED} nor a folder of images.")

    def inputs(self) -> dict[str, str]:
        return super().inputs() | ({} if self.clean == PAINTED else given(clean=self.clean))

    def reference(self, original: Tensor, inside: Tensor, rows) -> Tensor:
        if self.clean == PAINTED:
            paint = (border_colour(original) * 255).round().to(torch.uint8)
            return torch.where(inside[:, None], paint, original)
        folder = Path(self.clean).expanduser()
        files = [f"{row_id}-{rep}.png" for row_id, rep in zip(rows["row_id"], rows["rep"], strict=True)]
        lost = [file for file in files if not (folder / file).exists()]
        if lost:
            raise ValueError(f"entangled_d: {folder} lacks {len(lost)} of {len(files)} images, first {lost[0]}.")
        images = ImageSet(folder, rows).pixels(files)
        if images.shape != original.shape:
            raise ValueError(f"entangled_d: images in {folder} are {tuple(images.shape[2:])}, the model's {tuple(original.shape[2:])}.")
        return images

    def forgotten(self, inside: Tensor) -> Tensor:
        return inside


def similarity(net: perceptual.Perceptual, a: Tensor, b: Tensor, region: Tensor) -> Tensor:
    """s(a, b; region) of uint8 images [n, 3, h, w] and region bool [n, h, w]: [n], NaN where the region is empty or all."""
    pasted = torch.where(region[:, None], a, b)
    mean = (net.map(pasted.float() / 255, b.float() / 255) * region).sum((1, 2)) / region.sum((1, 2))
    return torch.where(region.flatten(1).all(1), torch.nan, (1 - mean).clamp(0, 1))


def harmonic(t: Tensor, b: Tensor) -> Tensor:
    """2 T B / (T + B), 0 where both are 0, NaN where one is."""
    return torch.where(t + b == 0, 0.0, 2 * t * b / (t + b))


def grown(masks: Tensor, pixels: int) -> Tensor:
    """bool [n, h, w], wider by `pixels` on every side."""
    return F.max_pool2d(masks.float()[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def _masks(find, images: Tensor, expect: list[str], concepts: list[Concept]) -> Tensor:
    """Of the concept a row expects, or of all erased ones where it expects none of them."""
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    for concept in concepts:
        rows = [k for k, label in enumerate(expect) if label == concept.slug or label not in {c.slug for c in concepts}]
        if rows:
            masks[rows] |= find(images[rows], concept.name)
    return masks
