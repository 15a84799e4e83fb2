"""Pictures to feature vectors for the metrics that compare sets: one name per extractor, weights frozen.

Extractors: clip_emoji, judge_a (what the emoji judge's heads read), clip:<open_clip model>/<pretrained>, and inception
(torchvision's ImageNet Inception-v3, pooled; not the TF1 network of published FID values).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bench.judges import at_side
from bench.types import ImageSet

KNOWN = "clip_emoji, judge_a, clip:<open_clip model>/<pretrained>, inception"
BATCH = 64


class OpenClip:
    """An open_clip model as two functions to unit vectors. `which`: <model>/<pretrained tag or file>."""

    def __init__(self, which: str) -> None:
        try:
            import open_clip
        except ImportError:
            raise ValueError("CLIP models need open_clip. Install it: pip install open_clip_torch") from None
        name, _, pretrained = which.partition("/")
        self.net, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        self.net.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(name)
        side = self.net.visual.image_size
        self.side = side[0] if isinstance(side, tuple) else side
        mean, std = self.net.visual.image_mean, self.net.visual.image_std
        self.mean, self.std = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] -> [n, d], length 1."""
        resized = at_side(images.float() / 255, self.side)
        return self.net.encode_image((resized - self.mean) / self.std, normalize=True)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        return self.net.encode_text(self.tokenizer(texts), normalize=True)


class EmojiClip:
    """clip_emoji with the same two functions."""

    def __init__(self) -> None:
        from bench.world.clip_emoji import load_clip

        self.net = load_clip()

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] -> [n, d], length 1."""
        return self.net.image(at_side(images.float() / 255, 64))

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        return self.net.text(texts)


@cache
def load_clip(which: str) -> EmojiClip | OpenClip:
    """`emoji`, or <open_clip model>/<pretrained>."""
    return EmojiClip() if which == "emoji" else OpenClip(which)


def check(extractor: str) -> str | None:
    """Why this extractor or CLIP cannot be loaded here, in a sentence, or None. Nothing is loaded, weights may be fetched."""
    try:
        if extractor in ("emoji", "clip_emoji"):
            from bench.world.clip_emoji import weights_file

            weights_file()
        elif extractor == "judge_a":
            from bench.world.judges import weights_file as judge_file

            judge_file("a")
        elif "/" in extractor:
            _fetch_open_clip(extractor.removeprefix("clip:"))
    except ValueError as reason:
        return str(reason)
    return None


@cache
def _fetch_open_clip(which: str) -> None:
    """Bring an open_clip model's weights into the local cache, or raise a ValueError that says why that is impossible."""
    import open_clip

    name, _, pretrained = which.partition("/")
    if name not in open_clip.list_models():
        near = ", ".join(difflib.get_close_matches(name, open_clip.list_models(), 3)) or "none"
        raise ValueError(f"clip={which!r}: open_clip has no model {name!r}. Near names: {near}.")
    if Path(pretrained).is_file():
        return
    config = open_clip.get_pretrained_cfg(name, pretrained)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"clip={which!r}: {name} has no weights {pretrained!r}, and no such file exists. Known weights: {tags}.")
    try:
        open_clip.download_pretrained(config)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"clip={which!r}: its weights are neither in the local cache nor reachable. Set HF_HOME to a cache that holds them, "
            f"or give a file: clip={name}//path/to/weights.safetensors."
        ) from error


def extract(images: ImageSet, extractor: str) -> Tensor:
    """Features of a set in index order, float32 [n, d]."""
    if len(images) == 0:
        raise ValueError(f"{images.folder} holds no picture: there is nothing to extract {extractor!r} features from.")
    net = _extractor(extractor)
    with torch.no_grad():
        return torch.cat([net(part).float() for part in images.batches(BATCH)])


@torch.no_grad()
def of_pixels(pixels: Tensor, extractor: str) -> Tensor:
    """The same for uint8 pictures [n, 3, h, w] in memory."""
    net = _extractor(extractor)
    return torch.cat([net(part).float() for part in pixels.split(BATCH)])


@cache
def _extractor(name: str) -> Callable[[Tensor], Tensor]:
    """A function from uint8 pictures [n, 3, h, w] to [n, d]."""
    if name == "clip_emoji":
        return load_clip("emoji").image
    if name == "judge_a":
        from bench.world.judges import load_judge

        judge = load_judge("a")
        return lambda images: judge.features(at_side(images.float() / 255, 64))
    if name == "inception":
        return _inception()
    if name.startswith("clip:") and "/" in name:
        return load_clip(name.removeprefix("clip:")).image
    raise ValueError(f"extractor={name!r} is not known. Allowed: {KNOWN}.")


def _inception() -> Callable[[Tensor], Tensor]:
    from torchvision.models import inception_v3

    file = Path(torch.hub.get_dir()) / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    if not file.exists():
        raise ValueError(
            f"extractor=inception needs torchvision's weights at {file}. On a machine with a network run: "
            'python -c "from torchvision.models import *; inception_v3(weights=Inception_V3_Weights.IMAGENET1K_V1)"'
        )
    net = inception_v3(init_weights=False, transform_input=False)
    net.load_state_dict(torch.load(file, weights_only=True))
    net.fc = torch.nn.Identity()  # 2048 pooled values
    net.eval().requires_grad_(False)
    # torchvision's weights come from TensorFlow: its network reads [-1, 1].
    return lambda images: net(at_side(images.float() / 255, 299) * 2 - 1)
