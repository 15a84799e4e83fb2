"""What per-picture metrics share: a table with one row per picture, and its column means as totals."""

from torch import Tensor

from bench.types import ImageSet, Scores


def refuse_empty(images: ImageSet, metric: str) -> None:
    if len(images) == 0:
        raise ValueError(f"{metric}: the set {images.folder} holds no picture, so there is nothing to score.")


def scored(images: ImageSet, values: dict[str, Tensor], meta: dict) -> Scores:
    """`values`: column -> one number per picture, in index order."""
    table = images.index[["row_id", "rep"]].reset_index(drop=True)
    table = table.assign(**{name: value.double().tolist() for name, value in values.items()})
    return Scores({name: float(table[name].mean()) for name in values}, table, meta)
