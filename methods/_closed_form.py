"""Linear algebra that closed-form erasers share: one matrix for all cross-attention layers, in factors of low rank.

Every key and value projection W reads the same text states h, so a ridge problem that sends W'c to W g and keeps W'p has
the solution W' = W T with ONE matrix T = I + U V^T [d, d] for all layers:
    U = (G - C)^T [d, N],   V = B^-1 C^T alpha [d, N],   B = lambda I + C^T alpha C + P^T beta P.
An edit is therefore 2 d N numbers, and it can be applied to the weights (merge) or to the text states (hook).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.diffusion import choose_parameters
from bench.pipe import Pipe
from bench.plugin import Method
from bench.types import Concept, Erasure

FORMS = ("merge", "hook")
LAYERS = {"kv": r"attn2\.to_[kv]\.weight$", "k": r"attn2\.to_k\.weight$", "v": r"attn2\.to_v\.weight$"}


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
    their weights; ridge lambda > 0 pulls towards the original weights. Text states share one large common direction (the
    condition number of B is about 1e6), so everything is float64.
    """
    if edit.shape != goal.shape:
        raise ValueError(f"edited rows {tuple(edit.shape)} and goal rows {tuple(goal.shape)} must pair up.")
    if ridge <= 0:
        raise ValueError(f"the ridge weight must be positive, got {ridge}: without it the preserved rows alone may not span the space.")
    p = keep.double()
    return edit_keeping(edit, goal, alpha, beta * p.T @ p, ridge)


def edit_keeping(edit: Tensor, goal: Tensor, alpha: float, kept: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """As `low_rank_edit`, with the preserved rows given as their weighted sum of squares P^T beta P, [d, d]."""
    c, g = edit.double(), goal.double()
    factor = factored(alpha * c.T @ c + kept, ridge)
    with single_thread():
        v = torch.cholesky_solve(alpha * c.T, factor)
    return compact((g - c).T.contiguous(), v)


def factored(squares: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of squares + ridge I, float64 [d, d]. Without a ridge 1e-10 of the mean diagonal stands in for it."""
    ridge = ridge or 1e-10 * squares.diagonal().mean().item()
    b = squares + ridge * torch.eye(len(squares), dtype=squares.dtype, device=squares.device)
    with single_thread():
        return torch.linalg.cholesky((b + b.T) / 2)


def compact(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Factors with no more columns than the text states have dimensions: beyond that the product is the smaller form."""
    d = u.shape[0]
    return (u, v) if u.shape[1] <= d else (u @ v.T, torch.eye(d, dtype=u.dtype, device=u.device))


def chained(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Factors of T1 T2: the second edit was computed for the model that the first had already changed."""
    (u1, v1), (u2, v2) = first, second
    return compact(torch.cat([u1, u2 + u1 @ (v1.T @ u2)], 1), torch.cat([v1, v2], 1))


def gram(pipe: Pipe, layers: str = "kv") -> Tensor:
    """Sum over the projections of W^T W, float64 [d, d]: all that a sum over layers needs to know of the weights."""
    weights = choose_parameters(pipe.unet, LAYERS[layers]).values()
    return sum(w.double().T @ w.double() for w in weights)


@dataclass
class LinearEdit(Method):
    """A method whose artefact is one edit of the text states, h -> T h, read by some cross-attention projections.

    Artefact: "edit.U" and "edit.V" [d, rows], with T = I + U V^T; or one V for each layer, "edit.V.<layer>".
    """

    layers: str  # which projections read the edited states: one of LAYERS
    form: str  # merge (edited weights) or hook (edited text states): the same model

    def __post_init__(self) -> None:
        for key, value, allowed in (("layers", self.layers, tuple(LAYERS)), ("form", self.form, FORMS)):
            if value not in allowed:
                raise ValueError(f"method.{key}={value!r} is not known. Allowed: {', '.join(allowed)}.")

    def artefact(self, pipe: Pipe, u: Tensor, v: Tensor | dict[str, Tensor], **meta) -> Erasure:
        """The erasure in float32. `v` may be one factor per layer name."""
        factors = {"edit.V": v} if isinstance(v, Tensor) else {f"edit.V.{name}": each for name, each in v.items()}
        touched = sum(w.numel() for w in choose_parameters(pipe.unet, LAYERS[self.layers]).values())
        return Erasure({name: t.float() for name, t in {"edit.U": u, **factors}.items()}, {"parameters": touched, **meta})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        weights = choose_parameters(pipe.unet, LAYERS[self.layers])
        tensors = erasure.tensors
        if tensors["edit.U"].shape[0] != next(iter(weights.values())).shape[1]:
            raise ValueError(
                f"the artefact edits text states of width {tensors['edit.U'].shape[0]}, model {pipe.spec.name!r} has width "
                f"{next(iter(weights.values())).shape[1]}: it was made for another model."
            )
        of = {n: (tensors["edit.U"], tensors.get("edit.V", tensors.get(f"edit.V.{n.removesuffix('.weight')}"))) for n in weights}
        if self.form == "merge":
            new = {f"{pipe.denoiser_name}.{name}": merged(w, *of[name]) for name, w in weights.items()}
            with pipe.replaced(new):
                yield pipe
        else:
            hooks = {f"{pipe.denoiser_name}.{name.removesuffix('.weight')}": reading(*of[name]) for name in weights}
            with pipe.hooked(hooks, pre=True):
                yield pipe


def merged(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """W + (W U) V^T, computed in float64 and returned in the weight's dtype."""
    w, u, v = weight.double(), u.to(weight.device, torch.float64), v.to(weight.device, torch.float64)
    return (w + (w @ u) @ v.T).to(weight.dtype)


def reading(u: Tensor, v: Tensor) -> Callable:
    """A hook that edits what a projection reads: h -> h + (h V) U^T, in both guidance branches."""

    def change(module, args, kwargs):
        h = args[0]
        return (h + (h @ v.to(h)) @ u.T.to(h), *args[1:]), kwargs

    return change


# Which token rows of an encoded text enter. BOS is row 0; an empty text has its "last token" there.


def last_rows(pipe: Pipe, text: str) -> Tensor:
    """[1, d]: the last token of the text."""
    cond = pipe.encode([text])
    return cond.hidden[0, pipe.text.last_token(cond.ids)]


def aligned_rows(pipe: Pipe, edit: str, goal: str) -> tuple[Tensor, Tensor]:
    """Two [n, d]: both texts from their last token to the end of the padding, shifted so that last tokens meet."""
    cond = pipe.encode([edit, goal])
    first = pipe.text.last_token(cond.ids).tolist()
    n = pipe.text.length - max(first)
    return tuple(cond.hidden[k, first[k] : first[k] + n] for k in range(2))


def all_rows(pipe: Pipe, texts: list[str]) -> Tensor:
    """[len(texts) * length, d]: every position, padding included."""
    return pipe.encode(texts).hidden.flatten(0, 1)


def context_rows(pipe: Pipe, asked: list[str], wanted: list[str]) -> tuple[Tensor, Tensor]:
    """Two [n, d], pair by pair: the words that a pair of sentences shares at both ends, and the padding, without what differs.

    Shilin-LU/MACE@057e7a6, src/cfr_utils.py: the longest common prefix and suffix (begin and end token included), then
    padding, as many rows of either sentence as the longer one has.
    """
    cond = pipe.encode([*asked, *wanted])
    length, rows = pipe.text.length, ([], [])
    for k, pair in enumerate(zip(asked, wanted, strict=True)):
        ids = [[-1, *pipe.text.token_ids(text), -2] for text in pair]
        head = shared_head(*ids)
        tail = shared_head(*(tokens[: head - 1 : -1] for tokens in ids))
        kept = length - max(len(tokens) - tail - head for tokens in ids)
        for side, tokens in enumerate(ids):
            places = [*range(head), *range(len(tokens) - tail, length)][:kept]
            rows[side].append(cond.hidden[k + side * len(asked), places])
    return torch.cat(rows[0]), torch.cat(rows[1])


def shared_head(one: list[int], two: list[int]) -> int:
    """Length of the longest common beginning."""
    return next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def sum_of_squares(pipe: Pipe, texts: list[str], batch: int = 250) -> Tensor:
    """P^T P, float64 [d, d], over all positions of the texts, however many they are; zero without texts."""
    width = pipe.unet.config.cross_attention_dim
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

    A name that contains an erased name, or the reverse, is left out: it would undo the edit.
    """
    erased = [concept.name.lower() for concept in concepts]
    names = {name: concept for concept in concepts for source in sources for name in getattr(concept, source)}
    return {n: names[n] for n in sorted(names) if not any(e in n.lower() or n.lower() in e for e in erased)}
