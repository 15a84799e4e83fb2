"""Hashes of a model's weights, so that new weights under an old path are never mistaken for the old ones."""

from pathlib import Path

from vestige.bench.contract.types import ModelSpec, canonical_hash
from vestige.bench.models.digests import file_digest
from vestige.bench.models.families import family
from vestige.bench.models.folders import folder_of, loaded_files, snapshot_of, weights_of

__all__ = ["file_digest", "folder_digest", "given", "weights_digest"]


def weights_digest(spec: ModelSpec) -> str | None:
    """Of a local folder: hash of the files that are loaded. Of a hub model: the commit in the local cache, or None if it is not there.

    Of a hub model whose cache holds a variant alone the digest names it, because half precision is other weights.
    """
    folder = folder_of(spec)
    if folder is not None:
        return canonical_hash({str(f.relative_to(folder)): file_digest(f) for f in loaded_files(folder, spec.family)})
    snapshot = snapshot_of(spec)
    if snapshot is None:
        return None
    chosen = {part: weights_of(snapshot / part) for part in family(spec.family).parts}
    variants = [f"{part} {weights.variant}" for part, weights in chosen.items() if weights and weights.variant]
    return ", ".join([f"commit {snapshot.name}", *variants])


def given(**places: str | Path | None) -> dict[str, str]:
    """Name -> SHA-256 of what lies there, for a stage's key: a changed file under an old path is another input.

    Only of files and folders of the user's own: a hub id, the name of published weights or null has no entry.
    """
    found = {name: Path(place).expanduser() for name, place in places.items() if place}
    return {name: folder_digest(p) if p.is_dir() else file_digest(p) for name, p in found.items() if p.exists()}


def folder_digest(folder: Path) -> str:
    return canonical_hash({str(f.relative_to(folder)): file_digest(f) for f in sorted(folder.rglob("*")) if f.is_file()})
