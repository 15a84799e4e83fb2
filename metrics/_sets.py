"""What metrics of whole sets share: which images they are compared with, and names that say everything a value depends on."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores, canonical_hash
from vestige.bench.models.fingerprints import file_digest
from vestige.bench.places import found
from vestige.bench.statistics.jackknife import blocks, jackknife_interval
from vestige.bench.statistics.score_intervals import MEASURED
from vestige.bench.vision import features
from vestige.metrics._rows import refuse_empty

REAL_SEED = 11  # of the held-out images of the emoji world
LARGEST = 5000  # images: of larger sets twenty more distances would take hours
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class SetMetric(Metric):
    """Columns are <value>_<extractor>_<reference>, with the size of the reference where that is not the scored set's."""

    leaves_out: ClassVar[bool] = False  # whether leaving prompts out tells its interval: true of smooth functions of the images

    extractor: str
    reference: str  # original: the un-erased model's images of the same prompts; real: held-out emoji images; or a folder

    def __post_init__(self) -> None:
        if self.reference not in ("original", "real") and "/" not in self.reference and folder_of(self.reference) is None:
            raise ValueError(f"metric reference={self.reference!r} is not known: allowed are original, real or a folder of images.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if self.reference == "real" and model.domain != "emoji":
            return "reference=real exists for the emoji world only. Set the metric's reference to original or to a folder of real images."
        if self.reference not in ("original", "real") and folder_of(self.reference) is None:
            return f"reference={self.reference} is no folder here. Unpack the reference images there or give their folder."
        return features.check(self.extractor)

    def inputs(self) -> dict[str, str]:
        folder = folder_of(self.reference)
        return features.inputs(self.extractor) | ({} if folder is None else {"reference": str(image_folder(folder).digest)})

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        name = type(self).__name__.lower()
        refuse_empty(images, name)
        other = self.compared_with(len(images), context)
        rows = [self.rows(each, context.concepts) for each in (images, other)]
        if min(map(len, rows)) < 2:
            raise ValueError(f"{name}: both sets need at least 2 images, they have {len(rows[0])} and {len(rows[1])}.")
        a, b = (context.features(each, self.extractor)[order] for each, order in zip((images, other), rows, strict=True))
        words = [features.short_name(self.extractor), self.reference if folder_of(self.reference) is None else Path(self.reference).name]
        words += [f"n{len(b)}"] if len(b) != len(a) else []
        found = self.compare(a, b)
        of_a, of_b = (_blocks(each, order) for each, order in zip((images, other), rows, strict=True))
        intervals = self.intervals(found, a, b, of_a, of_b) if self.leaves_out and len(a) <= LARGEST and of_a is not None else {}
        meta = {"n": len(a), "n_reference": len(b), "reference": self.reference, "extractor": self.extractor}
        named = {value: "_".join([value, *words]) for value in found}
        meta[MEASURED] = {named[value]: both for value, both in intervals.items()}
        return Scores({named[value]: number for value, number in found.items()}, None, meta)

    def intervals(self, found: dict[str, float], a: Tensor, b: Tensor, of_a: np.ndarray, of_b: np.ndarray | None) -> dict:
        """Value -> (low, high): prompts are left out, of both sets where they share them; another reference is taken as given."""
        shared = self.reference == "original" and of_b is not None
        left_out = [self.compare(a[of_a != k], b[of_b != k] if shared else b) for k in range(of_a.max() + 1)]
        return {name: jackknife_interval(value, [each[name] for each in left_out]) for name, value in found.items()}

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        """Features of the scored set [n, d] and of the reference [m, d], each in the order of row_id and rep."""
        raise TypeError(f"{type(self).__name__} must define compare(a, b) -> values by name.")

    def rows(self, images: ImageSet, concepts: list[Concept]) -> list[int]:
        """Which images count, in an order that does not depend on the index."""
        return _order(images)

    def compared_with(self, n: int, context: MetricContext) -> ImageSet:
        if self.reference == "original":
            return context.original()
        if self.reference == "real":
            return held_out(n)
        folder = folder_of(self.reference)
        if folder is None:
            raise ValueError(f"reference={self.reference} is no folder here. Unpack the reference images there or give their folder.")
        return image_folder(folder)


def _order(images: ImageSet) -> list[int]:
    """Random subsets of a set must not depend on the order of its index."""
    return images.index.reset_index(drop=True).sort_values(["row_id", "rep"]).index.tolist()


def _blocks(images: ImageSet, order: list[int]) -> np.ndarray | None:
    """The blocks of prompts of the images that count; None of images without prompts, or of fewer than three."""
    if "group" not in images.index:
        return None
    found = blocks(images.index["group"].iloc[order].tolist())
    return found if found.max() > 1 and np.bincount(found).max() < len(found) - 1 else None


def folder_of(reference: str) -> Path | None:
    """The folder a user names, from the current folder, or one that is shipped."""
    if reference in ("original", "real"):
        return None
    folder = found(reference)
    return folder.resolve() if folder.is_dir() else None


@dataclass(frozen=True)
class ImageFolder(ImageSet):
    """Images of any size, as they lie in a folder."""

    def batches(self, size: int = 64) -> Iterator[Tensor]:
        """Neighbours of equal size together; the middle square or the squeeze to a network's input is the extractor's choice."""
        run: list[Tensor] = []
        for file in self.index["file"]:
            image = self.pixels([file])
            if run and (len(run) == size or run[0].shape != image.shape):
                yield torch.cat(run)
                run = []
            run.append(image)
        yield torch.cat(run)


def image_folder(folder: Path) -> ImageFolder:
    """All images in a folder and below it, in order of their names. The digest is over their bytes."""
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"reference={folder} holds no image. Known kinds: {', '.join(SUFFIXES)}.")
    digest = canonical_hash({file: file_digest(folder / file) for file in files})
    return ImageFolder(folder, pd.DataFrame({"row_id": files, "rep": 0, "file": files}), digest)


@dataclass(frozen=True)
class HeldOut(ImageSet):
    """Real images of the emoji world, in memory; files are their numbers."""

    drawn: Tensor | None = None

    def pixels(self, files: list[str] | None = None) -> Tensor:
        assert self.drawn is not None
        return self.drawn if files is None else self.drawn[[int(file) for file in files]]


def held_out(n: int) -> HeldOut:
    from vestige.bench.world.content import drawing

    drawn = drawing.held_out(n, REAL_SEED)[0]
    files = [f"{k:06d}" for k in range(n)]
    digest = sha256(drawn.numpy().tobytes()).hexdigest()[:16]
    return HeldOut(Path("held-out"), pd.DataFrame({"row_id": files, "rep": 0, "file": files}), digest, drawn)
