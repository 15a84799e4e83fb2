"""From a tree of settings to typed objects: unknown keys, missing keys and wrong types are named with their full key."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import traceback
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vestige.bench.contract.hints import near
from vestige.bench.contract.types import plain
from vestige.bench.places import import_from_here


def plugin(node: DictConfig | dict, base: type, where: str) -> Any:
    """Import `_target_`, check that it is a `base`, and build it with typed fields."""
    cls = target_class(node, base, where)
    return typed(node, cls, where, drop=("_target_", "name"))


def target_class(node: DictConfig | dict, base: type, where: str) -> Any:
    """The class that `_target_` names, imported; it must be a `base`."""
    target = plain_tree(node).get("_target_")
    if not target:
        raise ValueError(f"{where} has no _target_: the import path of its class, for example methods.uce.UCE.")
    module, _, name = target.rpartition(".")
    import_from_here()
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user's may fail in any way
        raise ValueError(
            f"{where}._target_={target!r} cannot be imported ({_own_line(error)}). "
            "Is its file in the current folder, or its folder on PYTHONPATH?"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{where}._target_={target!r} is not a {base.__name__} (see {base.__module__}).")
    return cls


def _own_line(error: Exception) -> str:
    """The error, and the line of the imported module where it happened, if it did not happen before that."""
    told = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError | AttributeError | ValueError) else str(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()!r}: {type(error).__name__}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename and frame.filename != __file__
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line!r}: {told}" if frames else told


def typed(node: DictConfig | dict, cls: type, where: str, drop: tuple[str, ...] = (), keep_name: bool = True) -> Any:
    """Build a dataclass from a tree: unknown keys, missing keys and wrong types are named with their full key."""
    content = {key: value for key, value in plain_tree(node).items() if key not in drop}
    known = {f.name for f in dataclasses.fields(cls)}
    for key in content:
        if key not in known:
            raise ValueError(f"{where}.{key} is not a setting of {cls.__name__}.{near(key, known)} Settings: {', '.join(sorted(known))}.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), content)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}: add it to the YAML or the command line ({where}.{missing[0]}=...).")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        first = str(error).split("\n")[0]
        advice = ". Type a whole number." if first.endswith("to Integer") else ""
        raise ValueError(f"{where}.{getattr(error, 'full_key', None) or '?'}: {first}{advice}") from error


def specification(thing: Any) -> dict:
    """A plugin as part of a stage's key: where it comes from, its version, all its numbers."""
    return {"plugin": f"{type(thing).__module__}.{type(thing).__qualname__}", "version": type(thing).version, "params": plain(thing)}


def plain_tree(node: DictConfig | dict) -> dict:
    """Settings as plain data, references resolved."""
    return cast(dict, OmegaConf.to_container(node, resolve=True)) if isinstance(node, DictConfig) else dict(node)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of named entries as plain data."""
    return cast(dict, OmegaConf.to_container(OmegaConf.load(file)))
