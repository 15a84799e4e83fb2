"""clip_emoji: a small CLIP for the emoji world, trained apart from the generator, that says how well image and text agree.

An open_clip model (CustomTextCLIP) built from its own config file, with its own ResNet image tower. It reads the
generator's tokenizer file, never the generator's text encoder. Its scores are not comparable to those of other CLIPs.
"""

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.world.content import paths

CONFIG, WEIGHTS = paths.CLIP / "config.json", paths.CLIP / "model.safetensors"


def new_model() -> Any:
    """An untrained CLIP of the shipped configuration."""
    from open_clip import CustomTextCLIP

    config = json.loads(CONFIG.read_text())
    config["vision_cfg"]["layers"] = tuple(config["vision_cfg"]["layers"])
    torch.manual_seed(303)
    return CustomTextCLIP(**config)


@cache
def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(paths.GENERATOR / "tokenizer")


def tokens(texts: list[str]) -> Tensor:
    """Token ids [n, context length], end token as padding; the first end token is where the model reads."""
    length = json.loads(CONFIG.read_text())["text_cfg"]["context_length"]
    return _tokenizer()(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


class ClipEmoji(nn.Module):
    """Images and texts to unit vectors of one space."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def image(self, images: Tensor) -> Tensor:
        """Float images [n, 3, 64, 64] in [0, 1] -> [n, d], length 1."""
        return self.model.encode_image(images * 4 - 2, normalize=True)

    def text(self, texts: list[str]) -> Tensor:
        """-> [n, d], length 1."""
        return self.model.encode_text(beside(self, tokens(texts)), normalize=True)


def weights_file():
    if not WEIGHTS.exists():
        raise ValueError(f"the weights of clip_emoji are missing ({WEIGHTS}). Train them: vestige world judges --part clip")
    return WEIGHTS


@per_device
def load_clip() -> ClipEmoji:
    """The trained model in float32, frozen; gradients flow to the images."""
    from safetensors.torch import load_file

    state = load_file(weights_file())
    model = new_model()
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return placed(ClipEmoji(model))
