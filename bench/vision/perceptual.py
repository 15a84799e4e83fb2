"""How different two images look, position by position, in the feature maps of a frozen network (LPIPS).

Zhang et al. 2018, arXiv 1801.03924, eq. 1: at every place of every layer both feature vectors are brought to length 1, their
squared differences are weighted per channel and summed; layers add up.
- alex: LPIPS itself (version 0.1). Weights per channel come with torchmetrics, the AlexNet from torchvision's file. Run here
  with a random AlexNet only, equal to torchmetrics' own LPIPS on it.
- emoji: five layers of the emoji world's judge_a, no learnt weights: mean over layers and places of 1 - cosine, as half a
  squared difference of unit vectors is. Not comparable to LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.models import hub
from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.models.fingerprints import given

NETS = ("emoji", "alex")
# What torchmetrics calls the scaling layer: LPIPS' own numbers for images in [-1, 1], nearly ImageNet's.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
ALEX_TAPS = (1, 4, 7, 9, 11)  # the five ReLUs in torchvision's AlexNet
ALEX = "alexnet-owt-7be5be79.pth"
EMOJI_TAPS = (2, 3, 4, 5, 6)  # stem and residual blocks in judge_a


class Perceptual:
    """`layers` maps float images [n, 3, h, w] in [0, 1] to feature maps; `weights`: one number per channel of each, where the network
    is. Distances are on the CPU."""

    def __init__(self, layers: Callable[[Tensor], list[Tensor]], weights: list[Tensor]) -> None:
        self.layers, self.weights = layers, weights

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[n], 0 for equal images."""
        return sum((each.mean((1, 2)).cpu() for each in self._maps(a, b)), start=torch.zeros(()))

    @torch.no_grad()
    def map(self, a: Tensor, b: Tensor) -> Tensor:
        """[n, h, w]: the same before it is averaged over places, every layer at the size of the images."""
        size = a.shape[-2:]
        layers = (F.interpolate(each[:, None], size, mode="bilinear", align_corners=False)[:, 0].cpu() for each in self._maps(a, b))
        return sum(layers, start=torch.zeros(()))

    def _maps(self, a: Tensor, b: Tensor) -> list[Tensor]:
        a, b = (images.to(self.weights[0].device) for images in (a, b))
        pairs = zip(self.layers(a), self.layers(b), self.weights, strict=True)
        return [((_unit(x) - _unit(y)).square() * w[:, None, None]).sum(1) for x, y, w in pairs]


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + 1e-8).rsqrt()


def at_shorter_side(images: Tensor, side: int) -> Tensor:
    """uint8 [n, 3, h, w] -> float in [0, 1] with this shorter side, bilinear and antialiased as PIL (ESD's script)."""
    pixels = images.float() / 255
    h, w = images.shape[-2:]
    if min(h, w) == side:
        return pixels
    size = (round(h * side / min(h, w)), round(w * side / min(h, w)))
    return F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)


def check(net: str) -> str | None:
    """Why this network cannot be loaded here, in a sentence, or None."""
    try:
        if net == "emoji":
            from vestige.bench.world.models.judges import weights_file

            weights_file("a")
        elif net == "alex":
            _alex_file(), _heads_file()
        else:
            return f"perceptual net={net!r} is not known. Allowed: {', '.join(NETS)}."
    except ValueError as reason:
        return str(reason)
    return None


def inputs(net: str) -> dict[str, str]:
    """What identifies the weights, for a stage's key; nothing for those that are not on this machine."""
    if net == "emoji":
        from vestige.bench.world.models.judges import FILES

        return given(net=FILES["a"])
    return given(net=hub.torch_path(ALEX))


@per_device
def load(net: str) -> Perceptual:
    if net == "emoji":
        return _emoji()
    if net == "alex":
        return _alex()
    raise ValueError(check(net))


def _tapped(stages: torch.nn.Sequential, taps: tuple[int, ...], x: Tensor) -> list[Tensor]:
    found = []
    for place, stage in enumerate(stages[: taps[-1] + 1]):
        x = stage(x)
        if place in taps:
            found.append(x)
    return found


def _emoji() -> Perceptual:
    from vestige.bench.world.models.judges import load_judge

    body: Any = load_judge("a").body

    def layers(images: Tensor) -> list[Tensor]:
        return _tapped(body, EMOJI_TAPS, images * 4 - 2)

    widths = [x.shape[1] for x in layers(beside(body, torch.zeros(1, 3, 64, 64)))]
    return Perceptual(layers, [beside(body, torch.full((width,), 0.5 / len(widths))) for width in widths])


def _alex_file() -> Path:
    how = "from torchvision.models import *; alexnet(weights=AlexNet_Weights.IMAGENET1K_V1)"
    return hub.torch_file(ALEX, "perceptual net=alex", how)


def _heads_file() -> Path:
    import torchmetrics

    file = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    if not file.exists():
        raise ValueError(f"perceptual net=alex: this torchmetrics has no {file}. Install one that has: pip install 'torchmetrics>=1.6,<2'")
    return file


def _alex() -> Perceptual:
    from torchvision.models import alexnet

    with torch.device("meta"):  # its classifier, 55 of 61 million parameters, is never made
        stages = alexnet().features
    stored = torch.load(_alex_file(), weights_only=True, map_location="cpu")
    stages.load_state_dict({n.removeprefix("features."): t for n, t in stored.items() if n.startswith("features.")}, assign=True)
    for stage in stages:
        if isinstance(stage, torch.nn.ReLU):
            stage.inplace = False  # taps keep what the next layer reads
    placed(stages)
    heads = torch.load(_heads_file(), weights_only=True, map_location="cpu")
    shift, scale = (beside(stages, torch.tensor(each)).view(3, 1, 1) for each in (SHIFT, SCALE))

    def layers(images: Tensor) -> list[Tensor]:
        return _tapped(stages, ALEX_TAPS, (images * 2 - 1 - shift) / scale)

    return Perceptual(layers, [beside(stages, heads[f"lin{k}.model.1.weight"].flatten()) for k in range(len(ALEX_TAPS))])
