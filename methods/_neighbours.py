"""Random rows at a chosen cosine and distance from given rows: exact, where rejecting isotropic noise would never end.

Every row e = |e| u gets |e| r (c u + sqrt(1 - c^2) v) with a random unit vector v across u; cosine c and radius r decide the
rest, since the distance to e is |e| sqrt(r^2 - 2 r c + 1). Distances are in units of |e| throughout. With a `normal` to which
all rows are orthogonal, the new ones are as well.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def near(rows: Tensor, cosine: tuple[float, float], reach: float, normal: Tensor | None, generator: torch.Generator) -> Tensor:
    """[n, d], one for each of `rows` [n, d]: cosine within the band, distance at most `reach` < 1.

    At cosine c no row is nearer than sqrt(1 - c^2), so `reach` must be at least that at the band's lower end.
    """
    c = cosine[0] + (cosine[1] - cosine[0]) * uniform(rows, generator)
    least = (1 - c**2).clamp_min(0).sqrt()
    distance = least + (reach - least) * uniform(rows, generator)
    side = (distance**2 - least**2).clamp_min(0).sqrt()
    return turned(rows, c, c + torch.where(uniform(rows, generator) < 0.5, side, -side), normal, generator)


def far(rows: Tensor, cosine: tuple[float, float], reach: float, normal: Tensor | None, generator: torch.Generator) -> Tensor:
    """[n, d]: cosine within the band, distance at least `reach`; as long as the row itself where that is far enough."""
    c = cosine[0] + (cosine[1] - cosine[0]) * uniform(rows, generator)
    radius = c + (reach**2 - 1 + c**2).clamp_min(0).sqrt()
    return turned(rows, c, torch.where(2 - 2 * c >= reach**2, 1.0, radius), normal, generator)


def uniform(rows: Tensor, generator: torch.Generator) -> Tensor:
    """[n, 1] in [0, 1)."""
    return torch.rand((len(rows), 1), generator=generator, dtype=torch.float64).to(rows)


def turned(rows: Tensor, c: Tensor, radius: Tensor, normal: Tensor | None, generator: torch.Generator) -> Tensor:
    u = normalize(rows, dim=-1)
    v = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    if normal is not None:
        across = normalize(normal, dim=0)
        v = v - (v @ across)[:, None] * across
    v = normalize(v - (v * u).sum(-1, keepdim=True) * u, dim=-1)
    return rows.norm(dim=-1, keepdim=True) * radius * (c * u + (1 - c**2).clamp_min(0).sqrt() * v)
