"""Quality and variety apart: how many images lie among the reference's, and how many of the reference lie among them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vestige.bench.vision.set_distances import precision_recall
from vestige.metrics._sets import SetMetric


@dataclass
class PrecisionRecall(SetMetric):
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), 0 to 1. Both depend on n and k.

    With reference=original a model that changed nothing has exactly 1 and 1.
    """

    columns: ClassVar[dict[str, bool]] = {"precision": True, "recall": True}

    k: int  # an image's ball reaches to its k-th nearest neighbour

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"metric k={self.k} must be at least 1; the paper uses 3.")

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        return dict(zip((f"precision_k{self.k}", f"recall_k{self.k}"), precision_recall(a, b, self.k), strict=True))
