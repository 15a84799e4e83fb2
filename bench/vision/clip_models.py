"""CLIP models under one interface: images and texts to unit vectors, on the CPU wherever the network is.

`which` is `emoji`, `<open_clip model>/<pretrained tag or file>` or `hf:<hub id or folder>` (transformers; the same weights give the
same vectors as with open_clip up to rounding and the resize, which is ours for both).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vestige.bench.models import hub
from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.models.fingerprints import given
from vestige.bench.models.loading import hub_unasked
from vestige.bench.vision import listings
from vestige.bench.vision.pixels import CLIP, at_side, normalised, square


class OpenClip:
    """An open_clip model as two functions to unit vectors. `which`: <model>/<pretrained tag or file>."""

    def __init__(self, which: str) -> None:
        try:
            import open_clip
        except ImportError:
            raise ValueError("CLIP models need open_clip. Install it: pip install open_clip_torch") from None
        name, _, pretrained = which.partition("/")
        # OpenAI's weights need QuickGELU; open_clip's plain model names leave it out and only warn.
        quick = (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu", False)
        self.net, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained, force_quick_gelu=quick)
        placed(self.net)
        self.tokenizer = open_clip.get_tokenizer(name)
        side = self.net.visual.image_size
        self.side = side[0] if isinstance(side, tuple) else side
        mean, std = self.net.visual.image_mean, self.net.visual.image_std
        self.mean, self.std = (beside(self.net, torch.tensor(each)).view(3, 1, 1) for each in (mean, std))

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] -> [n, d], length 1; of oblong images the middle square."""
        resized = at_side(square(beside(self.net, images)).float() / 255, self.side)
        return self.net.encode_image((resized - self.mean) / self.std, normalize=True).cpu()

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        return self.net.encode_text(beside(self.net, self.tokenizer(texts)), normalize=True).cpu()


class HuggingFaceClip:
    """A CLIP model of transformers with the same two functions. `which`: hub id or folder."""

    def __init__(self, which: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        folder = hub.folder(which, f"clip=hf:{which}")
        self.net = placed(CLIPModel.from_pretrained(folder, use_safetensors=True))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.side = self.net.config.vision_config.image_size
        self.length = self.net.config.text_config.max_position_embeddings

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] -> [n, d], length 1; of oblong images the middle square."""
        resized = at_side(square(beside(self.net, images)).float() / 255, self.side)
        return _unit(self.net.get_image_features(pixel_values=normalised(resized, **CLIP)))

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        asked = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        asked = beside(self.net, asked)
        return _unit(self.net.get_text_features(input_ids=asked.input_ids, attention_mask=asked.attention_mask))


def _unit(features) -> Tensor:
    """transformers 5 wraps the projected features; before, they were the answer."""
    vectors = getattr(features, "pooler_output", features)
    return (vectors / vectors.norm(dim=-1, keepdim=True)).cpu()


class EmojiClip:
    """clip_emoji with the same two functions."""

    def __init__(self) -> None:
        from vestige.bench.world.models.clip_emoji import load_clip

        self.net = load_clip()

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] -> [n, d], length 1."""
        return self.net.image(at_side(beside(self.net, images).float() / 255, 64)).cpu()

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        return self.net.text(texts).cpu()


@per_device
def load_clip(which: str) -> EmojiClip | OpenClip | HuggingFaceClip:
    if which == "emoji":
        return EmojiClip()
    return HuggingFaceClip(which.removeprefix("hf:")) if which.startswith("hf:") else OpenClip(which)


def inputs(which: str) -> dict[str, str]:
    """What identifies the weights that are loaded, for a stage's key; nothing for weights that are not on this machine."""
    if which == "emoji":
        from vestige.bench.world.models import clip_emoji

        return given(weights=clip_emoji.WEIGHTS)
    if which.startswith("hf:"):
        return hub.inputs(weights=which.removeprefix("hf:"))
    file = _open_clip_file(*which.partition("/")[::2])
    return {} if file is None else {"weights": hub.content(file)}


def _open_clip_file(name: str, pretrained: str) -> Path | None:
    """Where open_clip finds the weights: for a tag in the hub's cache, else a file. None while they are not here. No hub is asked."""
    file = Path(pretrained).expanduser()
    if importlib.util.find_spec("open_clip") is not None:
        published = listings.open_clip_weights()
        settings = published.get_pretrained_cfg(name, pretrained)
        if settings:
            with hub_unasked(), contextlib.suppress(OSError, RuntimeError):
                return Path(published.download_pretrained(settings)) if settings.get("hf_hub") else None
            return None
    return file if file.is_file() else None


def find_clip(which: str) -> None:
    """Bring the weights into the local cache, or raise a ValueError that says why that is impossible. Not for `emoji`."""
    if which.startswith("hf:"):
        hub.folder(which.removeprefix("hf:"), f"clip={which}")
    else:
        _fetch_open_clip(which)


@cache
def _fetch_open_clip(which: str) -> None:
    published, models = listings.open_clip_weights(), listings.open_clip_models()
    name, _, pretrained = which.partition("/")
    if name not in models:
        near = ", ".join(difflib.get_close_matches(name, models, 3)) or "none"
        raise ValueError(f"clip={which!r}: open_clip has no model {name!r}. Near names: {near}.")
    if Path(pretrained).is_file():
        return
    config = published.get_pretrained_cfg(name, pretrained)
    if not config:
        tags = ", ".join(published.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"clip={which!r}: {name} has no weights {pretrained!r}, and no such file exists. Known weights: {tags}.")
    try:
        published.download_pretrained(config)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"clip={which!r}: its weights are neither in the local cache nor reachable. Set HF_HOME to a cache that holds them, "
            f"or give a file: clip={name}//path/to/weights.safetensors."
        ) from error
