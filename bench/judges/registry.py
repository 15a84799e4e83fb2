"""Which judges there are: one file each in the folder `judges` of Vestige's configuration and of the user's own.

The folder is not called `judge`, because Hydra would then take `judge=a+b` for the choice of one file there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vestige.bench.contract import building
from vestige.bench.contract.hints import near
from vestige.bench.judges.plugin import Judge
from vestige.bench.places import config_folders


def files() -> dict[str, Path]:
    """Name -> its YAML file. A name that exists twice is refused: a record's judge must mean one thing."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for file in sorted((folder / "judges").glob("*.yaml")):
            if file.stem in found and file.read_bytes() != found[file.stem].read_bytes():
                raise ValueError(f"there are two judges {file.stem!r}: {found[file.stem]} and {file}. Rename your own file.")
            found[file.stem] = file
    return found


def parts(judge_id: str) -> list[str]:
    """The judges of a chain; of another judge itself. A plus sign inside a folder's name joins nothing."""
    names = "|".join(map(re.escape, files()))
    return re.split(rf"\+(?=(?:{names})(?:[:+]|$))", judge_id)


def judge_of(part: str) -> Judge:
    """One judge, not a chain, as its file describes it. Raises a ValueError for one that does not exist."""
    name, known = part.partition(":")[0], files()
    if name not in known:
        wrong = next(word for word in name.split("+") if word not in known)
        raise ValueError(
            f"judge={part!r}: there is no judge {wrong!r}.{near(wrong, known)} See `vestige ls judges`. Known: {', '.join(sorted(known))}."
        )
    return _built(part, known[name], known[name].stat().st_mtime_ns)


def checked(part: str) -> Judge:
    """The same, which this machine can load; else a ValueError that says what is missing."""
    judge = judge_of(part)
    judge.check(part)
    return judge


@cache
def _built(part: str, file: Path, changed: int) -> Judge:
    """changed: when the file was, so that another content is read again."""
    name, colon, argument = part.partition(":")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no settings: its first line is _target_: <import path of its class>.")
    cls = building.target_class(content, Judge, f"judge.{name}")
    if colon and not cls.argument:
        raise ValueError(f"judge={part!r}: {name} takes nothing after a colon. Write judge={name}.")
    if argument:
        content[cls.argument] = argument
    elif colon or content.get(cls.argument) == "???":
        comment = file.read_text().split("\n")[0].lstrip("# ")
        raise ValueError(f"judge={part!r} lacks its {cls.argument}. Write judge={name}:<{cls.argument}>. {comment}")
    return building.plugin(content, Judge, f"judge.{name}")
