"""What happens inside a model: activations at named sites, how alike two models' are, and what a linear probe reads in them.

CKA: Kornblith et al. 2019, arXiv 1905.00414, section 3; unbiased HSIC: Song et al. 2012, J. Mach. Learn. Res. 13, eq. 5.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vestige.bench.contract.types import ModelSpec, derived_seed
from vestige.bench.models import families

if TYPE_CHECKING:
    from vestige.bench.models.families.base import Family
    from vestige.bench.models.pipe import Pipe

TEXT = "text"  # the site that all families have: what the text encoders say


def sites(family: Family) -> tuple[str, ...]:
    """The names of what can be compared or probed in models of this family."""
    return (TEXT, *family.sites)


def check_sites(metric: str, asked: list[str], model: ModelSpec) -> str | None:
    """Why these sites do not fit this model, in a sentence, or None."""
    known = sites(families.family(model.family))
    unknown = [site for site in asked if site not in known]
    if not unknown:
        return None
    return (
        f"{metric}: models of family {model.family} have no site {', '.join(unknown)}; set {metric}.sites to some of: {', '.join(known)}."
    )


def modules(pipe: Pipe, site: str) -> list[str]:
    """Modules of the denoiser whose outputs, side by side, are the activations of a site."""
    pattern = re.compile(pipe.family.sites[site])
    return [f"{pipe.denoiser_name}.{name}" for name, _ in pipe.denoiser.named_modules() if pattern.search(name)]


@torch.no_grad()
def text_states(pipe: Pipe, prompts: list[str], batch: int) -> Tensor:
    """[n, width]: what the denoiser is told, mean over tokens."""
    parts = [pipe.encode(prompts[k : k + batch]).hidden.mean(1) for k in range(0, len(prompts), batch)]
    return torch.cat(parts).double().cpu()


@torch.no_grad()
def activations(
    pipe: Pipe, prompts: list[str], latents: Tensor, noise: Tensor, level: float, sites: list[str], batch: int
) -> dict[str, Tensor]:
    """Site -> [n, d], mean over places, of one denoiser call per row on noised latents, through every hook in force.

    prompts: one per row. latents, noise [n, channels, h, w] are shared by the models one compares. level: of the process.
    """
    place = {site: modules(pipe, site) for site in sites}
    seen: dict[str, list[Tensor]] = {name: [] for names in place.values() for name in names}

    def note(name: str):
        def hook(module, args, kwargs, output) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen[name].append((hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)).double().cpu())

        return hook

    with pipe.hooked({name: note(name) for name in seen}):
        for k in range(0, len(prompts), batch):
            x0, e = (each[k : k + batch].to(pipe.device, pipe.dtype) for each in (latents, noise))
            levels = torch.full((len(x0),), level, device=pipe.device)
            pipe.predict(pipe.process.add_noise(x0, e, levels), levels, pipe.encode(prompts[k : k + batch]))
    return {site: torch.cat([torch.cat(seen[name]) for name in names], dim=1) for site, names in place.items()}


def shared_noise(latents: Tensor, rows: list[tuple], seed: int) -> Tensor:
    """Noise of the latents' shape; a row's depends on its name alone, never on its place."""
    seeds = [derived_seed("representation", seed, *row) for row in rows]
    return torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])


def linear_cka(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """Likeness of activations [n, p] and [n, q] of the same n inputs; 1: equal up to rotation, scale and shift.

    The biased form is in [0, 1] and rises with p / n, also for unrelated activations; the unbiased one stays near 0 there and
    may be negative. NaN where all rows are equal. Needs n of at least 4.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA compares activations of the same inputs, at least 4; got {len(x)} and {len(y)} rows.")
    return _likeness(_gram(x), _gram(y), unbiased)


def linear_cka_left_out(x: Tensor, y: Tensor, groups: list[str], unbiased: bool) -> list[float]:
    """The same without each group of rows in turn, groups in sorted order; NaN where fewer than 4 rows are left."""
    a, b, found = _gram(x), _gram(y), []
    for group in sorted(set(groups)):
        rows = [k for k, other in enumerate(groups) if other != group]
        found.append(_likeness(_part(a, rows), _part(b, rows), unbiased))
    return found


def _part(gram: Tensor | None, rows: list[int]) -> Tensor | None:
    """Inner products of some rows, centred anew; None where they are too few or differ by no more than rounding."""
    if gram is None or len(rows) < 4:
        return None
    part = gram[rows][:, rows]
    part = part - part.mean(0) - part.mean(1, keepdim=True) + part.mean()
    return None if part.norm() <= 1e-9 * gram.norm() else part


def _likeness(a: Tensor | None, b: Tensor | None, unbiased: bool) -> float:
    if a is None or b is None:
        return float("nan")
    hsic = _hsic_unbiased if unbiased else lambda a, b: float((a * b).sum())
    scale = hsic(a, a) * hsic(b, b)
    return hsic(a, b) / scale**0.5 if scale > 0 else float("nan")


def _gram(x: Tensor) -> Tensor | None:
    """Inner products of centred rows; None where the rows differ by no more than rounding."""
    x = x.double()
    centred = x - x.mean(0)
    return None if centred.norm() <= 1e-6 * x.norm() else centred @ centred.T


def _hsic_unbiased(a: Tensor, b: Tensor) -> float:
    n = len(a)
    a, b = (each - torch.diag(each.diagonal()) for each in (a, b))
    ones = a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a.sum(0) @ b.sum(0))
    return float(((a * b).sum() + ones) / (n * (n - 3)))


def fitted_probe(x: Tensor, y: Tensor, ridge: float):
    """A linear classifier: ridge regression on the label, both classes weighing the same. x [n, d], y bool [n].

    Features are brought to mean 0 and spread 1 first; ridge is relative to their number. Returns x -> scores [n], 0 divides.
    """
    x = x.double()
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-9)
    share = y.double().mean()
    weight = torch.where(y, 0.5 / share, 0.5 / (1 - share)).double()
    z, target = (x - mean) / spread, torch.where(y, 1.0, -1.0).double()
    centre = (weight[:, None] * z).mean(0)
    z = z - centre
    # Solved over rows, not features: there are a few dozen of the one and hundreds of the other.
    inner = z @ z.T / z.shape[1]
    solved = torch.linalg.solve(inner + ridge * torch.diag(1 / weight), target)
    slope = z.T @ solved / z.shape[1]

    def scores(rows: Tensor) -> Tensor:
        return ((rows.double() - mean) / spread - centre) @ slope

    return scores


def folds_of(groups: list[str], count: int, seed: int) -> Tensor:
    """[n] fold number of each row; rows of one group share theirs, so that no prompt is both learnt and asked."""
    unique = sorted(set(groups))
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    fold = {group: order[k] % count for k, group in enumerate(unique)}
    return torch.tensor([fold[group] for group in groups])
