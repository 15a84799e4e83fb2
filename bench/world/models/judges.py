"""The judges of the emoji world: two image classifiers that say which object, style and background an image shows.

They differ in architecture and seed, so that an attack may optimise against one while the other keeps the score. Neither
shares a part with the generator. Heads: object (all objects and, last, "nothing"), style, background, stamp.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.bench.models.device import per_device, placed
from vestige.bench.world.content import catalog, paths

NOTHING = "nothing"
FILES = {"a": paths.JUDGE_A, "b": paths.JUDGE_B}


def label_names() -> dict[str, list[str]]:
    """Head -> its labels, in the order of its logits."""
    return {
        "object": [item.slug for item in catalog.objects()] + [NOTHING],
        "style": [item.slug for item in catalog.styles()],
        "background": catalog.backgrounds(),
        "stamp": ["stamp"],
    }


class Judge(nn.Module):
    """A body that turns an image into a vector, and one linear head per question."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.labels = label_names()
        self.body = body
        self.heads = nn.ModuleDict({head: nn.Linear(width, len(names)) for head, names in self.labels.items()})

    def features(self, images: Tensor) -> Tensor:
        """Images [n, 3, 64, 64] in [0, 1] -> what the heads read, [n, width]."""
        return self.body(images * 4 - 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        shared = self.features(images)
        return {head: linear(shared) for head, linear in self.heads.items()}


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, after)
        self.skip = nn.Conv2d(before, after, 1, stride) if stride > 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.skip(x) + self.norm2(self.conv2(h)))


class _Mix(nn.Module):
    """One ConvMixer layer: a depthwise convolution mixes places, a pointwise one mixes channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm1 = nn.GroupNorm(1, width)
        self.channels = nn.Conv2d(width, width, 1)
        self.norm2 = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(F.gelu(self.places(x)))
        return self.norm2(F.gelu(self.channels(x)))


class _Grid(nn.Module):
    """A feature map as one vector that still knows left from right: means over a 2 x 2 grid."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def new_judge(which: str) -> Judge:
    """An untrained judge: a is a small residual network, b a ConvMixer on 4 x 4 patches (Trockman & Kolter 2022)."""
    if which not in FILES:
        raise ValueError(f"there is no judge {which!r} in the emoji world. Allowed: {', '.join(FILES)}.")
    if which == "a":
        torch.manual_seed(101)
        widths = ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 192, 2))
        stem = [nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.GroupNorm(8, 32), nn.SiLU()]
        return Judge(nn.Sequential(*stem, *(_Residual(*each) for each in widths), _Grid()), 4 * 192)
    torch.manual_seed(202)
    stem = [nn.Conv2d(3, 128, 4, stride=4), nn.GELU(), nn.GroupNorm(1, 128)]
    return Judge(nn.Sequential(*stem, *(_Mix(128) for _ in range(5)), _Grid()), 4 * 128)


def weights_file(which: str):
    """Where the judge's weights lie; an error with the command that makes them when they do not."""
    if which not in FILES:
        raise ValueError(f"there is no judge {which!r} in the emoji world. Allowed: {', '.join(FILES)}.")
    if not FILES[which].exists():
        raise ValueError(f"the weights of judge {which!r} are missing ({FILES[which]}). Train them: vestige world judges")
    return FILES[which]


@per_device
def load_judge(which: str) -> Judge:
    """A trained judge in float32, frozen; gradients flow to the images."""
    from safetensors.torch import load_file

    file = weights_file(which)
    judge = new_judge(which)
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    return placed(judge)
