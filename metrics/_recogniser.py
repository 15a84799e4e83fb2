"""A small classifier that is fitted when it is needed: one thing, of which any number of drawings can be made, against all else."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

SIDE = 32  # images are shrunk to it
STEPS, BATCH, RATE = 300, 32, 3e-3  # a few seconds on one thread
SHAPES = 256  # drawings of chance shapes
MISSED = 0.05

Recogniser = Callable[[Tensor], Tensor]


def fitted(thing: Tensor, rest: Tensor) -> Recogniser:
    """From float images [n, 3, h, w] of the thing and of all else to the judge: float images -> bool [n].

    Tones, sharpness and place are varied in training, so that the thing is known by its form: a model that gives it back changes
    its colours. All else is also: drawings of chance shapes, pieces of the thing in the wrong order, blank images and noise. The
    judge says yes where it is surer than it is of all but MISSED of the thing's varied images.
    """
    generator = torch.Generator().manual_seed(0)
    thing, rest = small(thing), torch.cat([small(rest), shapes(SHAPES, generator)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
    wanted = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])
    with torch.enable_grad():
        for _ in range(STEPS):
            ours = thing[torch.randint(len(thing), (BATCH,), generator=generator)]
            theirs = rest[_half_and_half(len(rest) - SHAPES, len(rest), generator)]
            torn = _torn(thing[torch.randint(len(thing), (BATCH // 4,), generator=generator)], generator)
            batch = torch.cat([_varied(torch.cat([ours, theirs, torn]), generator), _blank(BATCH // 4, generator)])
            loss = F.binary_cross_entropy_with_logits(net(form(batch)).squeeze(1), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        limit = max(0.0, net(form(_varied(thing, generator))).quantile(MISSED).item())

    @torch.no_grad()
    def recognises(images: Tensor) -> Tensor:
        return net(form(small(images))).squeeze(1) > limit

    return recognises


def form(images: Tensor) -> Tensor:
    """[n, 1, h, w]: what is left without colour, brightness and contrast."""
    grey = images.mean(1, keepdim=True)
    return (grey - grey.mean((1, 2, 3), keepdim=True)) / (grey.std((1, 2, 3), keepdim=True) + 0.02)


def _half_and_half(images: int, every: int, generator: torch.Generator) -> Tensor:
    """As many places of the images, which come first, as of the shapes behind them."""
    of_images = torch.randint(images, (BATCH // 4,), generator=generator)
    return torch.cat([of_images, torch.randint(images, every, (BATCH // 4,), generator=generator)])


def shapes(n: int, generator: torch.Generator) -> Tensor:
    """Float [n, 3, SIDE, SIDE]: a few discs, rings, bars and blots of any colours on a ground of any colour, often white."""
    side = SIDE * 4

    def chance(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=generator).item()

    made = []
    for _ in range(n):
        colour = lambda: tuple(int(chance(0, 255)) for _ in range(3))  # noqa: E731
        sheet = Image.new("RGB", (side, side), (250, 250, 250) if chance(0, 1) < 0.5 else colour())
        pen = ImageDraw.Draw(sheet)
        for _ in range(1 + int(chance(0, 6))):
            x, y, r = chance(0.2, 0.8) * side, chance(0.2, 0.8) * side, chance(0.05, 0.35) * side
            kind, paint = int(chance(0, 4)), colour()
            if kind < 2:
                box, ring = (x - r, y - r * chance(0.5, 1), x + r, y + r * chance(0.5, 1)), {"outline": paint, "width": int(r / 4) + 1}
                pen.ellipse(box, **({"fill": paint} if kind else ring))
            elif kind == 2:
                pen.line([(chance(0, side), chance(0, side)) for _ in range(3)], fill=paint, width=int(chance(2, 14)))
            else:
                pen.polygon([(x + chance(-r, r), y + chance(-r, r)) for _ in range(3 + int(chance(0, 5)))], fill=paint)
        made.append(np.array(sheet.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def small(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)


def _net() -> nn.Module:
    layers, width = [], 1
    for out in (16, 32, 64):
        layers += [nn.Conv2d(width, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
        width = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIDE // 8) ** 2, 1))


def _varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other weights of the colours, mirrored, moved by a few pixels, half of them blurred, with a little noise."""
    n = len(images)

    def chance(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand((n, channels, 1, 1), generator=generator)

    images = images * chance(0.4, 1, 3)
    images = torch.where(chance(0, 1) < 0.5, images.flip(-1), images)
    across, down = (int(torch.randint(-3, 4, (1,), generator=generator)) for _ in range(2))
    moved = F.pad(images, (3, 3, 3, 3), mode="replicate")[..., 3 + down : 3 + down + SIDE, 3 + across : 3 + across + SIDE]
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    moved = torch.where(chance(0, 1) < 0.5, blurred, moved)
    return (moved + 0.03 * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def _torn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image cut into 4 x 4 pieces that change places."""
    n, side = len(images), SIDE // 4
    pieces = images.reshape(n, 3, 4, side, 4, side).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(n)])
    pieces = pieces[torch.arange(n)[:, None], order].unflatten(1, (4, 4))
    return pieces.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def _blank(n: int, generator: torch.Generator) -> Tensor:
    """Images of one tone, and noise."""
    flat = torch.rand((n, 3, 1, 1), generator=generator).expand(n, 3, SIDE, SIDE)
    noise = torch.rand((n, 3, SIDE, SIDE), generator=generator)
    return torch.where(torch.rand((n, 1, 1, 1), generator=generator) < 0.5, flat, noise)
