"""Linear algebra that closed-form erasers share: one matrix for all cross-attention layers, in factors of low rank.

Every key and value projection W reads the same text states h, so a ridge problem that sends W'c to W g and keeps W'p has
the solution W' = W T with ONE matrix T = I + U V^T [d, d] for all layers:
    U = (G - C)^T [d, N],   V = B^-1 C^T alpha [d, N],   B = lambda I + C^T alpha C + P^T beta P.
An edit is therefore 2 d N numbers, and it can be applied to the weights (merge) or to the text states (hook). Affine edits
h -> T h + a need no bias either where all text states lie in one hyperplane (see `hyperplane`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Concept, Erasure
from vestige.bench.models.pipe import Pipe
from vestige.methods._text_rows import all_rows

FORMS = ("merge", "hook")
LAYERS = ("kv", "k", "v")  # keys and values, or one of them
NO_HYPERPLANE = "its edit has a shift, which {family}'s text states (no last layer norm) cannot carry inside weights: set method.form=hook."
Piece = Tensor | dict[str, Tensor]  # one for all layers, or one per layer name


@contextmanager
def single_thread() -> Iterator[None]:
    """d x d factorisations on few busy cores are up to a hundred times slower with several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def low_rank_edit(edit: Tensor, goal: Tensor, alpha: float, keep: Tensor, beta: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Factors (U, V), both float64 [d, min(N, d)], of the optimal T = I + U V^T.

    edit C [N, d] rows to change; goal G [N, d] rows whose output they get; keep P [M, d] rows to preserve; alpha, beta
    their weights; ridge lambda pulls towards the original weights. Text states share one large common direction (the
    condition number of B is about 1e6), so everything is float64. Without a ridge the rows must span the space.
    """
    if edit.shape != goal.shape:
        raise ValueError(f"edited rows {tuple(edit.shape)} and goal rows {tuple(goal.shape)} must pair up.")
    check_spanned(len(edit) * (alpha > 0) + len(keep) * (beta > 0), edit.shape[1], ridge)
    p = keep.double()
    return edit_keeping(edit, goal, alpha, beta * p.T @ p, ridge)


def edit_keeping(edit: Tensor, goal: Tensor, alpha: float, kept: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """As `low_rank_edit`, with the preserved rows given as their weighted sum of squares P^T beta P, [d, d]."""
    c, g = edit.double(), goal.double()
    factor = factored(alpha * c.T @ c + kept, ridge)
    with single_thread():
        v = torch.cholesky_solve(alpha * c.T, factor)
    return compact((g - c).T.contiguous(), v)


def edit_of_sums(cross: Tensor, squares: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """As `edit_keeping`, with everything given as sums: cross (G - C)^T alpha C, squares C^T alpha C + P^T beta P, [d, d] each."""
    factor = factored(squares, ridge)
    with single_thread():
        v = torch.cholesky_solve(cross.T.contiguous(), factor)
    return torch.eye(len(v), dtype=v.dtype, device=v.device), v


def factored(squares: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of squares + ridge I, float64 [d, d].

    Without a ridge, 1e-10 of the mean diagonal stands in for it where the rows leave some direction undecided.
    """
    identity = torch.eye(len(squares), dtype=squares.dtype, device=squares.device)
    b = (squares + squares.T) / 2 + ridge * identity
    with single_thread():
        factor, failed = torch.linalg.cholesky_ex(b)
        pivots = factor.diagonal().square()
        if ridge == 0 and (failed or pivots.min() < 1e-12 * pivots.max()):
            factor, failed = torch.linalg.cholesky_ex(b + 1e-10 * squares.diagonal().mean() * identity)
    if failed:
        raise ValueError(
            f"the edited and preserved rows decide too few directions for a ridge of {ridge}: set a larger one (method.ridge=0.5)."
        )
    return factor


def check_spanned(rows: int, width: int, ridge: float) -> None:
    """Fewer rows than dimensions leave directions that only a ridge decides."""
    if ridge < 0:
        raise ValueError(f"the ridge weight must not be negative, got {ridge}.")
    if ridge == 0 and rows < width:
        raise ValueError(
            f"without a ridge {rows} rows cannot decide an edit of {width} dimensions: set a ridge weight above 0 "
            "(method.ridge=0.5), or edit and preserve more texts."
        )


def solved_per_layer(
    weights: Mapping[str, Tensor], edit: Tensor, goals: Mapping[str, Tensor], alpha: float, keep: Tensor, beta: float, ridge: float
) -> dict[str, Tensor]:
    """New weights [o, d] by layer, where layer l must answer rows C [N, d] with goals[l] [N, o], which need not be W g.

    W'_l = (lambda W_l + alpha V_l^T C + beta W_l P^T P) B^-1: one factorisation, all layers stacked as right-hand sides.
    """
    c, p = edit.double(), keep.double()
    check_spanned(len(c) * (alpha > 0) + len(p) * (beta > 0), c.shape[1], ridge)
    kept = beta * p.T @ p
    right = [ridge * w.double() + alpha * goals[name].double().T @ c + w.double() @ kept for name, w in weights.items()]
    factor = factored(alpha * c.T @ c + kept, ridge)
    with single_thread():
        solved = torch.cholesky_solve(torch.cat(right).T, factor).T
    return {name: new.to(w.dtype) for (name, w), new in zip(weights.items(), solved.split([len(r) for r in right]), strict=True)}


def compact(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Factors with no more columns than the text states have dimensions: beyond that the product is the smaller form."""
    d = u.shape[0]
    return (u, v) if u.shape[1] <= d else (u @ v.T, torch.eye(d, dtype=u.dtype, device=u.device))


def chained(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Factors of T1 T2: the second edit was computed for the model that the first had already changed."""
    (u1, v1), (u2, v2) = first, second
    return compact(torch.cat([u1, u2 + u1 @ (v1.T @ u2)], 1), torch.cat([v1, v2], 1))


def projections(pipe: Pipe, layers: str = "kv") -> dict[str, torch.nn.Parameter]:
    """Weights [out, d] of the linear layers that read the text states themselves, by parameter name."""
    return {name: weight for name, weight in pipe.group(f"cross_{layers}").items() if name.endswith(".weight")}


def width_of(pipe: Pipe) -> int:
    """d, of the text states."""
    return next(iter(projections(pipe).values())).shape[1]


def gram(pipe: Pipe, layers: str = "kv") -> Tensor:
    """Sum over the projections of W^T W, float64 [d, d]: all that a sum over layers needs to know of the weights."""
    weights = projections(pipe, layers).values()
    return sum((w.double().T @ w.double() for w in weights), start=torch.zeros(()))


def hyperplane(pipe: Pipe) -> Tensor:
    """u [d], float64, with u h = 1 for every text state h, which turns a shift a into a part of the weights: W a = W a u h.

    Text states leave a layer norm with gain g and bias b, so sum_j h_j / g_j = sum_j b_j / g_j, whatever the prompt.
    """
    normal = plane_normal(pipe)
    if normal is None:
        raise ValueError(NO_HYPERPLANE.format(family=pipe.family.name))
    u = normal / (last_norm(pipe).bias.double() @ normal)
    error = (all_rows(pipe, ["", "a photo of a dog"]).double() @ u - 1).abs().max().item()
    if not error < 1e-3:  # also when the biases cancel: a plane through the origin has no such u
        raise ValueError(f"text states of model {pipe.spec.name!r} miss their hyperplane by {error:.1e}: set method.form=hook.")
    return u


def last_norm(pipe: Pipe) -> torch.nn.LayerNorm:
    """The layer norm that text states leave, where they leave one."""
    return [module for module in pipe.text.readers[0].module.modules() if isinstance(module, torch.nn.LayerNorm)][-1]


def plane_normal(pipe: Pipe) -> Tensor | None:
    """[d], float64: orthogonal to every difference of text states; none where they do not leave a norm."""
    return 1 / last_norm(pipe).weight.detach().double() if pipe.family.normed else None


def check_width(pipe: Pipe, made_for: int, width: int) -> None:
    """Raise when an artefact is for text states of another width than the model's."""
    if made_for != width:
        raise ValueError(
            f"the artefact edits text states of width {made_for}, model {pipe.spec.name!r} has width {width}: "
            "it was made for another model."
        )


@dataclass
class LinearEdit(Method):
    """A method whose artefact is one edit of the text states, h -> T h + a, read by some of the projections.

    Artefact: "edit.U" and "edit.V" [d, rows], with T = I + U V^T, and "edit.shift" [d], a, where the edit has one. Any of
    them may differ by layer: "edit.V.<layer>".
    """

    layers: str  # which projections read the edited states: one of LAYERS
    form: str  # merge (edited weights) or hook (edited text states): the same model

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return ("words", "states", f"cross_{self.layers}")

    @property
    def detachable(self) -> bool:  # type: ignore[override]  # here it depends on a setting
        """Hooks are left out by whoever runs the model; merged weights stay merged."""
        return self.form == "hook"

    def __post_init__(self) -> None:
        for key, value, allowed in (("layers", self.layers, LAYERS), ("form", self.form, FORMS)):
            if value not in allowed:
                raise ValueError(f"method.{key}={value!r} is not known. Allowed: {', '.join(allowed)}.")

    def supports_steps(self) -> str | None:
        if self.form == "hook":
            return (
                "with method.form=hook a later edit reads text states that an earlier one has changed already, in the wrong order. "
                "Set method.form=merge."
            )
        return super().supports_steps()

    def artefact(self, pipe: Pipe, u: Piece, v: Piece, shift: Piece | None = None, **meta) -> Erasure:
        """The erasure in float32. Each piece may be given by layer name."""
        pieces: dict[str, Tensor | None] = {}
        for piece, value in (("U", u), ("V", v), ("shift", shift)):
            pieces |= {f"edit.{piece}.{n}": t for n, t in value.items()} if isinstance(value, dict) else {f"edit.{piece}": value}
        facts = {"parts": [pipe.denoiser_name], "parameters": sum(w.numel() for w in projections(pipe, self.layers).values())}
        return Erasure({name: t.float() for name, t in pieces.items() if t is not None}, facts | meta)

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        weights = projections(pipe, self.layers)
        of = {name: pieces_of(erasure, name) for name in weights}
        check_width(pipe, next(iter(of.values()))[0].shape[0], next(iter(weights.values())).shape[1])
        if self.form == "merge":
            plane = hyperplane(pipe) if any(shift is not None for _, _, shift in of.values()) else None
            new = {f"{pipe.denoiser_name}.{name}": merged(w, *linear(*of[name], plane)) for name, w in weights.items()}
            with pipe.replaced(new):
                yield pipe
        else:
            hooks = {f"{pipe.denoiser_name}.{name.removesuffix('.weight')}": reading(*of[name]) for name in weights}
            with pipe.hooked(hooks, pre=True):
                yield pipe


def pieces_of(erasure: Erasure, weight: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """(U, V, shift or None) of an artefact for the layer of this weight."""
    layer = weight.removesuffix(".weight")
    u, v, shift = (erasure.tensors.get(f"edit.{k}.{layer}", erasure.tensors.get(f"edit.{k}")) for k in ("U", "V", "shift"))
    if u is None or v is None:
        raise ValueError(f"the artefact holds no edit for layer {layer}: it was made for another model, or with other method.layers.")
    return u, v, shift


def linear(u: Tensor, v: Tensor, shift: Tensor | None, plane: Tensor | None) -> tuple[Tensor, Tensor]:
    """Factors of T + a u^T, which does to text states what T h + a does."""
    if shift is None:
        return u, v
    assert plane is not None, "an edit with a shift is merged by the hyperplane of the text states"
    return torch.cat([u, shift[:, None]], 1), torch.cat([v.to(plane), plane[:, None]], 1)


def merged(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """W + (W U) V^T, computed in float64 and returned in the weight's dtype."""
    w, u, v = weight.double(), u.to(weight.device, torch.float64), v.to(weight.device, torch.float64)
    return (w + (w @ u) @ v.T).to(weight.dtype)


def reading(u: Tensor, v: Tensor, shift: Tensor | None = None) -> Callable:
    """A hook that edits what a projection reads: h -> h + (h V) U^T + a, in both guidance branches."""

    def change(module, args, kwargs):
        h = args[0]
        edited = h + (h @ v.to(h)) @ u.T.to(h)
        return (edited if shift is None else edited + shift.to(h), *args[1:]), kwargs

    return change


def sum_of_squares(pipe: Pipe, texts: list[str], batch: int = 250) -> Tensor:
    """P^T P, float64 [d, d], over all positions of the texts, however many they are; zero without texts."""
    width = width_of(pipe)
    total = torch.zeros(width, width, dtype=torch.float64, device=pipe.device)
    for start in range(0, len(texts), batch):
        rows = all_rows(pipe, texts[start : start + batch]).double()
        total += rows.T @ rows
    return total


# Texts


def worded(templates: list[str], name: str, concept: Concept) -> list[str]:
    """`name` in every wording. Unrelated things fill {other}, so that the words around the name are edited too."""
    return [t.format(name=name, other=o) for t in templates for o in (concept.others if "{other}" in t else [""])]


def kept_names(concepts: list[Concept], sources: list[str]) -> dict[str, Concept]:
    """Names to preserve, sorted, and a concept that lists each. `sources` are entries of the concept file.

    A name that contains an erased name, or the reverse, is left out: it would undo the edit (see `left_out`).
    """
    dropped, names = left_out(concepts, sources), _listed(concepts, sources)
    return {name: names[name] for name in sorted(names) if name not in dropped}


def left_out(concepts: list[Concept], sources: list[str]) -> list[str]:
    """Listed names that overlap with an erased name: for the artefact's record."""
    erased = [concept.name.lower() for concept in concepts]
    return sorted(n for n in _listed(concepts, sources) if any(e in n.lower() or n.lower() in e for e in erased))


def _listed(concepts: list[Concept], sources: list[str]) -> dict[str, Concept]:
    return {name: concept for concept in concepts for source in sources for name in getattr(concept, source)}
