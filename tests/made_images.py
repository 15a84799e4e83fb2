"""Images in memory in the shape metrics read, and single drawings of the emoji world."""

from pathlib import Path

import pandas as pd
import torch

from vestige.bench.contract.types import ImageSet
from vestige.bench.world.content.drawing import Spec, compose


class InMemory(ImageSet):
    """A set whose images were never files."""

    def batches(self, size=64):
        yield from self.__dict__["images"].split(size)


def in_memory(images: torch.Tensor, folder: Path, **columns) -> ImageSet:
    """uint8 [n, 3, h, w] with one row each; `columns` replace prompt, expect and names of the index."""
    index = pd.DataFrame({"row_id": [str(k) for k in range(len(images))], "rep": 0, "prompt": "x", "expect": "x", "names": 1})
    made = InMemory(folder, index.assign(**columns))
    made.__dict__["images"] = images
    return made


def drawn(*slugs: str) -> torch.Tensor:
    """One drawing of each object, uint8 [n, 3, 64, 64]."""
    specs = [Spec((slug,), "noto", "white", 0, 0, (0, 0, 0), 1.0, False) for slug in slugs]
    return torch.stack([torch.from_numpy(compose(spec).copy()).permute(2, 0, 1) for spec in specs])
