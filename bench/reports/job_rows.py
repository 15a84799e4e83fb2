"""The rows of a table that shows one job each: its cells, its name, and whether it collapsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from vestige.bench.reports import main_table

# What the tables show of a cell, a tenth of what a frame has.
SHOWN = ["method", "key", "seed", "status", "job_reason", "limits", "split", "attack", "access", "metric", "column", "judge", "reason"]
SHOWN += ["value", "ci_low", "ci_high", "diff_low", "diff_high", "leads", "before", "either", "failed_before", "after_failing"]
SHOWN += ["attack_forward_rows"]


def jobs_of(part: pd.DataFrame, methods: list[str]) -> Iterator[tuple[str, str, list[Any]]]:
    """(method, name, cells) of every job, methods in the given order."""
    jobs: dict[tuple[str, str], list] = {}
    for cell in part[[name for name in SHOWN if name in part]].itertuples(index=False):
        jobs.setdefault((cell.method, cell.key), []).append(cell)
    labels, several = main_table.names(part), part.groupby("method")["key"].nunique().to_dict()
    place = {method: k for k, method in enumerate(methods)}
    for method, key in sorted(jobs, key=lambda job: (place[job[0]], job[1])):
        job = jobs[method, key]
        yield method, labels[method] if several[method] == 1 else f"{method} (seed {job[0].seed})", job


def collapsed_methods(frame: pd.DataFrame) -> dict[str, str]:
    """method -> why, for methods that collapsed on any of the concepts."""
    found = frame.dropna(subset=["collapsed"]).drop_duplicates(["method", "concept"])
    return {m: "; ".join(f"{r.concept}: {r.collapsed}" for r in part.itertuples()) for m, part in found.groupby("method")}
