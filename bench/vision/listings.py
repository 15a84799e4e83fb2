"""Lists that open_clip and torchvision carry, read without importing these packages: that takes seconds, which a plan does without."""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def open_clip_weights() -> Any:
    """open_clip's own list of published weights, and its way of fetching them: its module `pretrained`."""
    return _module("open_clip", "pretrained")


def open_clip_models() -> list[str]:
    """Names of the architectures: each has a file of settings."""
    return sorted(file.stem for file in (_folder("open_clip") / "model_configs").glob("*.json"))


def imagenet_classes() -> list[str]:
    """The names that torchvision's classifiers have for the 1,000 classes."""
    try:
        return _module("torchvision/models", "_meta")._IMAGENET_CATEGORIES
    except (ImportError, AttributeError):  # another version keeps them elsewhere
        from torchvision.models import ResNet50_Weights

        return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


@cache
def _module(place: str, name: str) -> Any:
    """A module of an installed package, without what the package's own __init__ imports."""
    package = ModuleType(f"_listings_of_{place.replace('/', '_')}")
    package.__path__ = [str(_folder(place))]
    sys.modules[package.__name__] = package  # its modules import each other relatively
    return importlib.import_module(f"{package.__name__}.{name}")


def _folder(place: str) -> Path:
    package, _, inside = place.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.submodule_search_locations[0]) / inside
