"""Distances between two sets of pictures in the features of a frozen network: FID, KID and CMMD.

FID: Heusel et al. 2017, arXiv 1706.08500, eq. 6. KID: Binkowski et al. 2018, arXiv 1801.01401, eq. 4. CMMD: Jayasumana et
al. 2024, arXiv 2401.09603. Everything is float64. FID is biased upwards by about C/n: compare sets of equal size only.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench import features
from bench.plugin import Material, Metric
from bench.types import ImageSet, Scores
from metrics._rows import refuse_empty

REFERENCES = ("original", "real")
REAL_SEED = 11  # of the held-out pictures of the emoji world


def fid(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) for features [n, d]."""
    a, b = a.double(), b.double()
    # Eigenvalues of C_a C_b are squared singular values of X_a X_b^T for centred features X, scaled by 1 / sqrt(n - 1).
    xa, xb = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    cross = torch.linalg.svdvals(xa @ xb.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + xa.square().sum() + xb.square().sum() - 2 * cross)


def mmd2(k_aa: Tensor, k_bb: Tensor, k_ab: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy: the diagonals are left out; may be slightly negative."""
    within = sum((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (k_aa, k_bb))
    return float(within - 2 * k_ab.mean())


def kid(a: Tensor, b: Tensor) -> float:
    """Kernel (x'y / d + 1)^3 over the whole sets, no random subsets."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    return mmd2(kernel(a, a), kernel(b, b), kernel(a, b))


def cmmd(a: Tensor, b: Tensor, sigma: float) -> float:
    """1000 MMD^2 with a Gaussian kernel on unit vectors."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (a, b))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * sigma**2))

    return 1000 * mmd2(kernel(a, a), kernel(b, b), kernel(a, b))


@dataclass
class _Distance(Metric):
    extractor: str
    reference: str  # original: the un-erased model's pictures of the same prompts; real: held-out emoji pictures

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise ValueError(f"metric reference={self.reference!r} is not known. Allowed: {', '.join(REFERENCES)}.")

    def supports(self, model, concepts) -> str | None:
        return features.check(self.extractor)

    def score(self, images: ImageSet, material: Material) -> Scores:
        name = type(self).__name__.lower()
        refuse_empty(images, name)
        a, b = material.features(images, self.extractor), self.reference_features(len(images), material)
        if min(len(a), len(b)) < 2:
            raise ValueError(f"{name}: both sets need at least 2 pictures, they have {len(a)} and {len(b)}.")
        column = f"{name}_{self.extractor.replace(':', '_').replace('/', '_')}"
        return Scores({column: self.distance(a, b)}, None, {"n": len(a), "n_reference": len(b), "reference": self.reference})

    def reference_features(self, n: int, material: Material) -> Tensor:
        if self.reference == "original":
            return material.features(material.original(), self.extractor)
        if material.vocabulary != "emoji":
            raise ValueError("reference=real exists for the emoji world only. Set the metric's reference=original.")
        from bench.world import pictures

        return features.of_pixels(pictures.held_out(n, REAL_SEED)[0], self.extractor)


@dataclass
class Fid(_Distance):
    """Frechet distance of two Gaussians fitted to the features."""

    columns: ClassVar[dict[str, bool]] = {"fid": False}

    def distance(self, a: Tensor, b: Tensor) -> float:
        return fid(a, b)


@dataclass
class Kid(_Distance):
    """Unbiased polynomial-kernel distance: the right one for a few hundred pictures."""

    columns: ClassVar[dict[str, bool]] = {"kid": False}

    def distance(self, a: Tensor, b: Tensor) -> float:
        return kid(a, b)


@dataclass
class Cmmd(_Distance):
    """Gaussian-kernel distance of CLIP features, unbiased."""

    columns: ClassVar[dict[str, bool]] = {"cmmd": False}

    sigma: float

    def distance(self, a: Tensor, b: Tensor) -> float:
        return cmmd(a, b, self.sigma)
