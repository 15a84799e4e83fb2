"""Hashes of a model's weights, so that new weights under an old path are never mistaken for the old ones."""

import hashlib
import json
import time
from pathlib import Path

from vestige.bench.contract.types import ModelSpec, canonical_hash
from vestige.bench.models.folders import LEFT_OUT, RANDOM, folder_of

SETTINGS = {"config.json", "scheduler_config.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.json", "tokenizer_config.json"}
SETTINGS |= {"processor_config.json", "chat_template.jinja"}  # of transformers' models of text and images
SETTINGS |= {"special_tokens_map.json", "added_tokens.json", "spiece.model", "tokenizer.model"}

INDICES = ("model_index.json", "config.json")  # what a folder of diffusers, or of transformers, begins with


def weights_digest(spec: ModelSpec) -> str | None:
    """Of a local folder: hash of the files that are loaded. Of a hub model: the commit in the local cache, or None if it is not there."""
    folder = folder_of(spec)
    if folder is not None:
        return canonical_hash({str(f.relative_to(folder)): file_digest(f) for f in loaded_files(folder)})
    commit = commit_of(spec)
    return commit and f"commit {commit}"


def commit_of(spec: ModelSpec) -> str | None:
    """Which commit of a hub repository the cache holds for the revision asked for (null: its main, which moves). Asks no hub."""
    if spec.repo.startswith(RANDOM) or folder_of(spec) is not None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for index in INDICES:
        found = try_to_load_from_cache(spec.repo, index, revision=spec.revision)
        if isinstance(found, str):
            return Path(found).parent.name
    return None


def loaded_files(folder: Path) -> list[Path]:
    """The files of a model's folder that bench/models/loading.py loads: no README, no part that stays out, no variant."""
    if not (folder / INDICES[0]).exists():  # a folder of transformers: one part, on top
        return [file for file in sorted(folder.glob("*")) if file.name in SETTINGS] + _weights(folder)
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name, made_by in index.items() if isinstance(made_by, list) and all(made_by) and name not in LEFT_OUT]
    found = [folder / "model_index.json"]
    for part in sorted(parts):
        settings = [file for file in sorted((folder / part).glob("*")) if file.name in SETTINGS]
        found += [*settings, *_weights(folder / part)]
    return found


def _weights(part: Path) -> list[Path]:
    """One file, or shards and their index; where neither has its usual name, all there are."""
    found = []
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        single, index = part / name, part / f"{name}.index.json"
        if single.exists():
            found.append(single)
        if index.exists():
            found += [index, *(part / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())))]
    return found or sorted(part.glob("*.safetensors"))


def given(**places: str | Path | None) -> dict[str, str]:
    """Name -> SHA-256 of what lies there, for a stage's key: a changed file under an old path is another input.

    Only of files and folders of the user's own: a hub id, the name of published weights or null has no entry.
    """
    found = {name: Path(place).expanduser() for name, place in places.items() if place}
    return {name: folder_digest(p) if p.is_dir() else file_digest(p) for name, p in found.items() if p.exists()}


def folder_digest(folder: Path) -> str:
    return canonical_hash({str(f.relative_to(folder)): file_digest(f) for f in sorted(folder.rglob("*")) if f.is_file()})


def file_digest(file: Path) -> str:
    """SHA-256; read once per process, and again when size, times or inode differ.

    A file written in the last moments is not remembered: clocks of file systems tick slowly, and it may change within one tick.
    """
    facts = file.stat()
    mark = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    known = _KNOWN.get(file)
    if known is not None and known[0] == mark:
        return known[1]
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - max(mark[1:3]) > TICK:
        _KNOWN[file] = (mark, digest)
    return digest


TICK = 100_000_000  # nanoseconds
_KNOWN: dict[Path, tuple[tuple[int, ...], str]] = {}
