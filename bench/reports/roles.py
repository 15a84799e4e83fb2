"""Whether a row is about the target or about what should stay: its role says so, not the name of its split."""

from __future__ import annotations

import pandas as pd

from vestige.bench.prompts.prompt_sets import ROLES

ERASED_ROLES = ("target", "alias")  # presence of the concept is a failure
KEPT_ROLES = ("sibling", "other", "scene", "background")
NAMING_ROLES = (*ERASED_ROLES, "scene", "background")  # prompts that name the concept
MIXED = "mixed"  # the role of a cell whose prompts are partly of erased and partly of kept roles


def role_of(split: str | None, roles: tuple[str, ...] | list[str]) -> str | None:
    """What a split's prompts are there for, by their roles; by the name of a shipped split where the prompts have none (`free`).

    Roles that are all of what is erased, or all of what is kept, count as one of them; a split of both is "mixed" and counts for
    neither, because its rate is of neither: ask them under two names (`prompts.csv?role=target`).
    """
    known = set(roles) - {"free"}
    if not known or "free" in roles:
        unnamed = MIXED if known else "free" if roles else None
        return unnamed if split is None else ROLES.get(split, unnamed)
    if known <= set(ERASED_ROLES):
        return "target" if "target" in known else "alias"
    if known <= set(KEPT_ROLES):
        return next(iter(known)) if len(known) == 1 else "other"
    return MIXED


def roles_of(frame: pd.DataFrame) -> dict[str, str]:
    """Split -> role, of a frame of results.load."""
    known = frame[["split", "role"]].dropna().drop_duplicates("split")
    return dict(zip(known["split"], known["role"], strict=True))
