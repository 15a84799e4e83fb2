"""Names and weights that open_clip knows, without importing open_clip: that takes three seconds, which a plan does without."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


@cache
def pretrained() -> Any:
    """open_clip's own list of published weights, and its way of fetching them: its module `pretrained`, without the rest."""
    package = ModuleType("_open_clip_lists")
    package.__path__ = [str(_folder())]
    sys.modules[package.__name__] = package  # its modules import each other relatively
    return importlib.import_module(f"{package.__name__}.pretrained")


def models() -> list[str]:
    """Names of the architectures: each has a file of settings."""
    return sorted(file.stem for file in (_folder() / "model_configs").glob("*.json"))


def _folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'open_clip'")
    return Path(spec.submodule_search_locations[0])
