"""Names on the command line, checked before Hydra composes."""

from __future__ import annotations

import difflib
from pathlib import Path

GROUPS = ("model", "method", "concept", "attack", "split", "protocol", "runtime", "experiment")


def check_names(overrides: list[str], folders: list[Path]) -> None:
    """Refuse unknown choices (`method=essd`) with near names; everything else is Hydra's to judge."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group not in GROUPS or not value or value == "null":
            continue
        known = sorted({f.stem for folder in folders for f in (folder / group).glob("*.yaml")})
        for name in filter(None, (part.strip(" []'\"") for part in value.split(","))):
            if name not in known:
                near = difflib.get_close_matches(name, known, 3)
                hint = f" Did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"{override!r}: there is no {group} {name!r}.{hint} See `vestige ls {group}s`. Known: {', '.join(known)}.")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ValueError(f"{key}={value!r} is not known. Allowed: {', '.join(allowed)}." + (f" Did you mean {near[0]}?" if near else ""))
