"""Three ways to find the subspace in which linear probes read a label, and the map x -> x - L R x that takes it away.

INLP, Ravfogel et al., ACL 2020 (arXiv 2004.07667), shauli-ravfogel/nullspace_projection@e1edcc1;
R-LACE, Ravfogel et al., ICML 2022 (arXiv 2201.12091), shauli-ravfogel/rlace-icml@2d9b6d0;
LEACE, Belrose et al., NeurIPS 2023 (arXiv 2306.03819), EleutherAI/concept-erasure@9f51753.
Rows x [n, d] and labels are float64 throughout. INLP and R-LACE return B [k, d] with orthonormal rows: L = B^T, R = B.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from vestige.methods._closed_form import single_thread

ROUNDING = 1e-12  # share of the largest variance below which a direction is rounding of float32 states: those of a plane have one
BISECTIONS = 25  # of R-LACE's projection onto the Fantope, as in the code


def probe(x: Tensor, y: Tensor, loss: str, weight: float) -> tuple[Tensor, Tensor]:
    """(w [d], b) of a linear classifier of y [n] in {0, 1}.

    squared_hinge: |w|^2 / 2 + weight * sum of squared hinge losses, as scikit-learn's LinearSVC (its C; the intercept is free
    here); logistic: mean log loss + weight |w|^2 / 2, as its SGDClassifier (its alpha), solved to the end.
    """
    rows, sign = x.cpu().numpy(), np.where(y.cpu().numpy() > 0.5, 1.0, -1.0)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        margin = sign * (rows @ w + b)
        if loss == "squared_hinge":
            slack = np.maximum(0, 1 - margin)
            value, slope, decay = weight * (slack**2).sum(), -2 * weight * slack, 1.0
        else:
            value, slope, decay = np.logaddexp(0, -margin).mean(), -1 / (1 + np.exp(np.clip(margin, -500, 500))) / len(rows), weight
        slope = slope * sign
        return value + decay * w @ w / 2, np.append(rows.T @ slope + decay * w, slope.sum())

    found = minimize(objective, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    found = torch.from_numpy(found).to(x)
    return found[:-1], found[-1]


def accuracy(x: Tensor, y: Tensor, w: Tensor, b: Tensor) -> float:
    return ((x @ w + b > 0) == (y > 0.5)).double().mean().item()


def majority(y: Tensor) -> float:
    """Accuracy of always giving the commoner answer."""
    return max(y.mean().item(), 1 - y.mean().item())


def joined(bases: list[Tensor]) -> Tensor:
    """Orthonormal rows [k, d] that span all rows of the bases."""
    with single_thread():
        _, s, vh = torch.linalg.svd(torch.cat(bases), full_matrices=False)
    return vh[s > 1e-8]


def inlp(x: Tensor, y: Tensor, iterations: int, min_accuracy: float, penalty: float) -> Tensor:
    """Train a probe, project its direction away from the original rows, repeat. B [iterations or fewer, d].

    Probes are LinearSVCs. Below `min_accuracy` the code skips a probe and tries again; the next one would be the same here.
    """
    basis = x.new_zeros(0, x.shape[1])
    for _ in range(iterations):
        left = x - x @ basis.T @ basis
        w, b = probe(left, y, "squared_hinge", penalty)
        if accuracy(left, y, w, b) < min_accuracy or w.norm() < 1e-8:
            break
        fresh = w - basis.T @ (basis @ w)  # zero but for rounding
        basis = torch.cat([basis, fresh[None] / fresh.norm()])
    return basis


def fantope(p: Tensor, rank: int) -> Tensor:
    """The nearest P' with 0 <= P' <= I and trace `rank` to a symmetric P [d, d]: eigenvalues clip(l - t, 0, 1), t by bisection."""
    with single_thread():
        values, vectors = torch.linalg.eigh(p)
    found = values.cpu().numpy()
    low, high = found.min() - 1, found.max()
    for _ in range(BISECTIONS):
        t = (low + high) / 2
        low, high = (t, high) if np.clip(found - t, 0, 1).sum() > rank else (low, t)
    return vectors * torch.from_numpy(np.clip(found - t, 0, 1)).to(p) @ vectors.T


def top(p: Tensor, rank: int) -> Tensor:
    """B [rank, d]: the leading eigenvectors."""
    with single_thread():
        return torch.linalg.eigh(p).eigenvectors[:, -rank:].T


def rlace(
    x: Tensor,
    y: Tensor,
    rank: int,
    iterations: int,
    batch: int,
    lr: float,
    weight_decay: float,
    evaluate_every: int,
    epsilon: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """(B [rank, d], facts): the projection against which the best linear probe is worst, by alternating gradient steps.

    min over probes, max over P of the log loss on x (I - P), eq. 5. Every `evaluate_every` steps the leading directions of P
    are scored by a fresh probe (the code takes the best of three SGD fits); those with the largest loss are returned. Stops
    when some score comes within `epsilon` of the majority's accuracy.
    """
    d, best_loss, best_accuracy = x.shape[1], -1.0, 1.0
    best: Tensor | None = None

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(x)

    def sampled() -> tuple[Tensor, Tensor]:
        index = torch.randperm(len(x), generator=generator)[:batch].to(x.device)
        return x[index], y[index]

    p = 0.1 * draw(d, d)
    p = (p + p.T) / 2
    w, b = (2 * torch.rand(n, generator=generator, dtype=torch.float64).to(x) - 1 for n in (d, 1))
    w, b = w / d**0.5, b / d**0.5  # as torch.nn.Linear begins
    for step in range(iterations):
        rows, labels = sampled()
        error = torch.sigmoid((rows - rows @ p) @ w + b) - labels
        uphill = -torch.outer(rows.T @ error / len(rows), w)  # gradient of the loss by P
        p = p + lr * (uphill - weight_decay * p)
        p = fantope((p + p.T) / 2, rank)
        rows, labels = sampled()
        rows = rows - rows @ p
        error = (torch.sigmoid(rows @ w + b) - labels) / len(rows)
        w, b = w - lr * (rows.T @ error + weight_decay * w), b - lr * (error.sum() + weight_decay * b)
        if step % evaluate_every == 0 or step == iterations - 1:
            loss, score = fresh_score(x, y, top(p, rank))
            if loss > best_loss:
                best_loss, best = loss, top(p, rank)
            if abs(score - majority(y)) < abs(best_accuracy - majority(y)):
                best_accuracy = score
        if step > 1 and abs(best_accuracy - majority(y)) < epsilon:
            break
    if best is None:
        raise ValueError("R-LACE found no projection: the linear probe's loss is not a number. Lower method.lr.")
    return best, {"steps": step + 1, "probe_loss": best_loss, "probe_accuracy": best_accuracy}


def fresh_score(x: Tensor, y: Tensor, basis: Tensor) -> tuple[float, float]:
    """(log loss, accuracy) of the best logistic probe once `basis` is projected away."""
    left = x - x @ basis.T @ basis
    w, b = probe(left, y, "logistic", 1e-4)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(left @ w + b, y.to(left)).item()
    return loss, accuracy(left, y, w, b)


def leace(x: Tensor, z: Tensor, shrinkage: bool, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """(L [d, k], R [k, d], all whitened singular values) for labels z [n, k]; eq. 1 of the paper.

    Cov(x - L R x, z) = 0, and of all such maps this one moves x least. Directions whose singular value is below `tolerance`
    are kept.
    """
    n, centred = len(x), x - x.mean(0)
    cross = centred.T @ (z.double() - z.double().mean(0)) / (n - 1)
    sigma = shrunk(centred.T @ centred / n, n) if shrinkage else centred.T @ centred / (n - 1)
    with single_thread():
        values, vectors = torch.linalg.eigh(sigma)
        held = values > values[-1] * ROUNDING
        root = torch.where(held, values, 0.0).sqrt()
        whiten = vectors * torch.where(held, 1 / root, 0.0) @ vectors.T
        u, s, _ = torch.linalg.svd(whiten @ cross, full_matrices=False)
    u = u[:, s > tolerance]
    return (vectors * root) @ (vectors.T @ u), u.T @ whiten, s


def shrunk(sigma: Tensor, n: int) -> Tensor:
    """The sample covariance mixed with an isotropic one of equal trace (optimal linear shrinkage, arXiv 1308.2608)."""
    d, trace = len(sigma), sigma.trace()
    isotropic = trace**2 / d
    spread = sigma.square().sum() - isotropic
    mixed = (trace**2 / n / spread).clamp(max=1.0)
    return (1 - mixed) * sigma + mixed * trace / d * torch.eye(d, dtype=sigma.dtype, device=sigma.device)
