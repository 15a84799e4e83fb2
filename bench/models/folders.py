"""Where the files of a model lie, how the folder of each family is built, and which of its files are loaded.

What loading, checks and fingerprints share. Nothing here imports torch or asks a hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.bench.contract.types import ModelSpec
from vestige.bench.places import found

RANDOM = "random:"  # repo of a model that has no files
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


def folder_of(spec: ModelSpec) -> Path | None:
    """The local folder of the model: as given, from the current folder, or one that is shipped; None for a hub id."""
    folder = found(spec.repo)
    return folder.resolve() if folder.is_dir() else None


def snapshot_of(spec: ModelSpec) -> Path | None:
    """Where the cache holds a hub model, of the revision asked for (null: its main, which moves). Perhaps only a part of its files."""
    if spec.repo.startswith(RANDOM) or folder_of(spec) is not None:
        return None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(spec.repo, INDEX, revision=spec.revision)
    return Path(index).parent if isinstance(index, str) else None


# Families


@dataclass(frozen=True)
class Layout:
    """How the diffusers folder of a family is built.

    classes: part -> names of the classes that the family runs. optional: parts that a folder may lack. text_width: of the text states
    that a UNet reads in published models. cell: image sides are multiples of it, in pixels. flow: a rectified flow, not a diffusion.
    """

    classes: Mapping[str, tuple[str, ...]]
    tokenizers: tuple[str, ...] = ("tokenizer",)
    optional: tuple[str, ...] = ()
    text_width: int | None = None
    cell: int = 8
    flow: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.classes)


CLIP, CLIP_PROJECTED, T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
UNET = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "text_encoder": CLIP}
SD3 = {"transformer": ("SD3Transformer2DModel",), "vae": ("AutoencoderKL",)}
SD3 |= {"text_encoder": CLIP_PROJECTED, "text_encoder_2": CLIP_PROJECTED, "text_encoder_3": T5}
FLUX = {"transformer": ("FluxTransformer2DModel",), "vae": ("AutoencoderKL",), "text_encoder": CLIP, "text_encoder_2": T5}
TWO = ("tokenizer", "tokenizer_2")

LAYOUTS = {
    "sd1": Layout(UNET, text_width=768),
    "sd2": Layout(UNET, text_width=1024),
    "sdxl": Layout({**UNET, "text_encoder_2": CLIP_PROJECTED}, TWO, text_width=2048),
    # SD 3 is published with T5 and often kept without it
    "sd3": Layout(SD3, (*TWO, "tokenizer_3"), optional=("text_encoder_3", "tokenizer_3"), cell=16, flow=True),
    "flux": Layout(FLUX, TWO, cell=16, flow=True),
}


# Files


@dataclass(frozen=True)
class Weights:
    """The weights of one part that are loaded. files: one, or an index and the shards that it names."""

    variant: str | None  # the word in their names, fp16 or bf16; None: the full ones
    files: tuple[Path, ...]

    @property
    def missing(self) -> tuple[Path, ...]:
        return tuple(file for file in self.files if not file.exists())


VARIANTS = (None, "fp16", "bf16")
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # library -> how it names files of weights


def weights_of(part: Path) -> Weights | None:
    """The full weights where they are complete; only else those of a variant, so that what is loaded never depends on the dtype.

    Where none are complete, the first that are there in part; None without any.
    """
    there = list(_candidates(part))
    return next((weights for weights in there if not weights.missing), there[0] if there else None)


def _candidates(part: Path) -> Iterator[Weights]:
    for variant in VARIANTS:
        word = f".{variant}" if variant else ""
        for stem in STEMS.values():
            single, index = part / f"{stem}{word}.safetensors", part / f"{stem}.safetensors.index{word}.json"
            if index.exists():
                shards = sorted(set(read_json(index)["weight_map"].values()))
                yield Weights(variant, (*([single] if single.exists() else []), index, *(part / shard for shard in shards)))
            elif single.exists():
                yield Weights(variant, (single,))


SETTINGS = {"config.json", "scheduler_config.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.json", "tokenizer_config.json"}
SETTINGS |= {"special_tokens_map.json", "added_tokens.json", "spiece.model", "tokenizer.model"}


def loaded_files(folder: Path, family: str) -> list[Path]:
    """The files of a diffusers folder that bench/models/loading.py loads: no README, no part that stays out, no second variant."""
    files = [folder / INDEX]
    for part in sorted(loaded_parts(folder, family)):
        weights = weights_of(folder / part)
        files += [file for file in sorted((folder / part).glob("*")) if file.name in SETTINGS]
        files += [file for file in weights.files if file.exists()] if weights else []
    return files


def loaded_parts(folder: Path, family: str) -> list[str]:
    """Modules, tokenizers and the scheduler: those of the family that the folder's index names."""
    layout, index = LAYOUTS[family], read_json(folder / INDEX)
    return [part for part in (*layout.parts, *layout.tokenizers, "scheduler") if made_by(index, part)]


def made_by(index: dict[str, Any], part: str) -> tuple[str, str] | None:
    """(library, class) of a part, as the index of a diffusers folder names them; None for a part that is not there."""
    named = index.get(part)
    return (named[0], named[1]) if isinstance(named, list) and len(named) == 2 and all(named) else None


def files_missing(folder: Path, family: str) -> list[str]:
    """Names of the files that loading would look for in vain: settings, weights and shards of the parts that the index names."""
    index, layout, names = read_json(folder / INDEX), LAYOUTS[family], []
    for part in loaded_parts(folder, family):
        if part in layout.parts:
            weights = weights_of(folder / part)
            wanted = [folder / part / "config.json"]
            wanted += weights.files if weights else [folder / part / f"{STEMS.get(index[part][0], 'model')}.safetensors"]
        elif part == "scheduler":
            wanted = [folder / SCHEDULER]
        else:  # the slow tokenizer's files, or the fast one's
            alone = any((folder / part / name).exists() for name in ("tokenizer.json", "spiece.model"))
            wanted = [] if alone else [folder / part / "vocab.json", folder / part / "merges.txt"]
        names += [str(file.relative_to(folder)) for file in wanted if not file.exists()]
    return names


def read_json(file: Path) -> dict[str, Any]:
    """Raises ValueError for a file that holds no JSON table, as a broken download does."""
    try:
        content = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no table of settings. Fetch it again.")
    return content
