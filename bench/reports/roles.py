"""What the rows of a probe are asked for decides how they are read, whatever the probe is called."""

from __future__ import annotations

import pandas as pd

from bench.prompts import ROLES

ERASED_ROLES = ("target", "alias")  # presence of the concept is a failure
NAMING_ROLES = (*ERASED_ROLES, "scene", "background")  # prompts that name the concept


def role_of(probe: str, role: str | None = None) -> str:
    """`role` where it is known, else what a shipped probe's name says; "free" otherwise."""
    return role if isinstance(role, str) and role else ROLES.get(probe, "free")


def roles_of(frame: pd.DataFrame) -> dict[str, str]:
    """Probe -> role, of a frame of results.load; its column `role` counts where there is one."""
    if "role" not in frame:
        return {probe: role_of(probe) for probe in frame["probe"].dropna().unique()}
    known = frame[["probe", "role"]].drop_duplicates().dropna(subset=["probe"]).sort_values("role", na_position="last", kind="stable")
    return {probe: role_of(probe, role) for probe, role in list(zip(known["probe"], known["role"], strict=True))[::-1]}
