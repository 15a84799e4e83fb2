"""Probability rows over a vocabulary: drawing one entry per row, and projecting back after a gradient step."""

import torch
from torch import Tensor


def project(p: Tensor, tolerance: float = 1e-5, rounds: int = 60) -> Tensor:
    """Nearest points on the simplex, row by row: clip(p - mu, 0, 1), with mu by bisection so that each row sums to 1.

    Bisection ends when sums are within `tolerance`. UnlearnDiffAtk's code ends it when mu is, which over 49,408 tokens leaves sums
    of 0.93 to 1.07.
    """
    low, high = p.min(-1, keepdim=True).values - 1, p.max(-1, keepdim=True).values
    for _ in range(rounds):
        mu = (low + high) / 2
        excess = (p - mu).clamp(0, 1).sum(-1, keepdim=True) - 1
        if excess.abs().max() <= tolerance:
            break
        low, high = torch.where(excess > 0, mu, low), torch.where(excess > 0, high, mu)
    return (p - mu).clamp(0, 1)


def draw(p: Tensor, u: Tensor) -> Tensor:
    """One index per row of p (..., n) by inverting its distribution at u (...) in [0, 1)."""
    cumulative = p.cumsum(-1)
    place = torch.searchsorted(cumulative, u[..., None] * cumulative[..., -1:], right=True)
    return place.squeeze(-1).clamp(max=p.shape[-1] - 1)
