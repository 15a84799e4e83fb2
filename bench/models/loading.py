"""Loads the model a specification names, and refuses early what cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.families import family, names
from vestige.bench.models.families.base import Family
from vestige.bench.models.fingerprints import commit_of, weights_digest
from vestige.bench.models.folders import LEFT_OUT, RANDOM, folder_of

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


def check(spec: ModelSpec) -> None:
    """Raise a ValueError for a specification that no machine could load. Loads nothing and asks no hub (`missing` does)."""
    if spec.family not in names():
        raise ValueError(f"model.{spec.name}.family={spec.family!r} is not known. Allowed: {', '.join(names())}.")
    if spec.repo.startswith(RANDOM):
        if spec.repo != f"{RANDOM}tiny":
            raise ValueError(f"model.repo={spec.repo!r}: the only random model is random:tiny.")
        return
    folder = folder_of(spec)
    if folder is not None:
        _check_folder(folder, family(spec.family))
    elif spec.repo.startswith((".", "/", "~")) or spec.repo.count("/") != 1:
        raise ValueError(f"model.repo={spec.repo!r}: no such folder. Give a diffusers folder or a hub id such as org/name.")


def missing(spec: ModelSpec) -> str | None:
    """Why the weights of a hub model cannot be had here and what to do about it, in a sentence, or None."""
    if spec.repo.startswith(RANDOM) or folder_of(spec) is not None:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(spec.repo, family(spec.family).index, revision=spec.revision)
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


def _check_folder(folder: Path, known: Family) -> None:
    if not (folder / known.index).exists():
        raise ValueError(f"{folder} is not a {known.library} folder: it has no {known.index}.")
    for part in ("vae", "text_encoder", "unet") if known.library == "diffusers" else ("",):
        if (folder / part).is_dir() and not list((folder / part).glob("*.safetensors")):
            pickled = [f.name for f in (folder / part).iterdir() if f.suffix in (".bin", ".ckpt", ".pt", ".pth")]
            why = f"it holds pickled weights ({pickled[0]}), which are refused" if pickled else "a weight file is missing"
            raise ValueError(f"{folder / part} has no .safetensors file: {why}. Convert or fetch safetensors weights.")


def load(spec: ModelSpec, device: str = "cpu") -> Pipe:
    """Load a model, frozen and in evaluation mode."""
    import torch

    from vestige.bench.models.pipe import Pipe

    apply_numerics(spec)
    if spec.repo.startswith(RANDOM):
        parts, tokenizers, scheduler, settings = family(spec.family).tiny()
    else:
        parts, tokenizers, scheduler, settings = family(spec.family).load(spec)
    for name, module in parts.items():
        # Random parts are made in float32; those from files have their dtype, but for layers that must stay in full precision
        if spec.repo.startswith(RANDOM) and spec.dtype != "float32":
            module.to(getattr(torch, spec.dtype))
        module.to(device).eval().requires_grad_(False)
        if name == "vae" and spec.dtype == "float16" and getattr(module.config, "force_upcast", False):
            module.float()  # SDXL's VAE overflows in half precision and would draw black images
    pipe = Pipe(spec, parts, tokenizers, scheduler, settings)
    pipe.text.identified_as(weights_digest(spec) or (spec.repo, spec.revision))
    return pipe


def diffusers_parts(spec: ModelSpec):
    """How most families are loaded (`Family.load`)."""
    import torch
    from diffusers import DiffusionPipeline

    where, revision, known = folder_of(spec) or spec.repo, commit_of(spec) or spec.revision, family(spec.family)
    index = DiffusionPipeline.load_config(where, revision=revision)
    unused = {name: None for name in LEFT_OUT if name in index}
    # Stable Diffusion 3 may lie there without T5: then diffusers wants to be told so
    unused |= {name: None for name in (*known.parts, *known.tokenizers) if not any(index.get(name) or [])}
    pipeline = DiffusionPipeline.from_pretrained(
        where, revision=revision, torch_dtype=getattr(torch, spec.dtype), use_safetensors=True, **unused
    )
    present = [name for name in known.parts if getattr(pipeline, name, None) is not None]
    tokenizers = [getattr(pipeline, name) for name in known.tokenizers if getattr(pipeline, name, None) is not None]
    settings = {name: value for name, value in pipeline.config.items() if isinstance(value, bool)}
    return {name: getattr(pipeline, name) for name in present}, tokenizers, pipeline.scheduler, settings


def apply_numerics(spec: ModelSpec) -> None:
    """Deterministic arithmetic is a property of a result, so the specification asks for it, not the machine."""
    import torch

    exact = spec.numerics == "deterministic"
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.deterministic = exact
    torch.backends.cudnn.benchmark = not exact
