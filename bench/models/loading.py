"""Loads the model a specification names, and refuses early what cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.fingerprints import commit_of, weights_digest
from vestige.bench.models.folders import LEFT_OUT, RANDOM, folder_of

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


def check(spec: ModelSpec) -> None:
    """Raise a ValueError for a specification that no machine could load. Loads nothing and asks no hub (`missing` does)."""
    if spec.family in ("sd3", "flux"):
        raise ValueError(f"model.family={spec.family!r} is not supported yet. Supported families: sd1, sd2, sdxl.")
    if spec.repo.startswith(RANDOM):
        if spec.repo != f"{RANDOM}tiny":
            raise ValueError(f"model.repo={spec.repo!r}: the only random model is random:tiny.")
        return
    folder = folder_of(spec)
    if folder is not None:
        _check_folder(folder)
    elif spec.repo.startswith((".", "/", "~")) or spec.repo.count("/") != 1:
        raise ValueError(f"model.repo={spec.repo!r}: no such folder. Give a diffusers folder or a hub id such as org/name.")


def missing(spec: ModelSpec) -> str | None:
    """Why the weights of a hub model cannot be had here and what to do about it, in a sentence, or None."""
    if spec.repo.startswith(RANDOM) or folder_of(spec) is not None:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(spec.repo, "model_index.json", revision=spec.revision)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return (
            f"model {spec.name!r} ({spec.repo}) is neither in the local hub cache nor reachable. Set HF_HOME to a cache that "
            f"holds it, or point to a folder: model.repo=/path/to/{spec.repo.split('/')[-1]}."
        )
    return None


@contextmanager
def hub_unasked() -> Iterator[None]:
    """Inside the `with` no hub is asked: what is not in the local cache is missing, without retries."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check_folder(folder: Path) -> None:
    if not (folder / "model_index.json").exists():
        raise ValueError(f"{folder} is not a diffusers folder: it has no model_index.json.")
    for part in ("vae", "text_encoder", "unet"):
        if (folder / part).is_dir() and not list((folder / part).glob("*.safetensors")):
            pickled = [f.name for f in (folder / part).iterdir() if f.suffix in (".bin", ".ckpt", ".pt", ".pth")]
            why = f"it holds pickled weights ({pickled[0]}), which are refused" if pickled else "a weight file is missing"
            raise ValueError(f"{folder / part} has no .safetensors file: {why}. Convert or fetch safetensors weights.")


def load(spec: ModelSpec, device: str = "cpu") -> Pipe:
    """Load a model, frozen and in evaluation mode."""
    import torch

    from vestige.bench.models import numerics
    from vestige.bench.models.pipe import Pipe

    numerics.use_reference()
    if spec.repo.startswith(RANDOM):
        from vestige.bench.models.tiny import tiny_parts

        parts, tokenizers, scheduler = tiny_parts(spec.family)
    else:
        parts, tokenizers, scheduler = _diffusers_parts(spec)
    for module in parts.values():
        module.to(device, getattr(torch, spec.dtype)).eval().requires_grad_(False)
    pipe = Pipe(spec, parts, tokenizers, scheduler)
    numerics.laid_out(pipe.unet, spec)
    pipe.text.identified_as(weights_digest(spec) or (spec.repo, spec.revision))
    return pipe


def _diffusers_parts(spec: ModelSpec):
    import torch
    from diffusers import DiffusionPipeline

    where = folder_of(spec) or spec.repo
    unused = dict.fromkeys(LEFT_OUT)
    if spec.family == "sdxl":
        unused.pop("safety_checker")
    pipeline = DiffusionPipeline.from_pretrained(
        where, revision=commit_of(spec) or spec.revision, torch_dtype=getattr(torch, spec.dtype), use_safetensors=True, **unused
    )
    names = [name for name in ("unet", "vae", "text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    tokenizers = [getattr(pipeline, name) for name in ("tokenizer", "tokenizer_2") if getattr(pipeline, name, None) is not None]
    return {name: getattr(pipeline, name) for name in names}, tokenizers, pipeline.scheduler
