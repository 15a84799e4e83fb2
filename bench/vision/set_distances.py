"""Distances between two sets of feature vectors: tensors [n, d] and [m, d] in, floats out. Everything is float64.

FID: Heusel et al. 2017, arXiv 1706.08500, eq. 6; without its bias: Chong & Forsyth 2020, arXiv 1911.07023. KID: Binkowski et
al. 2018, arXiv 1801.01401, eq. 4. CMMD: Jayasumana et al. 2024, arXiv 2401.09603. Improved precision and recall: Kynkaanniemi
et al. 2019, arXiv 1904.06991, eq. 1 and 2. Sets of 30,000 images fit: no matrix of n x m values is ever held as a whole.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROWS = 1024  # of a matrix of pairs held at once
Kernel = Callable[[Tensor, Tensor], Tensor]  # [n, d], [m, d] -> [n, m]


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the distance of the Gaussians fitted to the two sets.

    Positive bias of about C / n: compare sets of equal size only.
    """
    a, b = a.double(), b.double()
    # tr (C_a C_b)^(1/2) is the sum of the singular values of X_a X_b^T for centred X, scaled by 1 / sqrt(n - 1). That holds
    # for singular covariances too, so few images need no correction; with many, QR brings X_a to d rows first.
    xa, xb = (_few_rows((x - x.mean(0)) / (len(x) - 1) ** 0.5) for x in (a, b))
    cross = torch.linalg.svdvals(xa @ xb.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + xa.square().sum() + xb.square().sum() - 2 * cross)


def _few_rows(x: Tensor) -> Tensor:
    """R with R^T R = x^T x and at most d rows."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def frechet_infinite(a: Tensor, b: Tensor, shares: list[float], repeats: int, generator: torch.Generator) -> float:
    """The distance that a straight line in 1 / n predicts for sets without end; may be slightly negative.

    Both sets shrink to the same shares of their rows, drawn `repeats` times without replacement; sets of equal size are
    taken for paired and shrink together. The line is right when n is well above d, the number of features.
    """
    points = []
    for share in shares:
        for _ in range(repeats):
            rows = [torch.randperm(len(x), generator=generator)[: round(share * len(x))] for x in (a, b)]
            points.append((1 / share, frechet(a[rows[0]], b[rows[0] if len(a) == len(b) else rows[1]])))
    inverse, values = np.array(points).T
    return float(np.polyfit(inverse, values, 1)[1])  # where 1 / share is 0


def mmd2(a: Tensor, b: Tensor, kernel: Kernel, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy. Unbiased: pairs of a vector with itself are left out; may be slightly negative.

    Unbiased for independent sets: of two equal sets it is negative, the biased form exactly 0.
    """
    a, b = a.double(), b.double()
    return _mean(a, a, kernel, unbiased) + _mean(b, b, kernel, unbiased) - 2 * _mean(a, b, kernel, False)


def _mean(x: Tensor, y: Tensor, kernel: Kernel, without_diagonal: bool) -> float:
    total = sum(float(kernel(part, y).sum()) for part in x.split(ROWS))
    if not without_diagonal:
        return total / (len(x) * len(y))
    own = sum(float(kernel(part, part).diagonal().sum()) for part in x.split(ROWS))
    return (total - own) / (len(x) * (len(x) - 1))


def kid(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 with the kernel (x'y / d + 1)^3 over the whole sets, no random subsets."""
    return mmd2(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def kid_of_subsets(a: Tensor, b: Tensor, subsets: int, size: int, generator: torch.Generator) -> float:
    """Mean of `kid` over random subsets of both sets, as torchmetrics and torch-fidelity print it; the same expectation."""
    if not 2 <= size <= min(len(a), len(b)):
        raise ValueError(f"KID subsets of {size} need that many images in both sets, they have {len(a)} and {len(b)} (least: 2).")
    draws = [[x[torch.randperm(len(x), generator=generator)[:size]] for x in (a, b)] for _ in range(subsets)]
    return sum(kid(*draw) for draw in draws) / subsets


def cmmd(a: Tensor, b: Tensor, sigma: float, unbiased: bool = True) -> float:
    """1000 MMD^2 with a Gaussian kernel on unit vectors. Biased, as the common code has it, it lies about 1 / n too high."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (a, b))
    # |x - y|^2 = 2 - 2 x'y for unit vectors
    return 1000 * mmd2(a, b, lambda x, y: torch.exp((x @ y.T - 1) / sigma**2), unbiased)


def precision_recall(a: Tensor, b: Tensor, k: int) -> tuple[float, float]:
    """(share of a within b's manifold, share of b within a's): a generated, b reference.

    A manifold is the union of balls around its vectors, each as wide as the way to its k-th nearest other vector.
    """
    if min(len(a), len(b)) <= k:
        raise ValueError(f"precision and recall with k={k} need more than {k} images in both sets, they have {len(a)} and {len(b)}.")
    a, b = a.double(), b.double()
    return _covered(a, b, k), _covered(b, a, k)


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    # The nearest vector of the same set is the vector itself, so the k-th other one has place k + 1.
    radius = torch.cat([_distances(part, centres).kthvalue(k + 1, dim=-1).values for part in centres.split(ROWS)])
    inside = sum(int((_distances(part, centres) <= radius).any(-1).sum()) for part in points.split(ROWS))
    return inside / len(points)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
