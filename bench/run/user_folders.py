"""The user's own settings: `conf` of the current folder and of --config-dir, searched after the shipped ones, and what is wrong there.

A name means one thing. Hydra takes the first file of a name that it finds, so a second one would be ignored without a word; here
it is refused.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from vestige.bench.contract.hints import near
from vestige.bench.places import CONF
from vestige.bench.run.choices import known, parsed, tuned_attacks


def check_folders(folders: list[Path]) -> None:
    """Raises ValueError for the first mistake in a folder beside the shipped one, which the tests check."""
    for place, folder in enumerate(folders[1:], 1):
        for file in sorted(folder.rglob("*.yaml")):
            _check_only(file, file.relative_to(folder), folders[:place])
        for file in sorted(folder.glob("method/*.yaml")):
            _check_method(file)
        for file in sorted([*folder.glob("attack/*.yaml"), *folder.glob("metric/*.yaml")]):
            _check_top_key(file)
        check_tuned(folder, folders)


def _check_only(file: Path, name: Path, before: list[Path]) -> None:
    for folder in before:
        other = folder / name
        if other.exists() and other.read_bytes() != file.read_bytes():
            owner = "a file that comes with Vestige" if folder == CONF else str(other)
            raise ValueError(
                f"{file}: {name.with_suffix('')} is already the name of {owner}, and a name must mean one thing. Rename your file (and the "
                f"name inside); it may start from the other: defaults: [{name.stem}, _self_]."
            )


def _check_method(file: Path) -> None:
    name = _content(file).get("name")
    if name != file.stem:
        raise ValueError(f"{file}: its name is {name!r}, but the row is called like the file. Write `name: {file.stem}` in it.")


def _check_top_key(file: Path) -> None:
    content = _content(file)
    inherits = content.pop("defaults", None)
    plugins = [entry for entry in content.values() if isinstance(entry, dict) and (inherits or "_target_" in entry)]
    if len(plugins) < len(content) or not (content or inherits):
        raise ValueError(
            f"{file}: settings of {file.parent.name}s stand below a name of their own, with the class they belong to: "
            f"`{file.stem}: {{_target_: my_module.MyClass, ...}}`."
        )


def check_tuned(folder: Path, folders: list[Path]) -> None:
    """Tuned numbers are of a model, and of methods and attacks, that there are."""
    for file in sorted(folder.glob("tuned/*/**/*.yaml")):
        model = file.relative_to(folder / "tuned").parts[0]
        wanted = [("model", model)]
        wanted += (
            [("attack", name) for name in sorted(tuned_attacks(file, tuple(folders)))]
            if file.stem == "attacks"
            else [("method", file.stem)]
        )
        for group, name in wanted:
            if name not in (names := known(group, folders)):
                raise ValueError(
                    f"{file}: tuned numbers for {group} {name!r}, which does not exist.{near(name, names)} See `vestige ls {group}s`."
                )


def _content(file: Path) -> dict:
    try:
        content = parsed(file)
    except yaml.YAMLError as mistake:
        raise ValueError(f"{file} is no YAML: {' '.join(str(mistake).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings: expected lines `name: value`.")
    return content
