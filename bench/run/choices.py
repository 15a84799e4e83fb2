"""Names on the command line, checked before Hydra composes; which names there are, and for which models a name is tuned."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vestige.bench.contract.hints import near

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = ("model", "method", "concept", "attack", "split", "metric", "protocol", "runtime", "experiment")


def parsed(file: Path) -> Any:
    """What a YAML file holds, references not resolved: by the parser in C where it is built, since folders hold hundreds."""
    return yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def known(group: str, folders: Iterable[Path]) -> list[str]:
    """The names of a group of settings."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def check_names(overrides: list[str], folders: list[Path]) -> None:
    """Refuse unknown choices (`method=essd`) with near names; everything else is Hydra's to judge."""
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").partition("@")[0]  # also +method@method.steps.second=speed
        if group == "tuned" and "$" not in value and value != "none":
            _check_tuned(override, value, folders)
        if group not in GROUPS or not value or value == "null":
            continue
        names = known(group, folders)
        for name in filter(None, (part.strip(" []'\"") for part in value.split(","))):
            if name not in names:
                hint = _without_model(group, name, folders) or near(name, names)
                raise ValueError(f"{override!r}: there is no {group} {name!r}.{hint} See `vestige ls {group}s`. Known: {', '.join(names)}.")


def _without_model(group: str, name: str, folders: list[Path]) -> str:
    """What to say of esd_emoji: the model is chosen by itself."""
    bare, _, model = name.rpartition("_")
    if model not in tuned_for(group, bare, folders):
        return ""
    return f" Say {group}={bare}: with model={model} it has the numbers tuned for that model (conf/tuned/{model})."


def _check_tuned(override: str, value: str, folders: list[Path]) -> None:
    if not any((folder / "tuned" / f"{value}.yaml").exists() for folder in folders):
        files = {file for folder in folders for file in (folder / "tuned").rglob("*.yaml")}
        names = sorted(str(file.with_suffix("")).rpartition("/tuned/")[2] for file in files)
        raise ValueError(f"{override!r}: there is no such file in conf/tuned.{near(value, names)} For the paper's own numbers say none.")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, 1)
        raise ValueError(f"{key}={value!r} is not known. Allowed: {', '.join(allowed)}." + (f" Did you mean {close[0]}?" if close else ""))


# Tuned numbers: conf/tuned/<model>/<method>.yaml, and all attacks of a model in one file


def tuned_for(group: str, name: str, folders: list[Path]) -> list[str]:
    """The models for which a method or an attack has tuned numbers."""
    if group == "method":
        return sorted({file.parent.name for folder in folders for file in folder.glob(f"tuned/*/{name}.yaml")})
    if group == "attack":
        files = [file for folder in folders for file in folder.glob("tuned/*/attacks.yaml")]
        return sorted({file.parent.name for file in files if name in tuned_attacks(file, tuple(folders))})
    return []


@cache
def tuned_attacks(file: Path, folders: tuple[Path, ...]) -> frozenset[str]:
    """The attacks in a file of tuned numbers, with those of the files that it starts from. Keys with _ hold what entries refer to."""
    content = parsed(file) or {}
    inherited = [entry.lstrip("/").partition("@")[0] for entry in content.pop("defaults", []) if entry.startswith("/tuned/")]
    above = [parent for name in inherited for folder in folders if (parent := folder / f"{name}.yaml").exists()]
    own = frozenset(name for name in content if not name.startswith("_"))
    return own.union(*(tuned_attacks(parent, folders) for parent in above))


def chosen_attacks(tree: DictConfig) -> dict[str, Any]:
    """Without tuned numbers of attacks that are not chosen: those have no `_target_`."""
    entries: Mapping[str, Any] = tree.attack
    return {name: entry for name, entry in entries.items() if not isinstance(entry, Mapping) or "_target_" in entry}


def check_settings(overrides: Iterable[str], attacks: Collection[str]) -> None:
    """Refuse a number for an attack that is not chosen: it would change nothing."""
    for override in overrides:
        found = re.match(r"\+{0,2}attack\.([^.=]+)\.", override)
        if found and found[1] not in attacks:
            raise ValueError(
                f"{override!r}: attack {found[1]!r} is not chosen. Chosen: {', '.join(attacks)}. Say attack=[none,{found[1]}]."
            )
