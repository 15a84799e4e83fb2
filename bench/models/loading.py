"""Loads the model a specification names, and refuses early what cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models import hub
from vestige.bench.models.architecture import check_family
from vestige.bench.models.families import family, names
from vestige.bench.models.fingerprints import weights_digest
from vestige.bench.models.folders import RANDOM, files_missing, folder_of, made_by, read_json, snapshot_of, weights_of

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


def check(spec: ModelSpec) -> None:
    """Raise a ValueError for a specification that no machine could load. Loads nothing and asks no hub (`missing` does)."""
    if spec.family not in names():
        raise ValueError(f"model.{spec.name}.family={spec.family!r} is not known. Allowed: {', '.join(names())}.")
    if spec.repo.startswith(RANDOM):
        if spec.repo != f"{RANDOM}tiny":
            raise ValueError(f"model.repo={spec.repo!r}: the only random model is random:tiny.")
    elif (folder := folder_of(spec)) is not None:
        _check_folder(folder, spec.family)
    elif spec.repo.startswith((".", "/", "~")) or spec.repo.count("/") != 1:
        raise ValueError(f"model.repo={spec.repo!r}: no such folder. Give a diffusers folder or a hub id such as org/name.")
    elif (snapshot := snapshot_of(spec)) is not None:
        check_family(snapshot, spec.family)


def _check_folder(folder: Path, name: str) -> None:
    known = family(name)
    if not (folder / known.index).exists():
        raise ValueError(f"{folder} is not a {known.library} folder: it has no {known.index}.")
    check_family(folder, name)
    lost = files_missing(folder, name)
    if lost:
        part = (folder / lost[0]).parent
        pickled = [file.name for file in part.glob("*") if file.suffix in (".bin", ".ckpt", ".pt", ".pth")]
        if pickled and lost[0].endswith(".safetensors"):
            raise ValueError(f"{part} holds pickled weights ({pickled[0]}), which are refused. Convert or fetch {lost[0]}.")
        raise ValueError(f"{folder} lacks {_listed(lost)}. Fetch or save the model again.")


def _listed(files: list[str], most: int = 4) -> str:
    return ", ".join(files[:most]) + (f" and {len(files) - most} more files" if len(files) > most else "")


def missing(spec: ModelSpec) -> str | None:
    """Why the weights of a hub model cannot be had here and what to do about it, in a sentence, or None. Fetches them where a hub is."""
    if spec.repo.startswith(RANDOM) or folder_of(spec) is not None:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(huggingface_hub.hf_hub_download(spec.repo, family(spec.family).index, revision=spec.revision)).parent
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return (
            f"model {spec.name!r} ({spec.repo}) is neither in the local hub cache nor reachable. Set HF_HOME to a cache that "
            f"holds it, or point to a folder: model.repo=/path/to/{spec.repo.split('/')[-1]}."
        )
    try:
        check_family(snapshot, spec.family)  # it may have been fetched just now
    except ValueError as misfit:
        return str(misfit)
    hub.fetch_missing(spec.repo, snapshot, lambda: files_missing(snapshot, spec.family))
    lost = files_missing(snapshot, spec.family)
    if not lost:
        return None
    at = "" if spec.revision is None else f" --revision {spec.revision}"
    return (
        f"model {spec.name!r}: the local hub cache holds a part of {spec.repo}; it lacks {_listed(lost)}. "
        f"On a machine with a network run: hf download {spec.repo} {' '.join(lost)}{at}"
    )


@contextmanager
def hub_unasked() -> Iterator[None]:
    """Inside the `with` no hub is asked: what is not in the local cache is missing, without retries."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load(spec: ModelSpec, device: str = "cpu") -> Pipe:
    """Load a model, frozen and in evaluation mode."""
    import torch

    from vestige.bench.models import numerics
    from vestige.bench.models.pipe import Pipe

    numerics.use_reference()
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
    numerics.laid_out(pipe.denoiser, spec)
    pipe.text.identified_as(weights_digest(spec) or (spec.repo, spec.revision))
    return pipe


def diffusers_parts(spec: ModelSpec) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
    """How most families are loaded (`Family.load`): modules by name, tokenizers, scheduler, settings of the pipeline."""
    import diffusers

    folder, layout = _files(spec), family(spec.family)
    index = read_json(folder / layout.index)
    modules = {part: _module(folder, index, part, spec.dtype) for part in layout.parts if made_by(index, part)}
    kept = {"scheduler", *(name for name in layout.tokenizers if made_by(index, name))}
    unused = {part: None for part, named in index.items() if isinstance(named, list) and part not in kept | modules.keys()}
    # Its own class, because the general one loads parts that are not used. It reads tokenizers and scheduler, and repairs old settings.
    kind = getattr(diffusers, index.get("_class_name", ""), diffusers.DiffusionPipeline)
    pipeline = kind.from_pretrained(folder, **modules, **unused)
    tokenizers = [getattr(pipeline, name) for name in layout.tokenizers if getattr(pipeline, name, None) is not None]
    settings = {key: value for key, value in pipeline.config.items() if isinstance(value, bool | int | float | str) and key[0] != "_"}
    return modules, tokenizers, pipeline.scheduler, settings


def _files(spec: ModelSpec) -> Path:
    """The folder of a model, whole; of a hub model that of the commit which its fingerprint names."""
    folder = folder_of(spec) or snapshot_of(spec)
    if folder is None or files_missing(folder, spec.family):
        if lack := missing(spec):
            raise ValueError(lack)
        folder = folder_of(spec) or snapshot_of(spec)
    assert folder is not None, "nothing is missing"
    return folder


def _module(folder: Path, index: dict[str, Any], part: str, dtype: str) -> Any:
    """One part, from the files that its fingerprint hashes."""
    import diffusers
    import torch
    import transformers

    library, name = index[part]
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    weights = weights_of(folder / part)
    word = {"variant": weights.variant} if weights and weights.variant else {}
    return kind.from_pretrained(folder / part, torch_dtype=getattr(torch, dtype), use_safetensors=True, **word)
