"""Change what the concept's words look up, but only along directions that no retained word uses.

SPEED, Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026 (arXiv
2503.07392); Ouxiang-Li/SPEED@6d3df0c. The retained words are filtered (those the edit would disturb most), augmented and
turned into a null space; the begin token and the empty prompt are fixed exactly. As in the code, a text's rows are summed and
texts are averaged, where the paper sums over everything.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.pipe import Pipe
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import LinearEdit, projections, single_thread
from vestige.methods._text_rows import all_rows, last_rows

ROWS = ("last", "all")
RETAIN = ("siblings", "others")
CHUNK = 128  # augmented rows are filtered by the mean of chunks of this many rows, as in the code


@dataclass
class SPEED(LinearEdit):
    """Artefact: see LinearEdit, one V for each layer, since the filter depends on the layer's weights."""

    version: ClassVar[int] = 3
    evidence: ClassVar[tuple[str, ...]] = (
        "Ouxiang-Li/SPEED@6d3df0c: edits to 3e-7, last and all rows, with and without filter and copies",
    )

    rows: str  # last: each text's last token; all: every position but the begin token
    anchor: str  # what the concept becomes; {anchor} is the concept's anchor, {sibling} its first sibling; empty: the begin token
    retain: list[str]  # names that must stay: any of RETAIN; none: the empty prompt
    templates: list[str]  # wordings of the concept, its anchor and the retained names; {name} is the name
    threshold: float  # tau: eigenvalues below it count as null
    row_norm: float | None  # the mean squared norm of text states that tau and r were chosen for; null: they are taken as they are
    retain_scale: float  # r
    invariance_ridge: float  # ell: 0 fixes begin token and empty prompt exactly
    filter: bool  # influence-based filtering of retained rows; as in the code only with copies: at augment=0 all rows stay
    augment: int  # copies of each retained row, always filtered; 0: none
    invariants: int  # centres that stand for the empty prompt's other rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows not in ROWS:
            raise ValueError(f"method.rows={self.rows!r} is not known. Allowed: {', '.join(ROWS)}.")
        unknown = set(self.retain) - set(RETAIN)
        if unknown:
            raise ValueError(f"method.retain={self.retain} contains {sorted(unknown)}. Allowed: {', '.join(RETAIN)}.")
        if self.retain_scale <= 0:
            raise ValueError(f"method.retain_scale={self.retain_scale} must be positive: without it the edit has no limit. SPEED's is 1.")
        for field in ("invariance_ridge", "augment"):
            if getattr(self, field) < 0:
                raise ValueError(f"method.{field}={getattr(self, field)} must not be negative.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return unsupported_reason(concepts, {"anchor": self.anchor}, self.retain, self.anchored_name) or super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        check_pairs(pipe, [(concept.name, self.anchored_name(concept)) for concept in concepts])
        c, g = self.edited_rows(pipe, concepts)
        retained = self.retained_rows(pipe, concepts, ctx.generator("order"))
        fixed = invariant_rows(all_rows(pipe, [""]).double(), self.invariants, ctx.generator("centres"))
        factors, null, scale = {}, {}, self.scale_of(retained)
        for name, weight in projections(pipe, self.layers).items():
            layer = name.removesuffix(".weight")
            moment = self.retained_moment(weight.double(), c, g, retained, ctx.generator(f"augmentation {layer}"))
            projector, null[layer] = null_projector(moment, self.threshold * scale)
            if null[layer] == 0:
                raise ValueError(
                    f"{len(retained)} retained rows leave no free direction in {layer}: raise method.threshold ({self.threshold}) or "
                    "retain fewer names."
                )
            factors[layer] = reading_factor(c, g, projector, fixed, self.retain_scale * scale, self.invariance_ridge)
        ctx.log(0, smallest_null_space=min(null.values()), retained=len(retained))
        return self.artefact(pipe, (g - c).T.contiguous(), factors, rows=len(c), null_space=null)

    def scale_of(self, rows: Tensor) -> float:
        return 1.0 if self.row_norm is None else rows.square().sum(-1).mean().item() / self.row_norm

    def anchored_name(self, concept: Concept) -> str:
        return self.anchor.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def edited_rows(self, pipe: Pipe, concepts: list[Concept]) -> tuple[Tensor, Tensor]:
        """C and G [N, d], float64, divided by sqrt(texts): C^T C is then the mean over texts of sums over a text's rows."""
        pairs = []
        for concept in concepts:
            anchor = self.anchored_name(concept)
            pairs += [(t.format(name=concept.name), t.format(name=anchor) if anchor else "") for t in self.templates]
        if self.rows == "last":
            c, g = (torch.cat([last_rows(pipe, pair[k]) for pair in pairs]) for k in range(2))
        else:
            c, g = (pipe.encode([pair[k] for pair in pairs]).hidden[:, 1:].flatten(0, 1) for k in range(2))
        return c.double() / len(pairs) ** 0.5, g.double() / len(pairs) ** 0.5

    def retained_rows(self, pipe: Pipe, concepts: list[Concept], generator: torch.Generator) -> Tensor:
        """R0 [M, d], shuffled. A name that holds an erased name as a word is dropped."""
        erased = [re.compile(rf"\b{re.escape(concept.name)}\b", re.IGNORECASE) for concept in concepts]
        names = sorted({name for source in self.retain for concept in concepts for name in getattr(concept, source)})
        names = [name for name in names if not any(word.search(name) for word in erased)]
        if not names:
            return all_rows(pipe, [""]).double()[1:]
        rows = torch.cat([last_rows(pipe, t.format(name=name)) for name in names for t in self.templates]).double()
        return rows[torch.randperm(len(rows), generator=generator)]

    def retained_moment(self, weight: Tensor, c: Tensor, g: Tensor, retained: Tensor, generator: torch.Generator) -> Tensor:
        """Second moment [d, d] of the retained rows after filtering (IPF) and augmentation (DPA) for one layer.

        Copies are rows x + s v with s normal (isotropic noise, projected on v): they are never written out, since their
        influence and their moment are polynomials in s.
        """
        kept, influence = retained, influence_of(weight, c, g)
        if self.filter and self.augment:
            size = influence(retained)
            kept = retained[size >= size.mean()]
        square = kept.T @ kept
        count: float = len(kept)
        if self.augment:
            v = least_passed(weight)
            s = torch.randn((len(kept), self.augment), generator=generator, dtype=torch.float64).to(kept)
            chosen = torch.cat([(size >= size.mean()).to(s) for size in influence(kept, v, s).split(CHUNK)])
            crossed = torch.outer(((chosen * s).sum(1) @ kept), v)
            square = square + (kept * chosen.sum(1, keepdim=True)).T @ kept + crossed + crossed.T
            square = square + (chosen * s.square()).sum() * torch.outer(v, v)
            count += chosen.sum().item()
        return square / count


def influence_of(weight: Tensor, c: Tensor, g: Tensor):
    """Rows x -> |D x|, how far the erase-only update D = W (A - T)(I + T)^-1 would move each row's output; eq. 7 of the paper.

    T = C^T C and A = G^T C. With a direction v [d] and steps s [rows, copies] it returns |D (x + s v)| instead, [rows, copies].
    """
    with single_thread():
        read = torch.linalg.solve(torch.eye(len(c), dtype=c.dtype, device=c.device) + c @ c.T, c)
        written = weight @ (g - c).T
        middle = written.T @ written  # |D x|^2 = y^T middle y with y = read x, of as many numbers as there are edited rows

    def influence(x: Tensor, v: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        y = x @ read.T
        square = (y @ middle * y).sum(-1)
        if v is not None and s is not None:
            step = middle @ (read @ v)
            square = square[:, None] + 2 * s * (y @ step)[:, None] + s.square() * (step @ (read @ v))
        return square.clamp_min(0).sqrt()

    return influence


def least_passed(weight: Tensor) -> Tensor:
    """v [d] of length 1: of the input directions that the layer [o, d] passes, the one it passes least. Copies of a row moved
    along it look alike to the layer."""
    outputs, inputs = weight.shape
    with single_thread():
        if outputs >= inputs:
            return torch.linalg.eigh(weight.T @ weight).eigenvectors[:, 0]
        v = weight.T @ torch.linalg.eigh(weight @ weight.T).eigenvectors[:, 0]
    return v / v.norm()


def null_projector(moment: Tensor, threshold: float) -> tuple[Tensor, int]:
    """(projector [d, d], its rank): eigenvectors of the rows' second moment [d, d] with eigenvalues below the threshold."""
    with single_thread():
        values, vectors = torch.linalg.eigh(moment)
    free = vectors[:, values.clamp_min(0) < threshold]  # rounding makes some zeros negative
    return free @ free.T, free.shape[1]


def reading_factor(c: Tensor, g: Tensor, projector: Tensor, fixed: Tensor, r: float, ridge: float) -> Tensor:
    """V [d, N] of the update W (G - C)^T V^T; eqs. 9 to 12 of the paper by the push-through identity (an N x N solve).

    projector P [d, d]; fixed K [d, m] whose outputs must not change. With Q = P (C^T C P + r I)^-1:
    V^T = C Q - C Q K (K^T Q K + ridge I)^-1 K^T Q.
    """
    with single_thread():
        z = projector @ c.T
        inner = torch.linalg.solve(r * torch.eye(len(c), dtype=c.dtype, device=c.device) + z.T @ z, z.T)
        q = (projector - z @ inner) / r
        cq = c @ q
        between = fixed.T @ q @ fixed
        # Fixed rows that the retained ones already span have no part in the null space: nothing is left to solve for.
        nothing = 1e-10 * fixed.square().sum(0).mean() / r
        middle = between + ridge * torch.eye(len(between), dtype=c.dtype, device=c.device)
        inverse = torch.linalg.pinv((middle + middle.T) / 2, atol=nothing, rtol=0.0, hermitian=True)
        return (cq - cq @ fixed @ inverse @ (fixed.T @ q)).T.contiguous()


def invariant_rows(empty: Tensor, centres: int, generator: torch.Generator) -> Tensor:
    """K [d, 1 + centres]: the begin token of the empty prompt and k-means centres of its other rows."""
    rest, steps = empty[1:], 20
    middle = rest[torch.randperm(len(rest), generator=generator)[:centres]]
    for _ in range(steps):
        nearest = torch.cdist(rest, middle).argmin(-1)
        middle = torch.stack([rest[nearest == k].mean(0) if (nearest == k).any() else middle[k] for k in range(centres)])
    return torch.cat([empty[:1], middle]).T
