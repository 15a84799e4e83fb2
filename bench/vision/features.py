"""Images to feature vectors for the metrics that compare sets: one name per extractor, weights frozen.

Extractors:
- clip_emoji and judge_a (what the emoji judge's heads read), shipped with the emoji world;
- clip:<open_clip model>/<pretrained tag or file>, clip:hf:<hub id or folder>, unit vectors;
- dino:<hub id or folder>, a DINOv2 of transformers (facebook/dinov2-base), its class token;
- inception_tf: the TF1 Inception-v3 of published FID values with its own resize, from the package torch-fidelity;
- inception: torchvision's Inception-v3, other weights and antialiased resize: its FID is comparable to itself only.
All but the first two were run here with random weights of the same architecture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from vestige.bench.contract.batches import in_batches
from vestige.bench.contract.types import ImageSet
from vestige.bench.models import hub
from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.models.fingerprints import given
from vestige.bench.vision import clip_models
from vestige.bench.vision.clip_models import find_clip, load_clip
from vestige.bench.vision.pixels import IMAGENET, at_side, normalised, square

KNOWN = "clip_emoji, judge_a, clip:<open_clip model>/<pretrained>, clip:hf:<hub id>, dino:<hub id or folder>, inception_tf, inception"
BATCH = 64
INCEPTION, INCEPTION_TF = "inception_v3_google-0cc3c7bd.pth", "weights-inception-2015-12-05-6726825d.pth"


def check(extractor: str) -> str | None:
    """Why this extractor or CLIP cannot be loaded here, in a sentence, or None. Nothing is loaded, weights may be fetched."""
    try:
        if extractor in ("emoji", "clip_emoji", "clip:emoji"):
            from vestige.bench.world.models.clip_emoji import weights_file

            weights_file()
        elif extractor == "judge_a":
            from vestige.bench.world.models.judges import weights_file as judge_file

            judge_file("a")
        elif extractor == "inception":
            _inception_file()
        elif extractor == "inception_tf":
            _inception_tf_file()
        elif extractor.startswith("dino:"):
            hub.folder(extractor.removeprefix("dino:"), f"extractor={extractor}")
        elif "/" in extractor:
            find_clip(extractor.removeprefix("clip:"))
        else:
            return f"extractor={extractor!r} is not known. Allowed: {KNOWN}."
    except ValueError as reason:
        return str(reason)
    return None


def short_name(extractor: str) -> str:
    """For a column: clip:ViT-L-14/openai -> clip_ViT-L-14_openai; of folders and files the last name, whatever its place."""
    kind, _, which = extractor.partition(":")
    parts = [part for part in which.split("/") if part]
    kept = parts[-1:] if kind == "dino" else [*parts[:1], *(Path(part).stem for part in parts[1:][-1:])]
    return "_".join([kind, *kept])


def inputs(extractor: str) -> dict[str, str]:
    """What identifies the weights that are loaded, shipped or the user's own: their name or place does not suffice for a stage's key."""
    kind, _, which = extractor.partition(":")
    if extractor == "judge_a":
        from vestige.bench.world.models.judges import FILES

        return given(weights=FILES["a"])
    if kind == "dino":
        return hub.inputs(weights=which)
    if extractor in ("inception", "inception_tf"):
        return given(weights=hub.torch_path(INCEPTION if extractor == "inception" else INCEPTION_TF))
    return clip_models.inputs("emoji" if extractor in ("emoji", "clip_emoji", "clip:emoji") else which or extractor)


def extract(images: ImageSet, extractor: str) -> Tensor:
    """Features of a set in index order, float32 [n, d]."""
    if len(images) == 0:
        raise ValueError(f"{images.folder} holds no image: there is nothing to extract {extractor!r} features from.")
    return _all(images.batches(BATCH), extractor)


def of_pixels(pixels: Tensor, extractor: str) -> Tensor:
    """The same for uint8 images [n, 3, h, w] in memory."""
    return _all(pixels.split(BATCH), extractor)


@torch.no_grad()
def _all(parts: Iterable[Tensor], extractor: str) -> Tensor:
    net = _extractor(extractor)
    return torch.cat([some.float() for _, some in in_batches(parts, net, f"features of {extractor}")])


@per_device
def _extractor(name: str) -> Callable[[Tensor], Tensor]:
    """A function from uint8 images [n, 3, h, w] to [n, d], on the CPU."""
    if name in ("clip_emoji", "clip:emoji"):
        return load_clip("emoji").image
    if name == "judge_a":
        from vestige.bench.world.models.judges import load_judge

        judge = load_judge("a")
        return lambda images: judge.features(at_side(beside(judge, images).float() / 255, 64)).cpu()
    if name == "inception":
        return _inception()
    if name == "inception_tf":
        return _inception_tf()
    if name.startswith("dino:"):
        return _dino(name)
    if name.startswith("clip:") and "/" in name:
        return load_clip(name.removeprefix("clip:")).image
    raise ValueError(f"extractor={name!r} is not known. Allowed: {KNOWN}.")


def _inception_file() -> Path:
    how = "from torchvision.models import *; inception_v3(weights=Inception_V3_Weights.IMAGENET1K_V1)"
    return hub.torch_file(INCEPTION, "extractor=inception", how)


def _inception() -> Callable[[Tensor], Tensor]:
    from torchvision.models import inception_v3

    net = inception_v3(init_weights=False, transform_input=False)
    net.load_state_dict(torch.load(_inception_file(), weights_only=True, map_location="cpu"))
    net.fc = torch.nn.Identity()  # 2048 pooled values
    placed(net)
    # torchvision's weights come from TensorFlow: its network reads [-1, 1].
    return lambda images: net(at_side(beside(net, images).float() / 255, 299) * 2 - 1).cpu()


def _inception_tf_file() -> Path:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError("extractor=inception_tf needs the package torch-fidelity. Install it: pip install torch-fidelity")
    how = "from torch_fidelity.feature_extractor_inceptionv3 import *; FeatureExtractorInceptionV3('inception', ['2048'])"
    return hub.torch_file(INCEPTION_TF, "extractor=inception_tf", how)


def _inception_tf() -> Callable[[Tensor], Tensor]:
    """torch-fidelity's network reads uint8 images of any size and resizes them as TF1 did (bilinear, not antialiased)."""
    file = _inception_tf_file()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.load(file, weights_only=True, map_location="cpu")  # refuses anything but tensors before torch-fidelity unpickles the same file
    net = placed(FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file)))
    return lambda images: net(beside(net, images))[0].cpu()


def _dino(name: str) -> Callable[[Tensor], Tensor]:
    """As DINOv2's own preprocessing: the middle square at side 256, of that the middle 224, ImageNet's mean and spread."""
    from transformers import AutoModel

    net = placed(AutoModel.from_pretrained(hub.folder(name.removeprefix("dino:"), f"extractor={name}"), use_safetensors=True))

    def features(images: Tensor) -> Tensor:
        cropped = at_side(square(beside(net, images)).float() / 255, 256)[..., 16:240, 16:240]
        return net(pixel_values=normalised(cropped, **IMAGENET)).last_hidden_state[:, 0].cpu()

    return features
