"""The training set of the emoji world: a fixed list of images, their captions, and their latents, computed once."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vestige.bench.world.content import captions, catalog, drawing, paths

IMAGES = 16000
CAPTIONS_EACH = 4  # alternative captions per image; a step picks one


@dataclass(frozen=True)
class Rows:
    """Which images a training may see: all, or all without some concepts (for oracles)."""

    index: Tensor  # (rows,) positions in the full list

    def pick(self, n: int, generator: torch.Generator) -> Tensor:
        """n image positions. The same uniform draws serve every oracle; only the list they point into is shorter."""
        draws = torch.rand(n, generator=generator)
        return self.index[(draws * len(self.index)).long().clamp_max(len(self.index) - 1)]


@cache
def specs() -> tuple[drawing.Spec, ...]:
    return tuple(drawing.draw_specs(IMAGES, seed=1))


def rows(without: str | None = None) -> Rows:
    """All rows, or those in which the concept (object, style or group slug) does not occur."""
    gone = catalog.members(without) if without else []
    return Rows(torch.tensor([place for place, spec in enumerate(specs()) if not spec.holds(gone)]))


@cache
def pixels() -> Tensor:
    """(PICTURES, 3, 64, 64) uint8, cached on disk: composing takes about a quarter of a minute."""
    file = paths.WORK / f"pixels-{IMAGES}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.stack([drawing.compose(spec) for spec in specs()]))
    return torch.from_numpy(np.load(file)).permute(0, 3, 1, 2)


def batch(index: Tensor) -> Tensor:
    """Images as float [n, 3, 64, 64] in [-1, 1]."""
    return pixels()[index].float() / 127.5 - 1


@cache
def caption_table() -> tuple[Tensor, list[str]]:
    """((PICTURES, CAPTIONS_EACH) positions in the list of unique captions, that list)."""
    words = [[captions.caption(spec, place * CAPTIONS_EACH + k) for k in range(CAPTIONS_EACH)] for place, spec in enumerate(specs())]
    unique = sorted({text for row in words for text in row})
    place = {text: k for k, text in enumerate(unique)}
    return torch.tensor([[place[text] for text in row] for row in words]), unique


def labels() -> dict[str, Tensor]:
    """Targets for judges: object (PICTURES, objects + 1) soft, style, background (PICTURES,) long, stamp (PICTURES,) float."""
    return labels_of(list(specs()))


def labels_of(some: list[drawing.Spec]) -> dict[str, Tensor]:
    objects = {item.slug: k for k, item in enumerate(catalog.objects())}
    styles = {item.slug: k for k, item in enumerate(catalog.styles())}
    shown = torch.zeros(len(some), len(objects) + 1)
    for row, spec in enumerate(some):
        for slug in spec.objects:
            shown[row, objects[slug]] = 1 / len(spec.objects)
    return {
        "object": shown,
        "style": torch.tensor([styles[spec.style] for spec in some]),
        "background": torch.tensor([catalog.backgrounds().index(spec.background) for spec in some]),
        "stamp": torch.tensor([float(spec.stamp) for spec in some]),
    }


def cached(file: Path, make) -> Tensor:
    """A tensor computed once and kept beside the checkpoints."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file, weights_only=True)
