"""Undoes a closed-form edit of the weights by computing it again and inverting it: no image and no original weight is needed.

Ours, after the remark that a closed-form eraser multiplies every edited projection by one matrix T = I + U V^T, which follows
from text states alone: who knows the method, its settings and the concept computes T from the erased model, whose text
encoder is untouched, and W' T^-1 is the original. An attacker can check the result: edited anew, it must give W'. Where T
also depends on the weights (RECE, SPEED), the computation is repeated on the recovered weights, which need not converge; the
candidate that comes nearest to W' is taken. Directions that T shrinks below `cut` (a projection's) stay erased.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, Erasure, ModelSpec, PromptSet
from vestige.bench.models.pipe import Pipe
from vestige.methods._closed_form import LinearEdit, hyperplane, linear, pieces_of, single_thread
from vestige.methods.trce import TRCE


@dataclass
class InverseEdit(Attack):
    """Artefact: "<denoiser>.<layer>.weight", the recovered projections. Prompts stay as they are."""

    cut: float  # smallest share of a direction that T may leave and that is still blown up again
    rounds: int  # at most, for edits that depend on the weights
    tolerance: float  # relative distance to the edited weights at which the recovered ones, edited anew, count as right

    access: ClassVar[str] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("draw", "words", "states", "cross_kv")

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
        assert isinstance(method, LinearEdit), "supports() lets no other method through"
        projections = pipe.group(f"cross_{method.layers}").items()
        edited = {name: w.detach().clone() for name, w in projections if name.endswith(".weight")}
        recovered, gap, rounds = edited, float("inf"), 0
        used = edits = self.computed(victim, edited, ctx)
        if method.form == "hook":  # the weights are the original's, so these matrices are the hook's own
            recovered, gap = undone(edited, edits, self.cut), 0.0
        while gap > self.tolerance and rounds < self.rounds:
            rounds, candidate = rounds + 1, undone(edited, edits, self.cut)
            edits = self.computed(victim, candidate, ctx)
            distance = max(((w.double() @ edits[n] - edited[n]).norm() / edited[n].norm()).item() for n, w in candidate.items())
            ctx.log(rounds, distance=distance)
            if distance < gap:
                recovered, gap, used = candidate, distance, edits
        singular = [torch.linalg.svdvals(t) for t in used.values()]
        meta = {
            "condition": max((s[0] / s[-1]).item() for s in singular),
            "directions_lost": max(int((s < self.cut).sum()) for s in singular),
            "rounds": rounds,
            "distance": gap,
        }
        return Adversary(prompts, {f"{pipe.denoiser_name}.{name}": w for name, w in recovered.items()}, meta)

    def computed(self, victim: Victim, weights: dict[str, Tensor], ctx: Context) -> dict[str, Tensor]:
        """The edit that the method would make to a model with these projections, as T [d, d] by weight name."""
        pipe = victim.pipe
        with pipe.replaced({f"{pipe.denoiser_name}.{name}": w for name, w in weights.items()}):
            return matrices(victim.method.erase(pipe, victim.concepts, replace(ctx, history=[])), pipe, weights)


def undone(edited: dict[str, Tensor], edits: dict[str, Tensor], cut: float) -> dict[str, Tensor]:
    return {name: (w.double() @ inverse(edits[name], cut)).to(w.dtype) for name, w in edited.items()}


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


def inverse(t: Tensor, cut: float) -> Tensor:
    """Inverse of T where it keeps at least `cut` of a direction, zero where it does not.

    Singular values are compared with 1, the share of a direction that an untouched model has.
    """
    with single_thread():
        u, s, vh = torch.linalg.svd(t)
    kept = s >= cut
    return vh.T[:, kept] @ ((1 / s[kept])[:, None] * u.T[kept])
