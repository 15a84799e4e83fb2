"""Where the files of a model lie, and which of them are loaded. What loading, checks and fingerprints share; nothing here asks a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.families import family
from vestige.bench.places import found

RANDOM = "random:"  # repo of a model that has no files
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

    index = try_to_load_from_cache(spec.repo, family(spec.family).index, revision=spec.revision)
    return Path(index).parent if isinstance(index, str) else None


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
SETTINGS |= {"processor_config.json", "chat_template.jinja"}  # of transformers' models of text and images
SETTINGS |= {"special_tokens_map.json", "added_tokens.json", "spiece.model", "tokenizer.model"}


def loaded_files(folder: Path, name: str) -> list[Path]:
    """The files that loading a model of this family reads: no README, no part that stays out, no second variant."""
    if family(name).library == "transformers":  # one part, on top
        return [*_settings_of(folder), *_there(weights_of(folder))]
    files = [folder / family(name).index]
    for part in sorted(loaded_parts(folder, name)):
        files += [*_settings_of(folder / part), *_there(weights_of(folder / part))]
    return files


def _settings_of(part: Path) -> list[Path]:
    return [file for file in sorted(part.glob("*")) if file.name in SETTINGS]


def _there(weights: Weights | None) -> list[Path]:
    return [file for file in weights.files if file.exists()] if weights else []


def loaded_parts(folder: Path, name: str) -> list[str]:
    """Modules, tokenizers and the scheduler: those of the family that the folder's index names."""
    known = family(name)
    index = read_json(folder / known.index)
    return [part for part in (*known.parts, *known.tokenizers, "scheduler") if made_by(index, part)]


def made_by(index: dict[str, Any], part: str) -> tuple[str, str] | None:
    """(library, class) of a part, as the index of a diffusers folder names them; None for a part that is not there."""
    named = index.get(part)
    return (named[0], named[1]) if isinstance(named, list) and len(named) == 2 and all(named) else None


def files_missing(folder: Path, name: str) -> list[str]:
    """Names of the files that loading would look for in vain: settings, weights and shards of the parts that the index names."""
    known, names = family(name), []
    if known.library == "transformers":
        weights = weights_of(folder)
        wanted = [folder / known.index, *(weights.files if weights else [folder / "model.safetensors"])]
        return [file.name for file in wanted if not file.exists()]
    index = read_json(folder / known.index)
    for part in loaded_parts(folder, name):
        if part in known.parts:
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
