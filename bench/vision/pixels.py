"""Images as image networks read them."""

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def at_side(images: Tensor, side: int, mode: str = "bicubic") -> Tensor:
    """Float images [n, 3, h, w] at side x side, antialiased; unchanged when they have that size."""
    if tuple(images.shape[-2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode=mode, antialias=True, align_corners=False).clamp(0, 1)


def normalised(images: Tensor, mean, std) -> Tensor:
    """Float images [n, 3, h, w] in [0, 1], by the mean and deviation of each channel."""
    mean, std = (torch.tensor(each).view(3, 1, 1).to(images) for each in (mean, std))
    return (images - mean) / std


def square(images: Tensor) -> Tensor:
    """The middle square of images [..., h, w]."""
    h, w = images.shape[-2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return images[..., top : top + side, left : left + side]
