"""How far the images, as a set, lie from other images: FID, KID and CMMD in the features of a frozen network.

The formulas and their papers stand in bench/vision/set_distances.py. With reference=original the two sets share prompts and noise:
they are paired, so unbiased KID and CMMD come out negative for a model that changed nothing. Compare them with the
original's own value, or use image_change, which is meant for pairs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.vision.set_distances import cmmd, frechet, frechet_infinite, kid, kid_of_subsets
from vestige.metrics._sets import SetMetric


@dataclass
class Fid(SetMetric):
    """Frechet distance of two Gaussians fitted to the features. Biased upwards by about C / n: compare equal n only."""

    version: ClassVar[int] = 2
    columns: ClassVar[dict[str, bool]] = {"fid": False}
    leaves_out: ClassVar[bool] = True

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        return {"fid": frechet(a, b)}


@dataclass
class FidInfinite(SetMetric):
    """fid_inf: the Frechet distance extrapolated to sets without end (Chong & Forsyth 2020), from features that are there.

    Unlike the paper, both sets shrink: its reference is so large that it has no bias of its own. Trust it when n is several
    times the number of features; below, the distance is no straight line in 1 / n.
    """

    columns: ClassVar[dict[str, bool]] = {"fid": False}

    shares: list[float]  # of both sets, the points of the line
    repeats: int  # random subsets per share
    seed: int  # of the subsets

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.shares)) < 2 or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"metric shares={self.shares} must be at least two different shares above 0 and at most 1.")

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        if min(self.shares) * min(len(a), len(b)) < 2:
            raise ValueError(f"fid_inf: a share of {min(self.shares)} of {min(len(a), len(b))} images is no set. Use larger shares.")
        generator = torch.Generator().manual_seed(self.seed)
        return {"fid_inf": frechet_infinite(a, b, self.shares, self.repeats, generator)}


@dataclass
class Kid(SetMetric):
    """Unbiased polynomial-kernel distance: the right one for a few hundred images.

    kid: over the whole sets. kid_<subsets>x<size>: mean over random subsets, as torchmetrics prints it; same expectation.
    """

    version: ClassVar[int] = 2
    columns: ClassVar[dict[str, bool]] = {"kid": False}
    leaves_out: ClassVar[bool] = True

    subsets: int  # 0: the whole sets
    subset_size: int
    seed: int  # of the subsets

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        if self.subsets == 0:
            return {"kid": kid(a, b)}
        generator = torch.Generator().manual_seed(self.seed)
        return {f"kid_{self.subsets}x{self.subset_size}": kid_of_subsets(a, b, self.subsets, self.subset_size, generator)}

    def intervals(self, *measured) -> dict:
        return {} if self.subsets else super().intervals(*measured)  # random subsets move more than a prompt that is left out


@dataclass
class Cmmd(SetMetric):
    """Gaussian-kernel distance of unit CLIP features. cmmd_biased is the form of the common code: compare equal n only."""

    version: ClassVar[int] = 2
    columns: ClassVar[dict[str, bool]] = {"cmmd": False}
    leaves_out: ClassVar[bool] = True

    sigma: float
    unbiased: bool

    def compare(self, a: Tensor, b: Tensor) -> dict[str, float]:
        return {"cmmd" if self.unbiased else "cmmd_biased": cmmd(a, b, self.sigma, self.unbiased)}
