"""Linear algebra that closed-form erasers share: one matrix for all cross-attention layers, in factors of low rank.

Every key and value projection W reads the same text states h, so a ridge problem that sends W'c to W g and keeps W'p has
the solution W' = W T with ONE matrix T = I + U V^T [d, d] for all layers:
    U = (G - C)^T [d, N],   V = B^-1 C^T alpha [d, N],   B = lambda I + C^T alpha C + P^T beta P.
An edit is therefore 2 d N numbers, and it can be applied to the weights (merge) or to the text states (hook).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.diffusion import CROSS_ATTENTION_KV, choose_parameters
from bench.pipe import Pipe

FORMS = ("merge", "hook")


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
    c, g, p = edit.double(), goal.double(), keep.double()
    b = ridge * torch.eye(c.shape[1], dtype=c.dtype, device=c.device) + alpha * c.T @ c + beta * p.T @ p
    with single_thread():
        factor = torch.linalg.cholesky((b + b.T) / 2)
        v = torch.cholesky_solve(alpha * c.T, factor)
    u = (g - c).T.contiguous()
    # More rows than dimensions: the product itself is the smaller form.
    return (u, v) if len(c) <= c.shape[1] else (u @ v.T, torch.eye(c.shape[1], dtype=c.dtype, device=c.device))


def merged(pipe: Pipe, u: Tensor, v: Tensor) -> dict[str, Tensor]:
    """New cross-attention key and value weights W + (W U) V^T by full name, in the model's dtype."""
    weights = choose_parameters(pipe.unet, CROSS_ATTENTION_KV)
    u, v = u.to(pipe.device, torch.float64), v.to(pipe.device, torch.float64)
    return {f"{pipe.denoiser_name}.{n}": (w.double() + (w.double() @ u) @ v.T).to(w.dtype) for n, w in weights.items()}


@contextmanager
def hooked(pipe: Pipe, u: Tensor, v: Tensor) -> Iterator[Pipe]:
    """The same edit on the text states: h -> h + (h V) U^T before the denoiser reads them, in both guidance branches."""

    def change(module, args, kwargs):
        h = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": h + (h @ v.to(h)) @ u.T.to(h)}

    with pipe.hooked({f"{pipe.denoiser_name}.": change}, pre=True):
        yield pipe


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
