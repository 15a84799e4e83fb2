"""Undoes a closed-form edit of the weights by computing it again and inverting it: no picture and no original weight is needed.

Ours, after the remark that a closed-form eraser multiplies every edited projection by one matrix T = I + U V^T, which follows
from text states alone: who knows the method, its settings and the concept computes T from the erased model, whose text
encoder is untouched, and W' T^-1 is the original. Where T also depends on the weights (RECE, through their Gram matrix), the
computation is repeated on the recovered weights until nothing moves. A projection (LEACE, INLP, R-LACE) has no inverse:
directions that T shrinks below `cut` stay erased, and meta says how many they are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.diffusion import choose_parameters
from bench.pipe import Pipe
from bench.plugin import Attack, Context, Method, Victim
from bench.types import Adversary, Concept, Erasure, ModelSpec, PromptSet
from methods._closed_form import LAYERS, LinearEdit, hyperplane, linear, pieces_of, single_thread
from methods.trce import TRCE


@dataclass
class InverseEdit(Attack):
    """Artefact: "<denoiser>.<layer>.weight", the recovered projections. Prompts stay as they are."""

    cut: float  # smallest share of a direction that T may leave and that is still blown up again
    rounds: int  # at most, for edits that depend on the weights
    tolerance: float  # largest relative change of T between two rounds that counts as none

    access: ClassVar[str] = "weights"

    def __post_init__(self) -> None:
        if not 0 < self.cut < 1 or self.rounds < 1:
            raise ValueError(f"inverse_edit needs 0 < cut < 1 and rounds of at least 1, got {self.cut} and {self.rounds}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        if not isinstance(method, LinearEdit):
            return f"not applicable: {type(method).__name__} is no linear edit in closed form, so there is nothing to compute again."
        if isinstance(method, TRCE) and method.epochs > 0:
            return f"not applicable: {type(method).__name__} also trains weights, which cannot be computed again."
        return super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        pipe, method = victim.pipe, victim.method
        edited = {n: w.detach().clone() for n, w in choose_parameters(pipe.unet, LAYERS[method.layers]).items()}
        recovered, before, change = edited, None, float("inf")
        for number in range(self.rounds):
            with pipe.replaced({f"{pipe.denoiser_name}.{name}": w for name, w in recovered.items()}):
                edits = matrices(method.erase(pipe, victim.concepts, ctx), pipe, edited)
            stacked = torch.stack(list(edits.values()))
            if before is not None:
                change = ((stacked - before).norm() / before.norm()).item()
            ctx.log(number, change=change if before is not None else 1.0)
            if change <= self.tolerance:
                break
            before = stacked
            inverses, kept = zip(*(inverse(t, self.cut) for t in stacked), strict=True)
            recovered = {name: (w.double() @ t).to(w.dtype) for (name, w), t in zip(edited.items(), inverses, strict=True)}
        meta = {
            "condition": max(torch.linalg.cond(t).item() for t in before),
            "directions_lost": before.shape[-1] - min(kept),
            "rounds": number + 1,
            "converged": change <= self.tolerance,
        }
        return Adversary(prompts, {f"{pipe.denoiser_name}.{name}": w for name, w in recovered.items()}, meta)


def matrices(erasure: Erasure, pipe: Pipe, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """T [d, d], float64, for every edited weight; a shift enters as in merged weights."""
    plane, edits = None, {}
    for name, weight in weights.items():
        u, v, shift = pieces_of(erasure, name)
        if shift is not None and plane is None:
            plane = hyperplane(pipe)
        u, v = linear(u.to(weight.device), v.to(weight.device), shift, plane)
        eye = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
        edits[name] = eye + u.double() @ v.double().T
    return edits


def inverse(t: Tensor, cut: float) -> tuple[Tensor, int]:
    """Inverse of T where it keeps at least `cut` of a direction, zero where it does not; and the number of kept directions.

    Singular values are compared with 1, the share of a direction that an untouched model has.
    """
    with single_thread():
        u, s, vh = torch.linalg.svd(t)
    kept = s >= cut
    return vh.T[:, kept] @ ((1 / s[kept])[:, None] * u.T[kept]), int(kept.sum())
