"""Finds the weights of published networks on this machine, or says how to get them. Never loads pickled code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from vestige.bench.models.folders import STEMS, VARIANTS

FILES = ["*.json", "*.txt", "*.safetensors"]  # configuration, vocabulary, weights


@cache
def folder(which: str, setting: str, weights: bool = True) -> Path:
    """The folder of a transformers model: `which` itself, or the cache of a hub id (fetched where a network is).

    Raises ValueError; `setting` is what the user typed to choose it. weights=False: configuration and vocabulary only.
    """
    local = Path(which).expanduser()
    if not local.is_dir():
        if which.startswith((".", "/", "~")) or which.count("/") != 1:
            raise ValueError(f"{setting}: {which!r} is no folder. Give the folder of a transformers model, or a hub id such as org/name.")
        local = _fetched(which, setting, FILES if weights else FILES[:2])
    if not weights:
        return local
    if not (local / "config.json").exists():
        raise ValueError(f"{setting}: {local} is not the folder of a transformers model: it has no config.json.")
    if not list(local.glob("*.safetensors")):
        raise ValueError(f"{setting}: {local} has no .safetensors file, and pickled weights are refused. Convert or fetch safetensors.")
    return local


def _fetched(repo: str, setting: str, files: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=files))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{setting}: the weights {repo!r} are neither in the local hub cache nor reachable. Set HF_HOME to a cache that holds "
            "them, or give their folder in place of the id."
        ) from error


def fetch_missing(repo: str, snapshot: Path, missing: Callable[[], list[str]]) -> None:
    """Bring what a snapshot of a model lacks into the cache: small files and full weights; where a part has none, those of a variant.

    missing: names of the files that loading looks for, as things stand. Without a network it does nothing.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for variant in VARIANTS:
        parts = dict.fromkeys(name.split("/")[0] for name in missing())
        if not parts:
            return
        word = f".{variant}" if variant else ""
        names = [f"{stem}{end}{word}.safetensors" for stem in STEMS.values() for end in ("", "-?????-of-?????")]
        wanted = [f"{part}/{name}" for part in parts for name in ("*.json", "*.txt", "*.model", *names)]
        try:
            huggingface_hub.snapshot_download(repo, revision=snapshot.name, allow_patterns=wanted)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            return


def file(which: str, setting: str, where: str) -> Path:
    """A weights file that the user fetched. `where`: the page or command that gives it."""
    local = Path(which).expanduser()
    if not local.is_file():
        raise ValueError(f"{setting}: there is no file {which!r}. Get it from {where} and give its path.")
    return local


def torch_path(name: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / name


def torch_file(name: str, setting: str, how: str) -> Path:
    """A file of torch's own cache (TORCH_HOME); nothing is fetched. `how`: the Python that fetches it."""
    file = torch_path(name)
    if not file.exists():
        raise ValueError(f'{setting} needs the weights {file}. On a machine with a network run: python -c "{how}"')
    return file


def cached(which: str) -> Path | None:
    """The folder itself, or what the cache holds of a hub id; None without either. No hub is asked."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    local = Path(which).expanduser()
    if local.is_dir() or which.startswith((".", "/", "~")) or which.count("/") != 1:
        return local if local.is_dir() else None
    try:
        return Path(huggingface_hub.snapshot_download(which, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def inputs(**places: str | None) -> dict[str, str]:
    """Name -> digest of what lies in these folders or in the cache of these hub ids, for a stage's key; nothing for what is not here."""
    from vestige.bench.contract.types import canonical_hash
    from vestige.bench.models.fingerprints import given

    found = given(**places)
    for name, which in places.items():
        if which and name not in found and (folder := cached(which)) is not None:
            files = sorted(file for pattern in FILES for file in folder.rglob(pattern))
            found[name] = canonical_hash({str(file.relative_to(folder)): content(file) for file in files})
    return found


def content(file: Path) -> str:
    """What identifies a file's content: in the hub's cache the name of its blob, which is a hash already; else its SHA-256."""
    from vestige.bench.models.fingerprints import file_digest

    real = file.resolve()
    return real.name if file.is_symlink() and real.parent.name == "blobs" else file_digest(file)
