"""Writes and reads the generator as a diffusers folder (fp16 safetensors), and oracles as bare UNet weights."""

import json
from typing import Any

import torch
from torch import nn

from vestige.bench.world.content import paths
from vestige.bench.world.training.train_generator import NOISE

CLASSES = {"text_encoder": ("transformers", "CLIPTextModel"), "vae": ("diffusers", "AutoencoderKL")}
CLASSES["unet"] = ("diffusers", "UNet2DConditionModel")


def tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(paths.GENERATOR / "tokenizer")


def save_part(name: str, module: Any) -> None:
    """Keep one part in half precision; the module itself stays as it is."""
    import copy

    copy.deepcopy(module).half().save_pretrained(paths.GENERATOR / name, safe_serialization=True)


def load_part(name: str) -> Any:
    """One part of the generator in float32, frozen."""
    import importlib

    library, kind = CLASSES[name]
    load = getattr(importlib.import_module(library), kind).from_pretrained
    key = "dtype" if library == "transformers" else "torch_dtype"
    return load(paths.GENERATOR / name, **{key: torch.float32}).eval().requires_grad_(False)


def save_index() -> None:
    """The scheduler and the list of parts that make the folder a StableDiffusionPipeline."""
    from diffusers import DDIMScheduler

    # steps_offset 1 and set_alpha_to_one False are Stable Diffusion 1.x's settings: ESD's legacy time grid relies on them.
    DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(paths.GENERATOR / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        **{name: list(where) for name, where in CLASSES.items()},
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (paths.GENERATOR / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def save_oracle(concept: str, unet: nn.Module, seed: int = 0) -> None:
    from safetensors.torch import save_file

    file = paths.oracle(concept, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in unet.state_dict().items()}, file)
