"""What the randomness of an erasure or an attack follows: its specification, in the words in which results were first published.

Names change: the package that a plugin lies in, a few of its settings, what a model's file calls its arithmetic and the domain of its
images, how a judge's file is written. None of them decides a result, and a seed that followed them would draw other images than the
published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vestige.bench.contract.types import canonical_hash
from vestige.bench.run.store_folder import Stage

PACKAGE = "vestige."
RENAMED: dict[str, dict[str, str | None]] = {  # plugin -> setting -> its name when results were first published; None: there was none
    "methods.safety_checker.SafetyChecker": {"images": "pictures"},
    "methods.mace.MACE": {"images": "pictures", "image_prompts": "picture_prompts"},
    "methods.uce_debias.UCEDebias": {"images": "pictures"},
    "attacks.step_by_step.StepByStep": {"prompt_style": None},
}
NUMERICS = {"reference": "deterministic"}  # of a model -> its first name


def seed_word(spec: dict, domain: str, erased: Sequence[Stage] = ()) -> str:
    """Of the specification of an erase or attack stage; erased: the erase stages before it, in order."""
    asked = _as_published(spec)
    asked["model"] = model_as_published(asked["model"]) | {"vocabulary": domain}
    for name in ("erasure", "parent"):
        if asked.get(name) is not None:
            asked[name] = seed_word(erased[-1].meta["specification"], domain, erased[:-1])
    if "attack" in asked:
        inputs = {name: value for name, value in asked.get("inputs", {}).items() if name.rpartition(" ")[2] != "settings"}
        asked = {name: value for name, value in asked.items() if name != "inputs"} | ({"inputs": inputs} if inputs else {})
    return canonical_hash(asked)


def model_as_published(model: dict) -> dict:
    """The model's part of a specification, with the first name of its arithmetic."""
    return {**model, "numerics": NUMERICS.get(model["numerics"], model["numerics"])}


def _as_published(settings: Any) -> Any:
    """A copy in which plugins are named below the package, and their settings as at first."""
    if isinstance(settings, list):
        return [_as_published(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    told = {name: _as_published(value) for name, value in settings.items()}
    for name in ("plugin", "_target_"):
        if isinstance(told.get(name), str):
            told[name] = told[name].removeprefix(PACKAGE)
    names = RENAMED.get(told.get("plugin", ""), {})
    if names:
        told["params"] = {old: value for name, value in told["params"].items() if (old := names.get(name, name)) is not None}
    return told
