"""Where the files of a model lie, and which parts of them count: what loading and fingerprints share."""

from pathlib import Path

from vestige.bench.contract.types import ModelSpec
from vestige.bench.places import found

RANDOM = "random:"  # repo of a model that has no files
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # parts of a pipeline that are not loaded


def folder_of(spec: ModelSpec) -> Path | None:
    """The local folder of the model: as given, from the current folder, or one that is shipped; None for a hub id."""
    folder = found(spec.repo)
    return folder.resolve() if folder.is_dir() else None
