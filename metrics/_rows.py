"""What per-image metrics share: a table with one row per image, its column means as totals, and pairs of images."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from vestige.bench.contract.types import ImageSet, Scores


def refuse_empty(images: ImageSet, metric: str) -> None:
    if len(images) == 0:
        raise ValueError(f"{metric}: the set {images.folder} holds no image, so there is nothing to score.")


def scored(images: ImageSet, values: dict[str, Tensor], meta: dict) -> Scores:
    """`values`: column -> one number per image, in index order."""
    table = images.index[["row_id", "rep"]].reset_index(drop=True)
    table = table.assign(**{name: value.double().tolist() for name, value in values.items()})
    return Scores({name: float(table[name].mean()) for name in values}, table, meta)


def places_in(original: ImageSet, images: ImageSet, metric: str) -> list[int]:
    """For each image of `images` the place of the one with its row_id and rep in `original`."""
    keys = [list(zip(each.index["row_id"], each.index["rep"], strict=True)) for each in (images, original)]
    place = {key: k for k, key in enumerate(keys[1])}
    lost = [key for key in keys[0] if key not in place]
    if lost:
        raise ValueError(f"{metric}: the original set lacks {len(lost)} images (row_id, rep), first {lost[0]}.")
    return [place[key] for key in keys[0]]


def pairs(images: ImageSet, original: ImageSet, metric: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and the original's images of the same rows, uint8 [n, 3, h, w] each."""
    order = places_in(original, images, metric)
    yield from zip(images.batches(size), replace(original, index=original.index.iloc[order]).batches(size), strict=True)
