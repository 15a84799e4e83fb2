"""`vestige power`: how many prompts a claim needs, from stated numbers or from the spread between two measured methods."""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from vestige.bench.reports.results import IDENTITY
from vestige.bench.reports.score_table import ScoreTable
from vestige.bench.statistics.power import half_width, power_of, prompts_for_rate, prompts_needed, sd_and_icc, smallest_difference

REPEATS = (1, 2, 5)
PROMPTS = (8, 16, 32, 64, 128, 256)


def answer(arguments: argparse.Namespace, frame: pd.DataFrame | None, score_table: ScoreTable | None) -> str:
    """The text to print. Raises ValueError when neither numbers nor methods are given."""
    a = arguments
    if a.rate is not None:
        if a.within is None:
            raise ValueError("--rate needs --within, the half-width of the interval: vestige power --rate 0.2 --within 0.05")
        n = prompts_for_rate(a.rate, a.within)
        also = ", ".join(f"{k}: +- {half_width(a.rate, k):.2f}" for k in (50, 100, 200, 500))
        return f"A rate of {a.rate:g} within +- {a.within:g} (95 %) needs {n} prompts, one image each. With fewer or more: {also}."
    lines, sd, icc = [], a.sd, a.icc
    if frame is not None and score_table is not None:
        sd, icc, observed, prompts, repeats = measured(a, frame, score_table)
        lines.append(
            f"{a.a} - {a.b} on {a.split} ({a.column}): mean {observed:.3g}, sd of an image {sd:.3g}, correlation in a prompt {icc:.2f},"
        )
        found = smallest_difference(prompts, sd, icc, repeats, a.wanted)
        lines.append(f"{prompts} prompts x {repeats}: finds {found:.3g} with {a.wanted:.0%} power.")
    if sd is None or (a.difference is None and frame is None):
        raise ValueError(
            "say what to plan for: --difference and --sd of a paired comparison, --rate and --within of a rate, or --a METHOD to take "
            "the spread from the records. Example: vestige power --difference 0.1 --sd 0.45 --icc 0.5"
        )
    if a.difference is not None:
        n = prompts_needed(a.difference, sd, icc, a.repeats, a.wanted)
        lines.append(f"A difference of {a.difference:g} with {a.wanted:.0%} power needs {n} prompts x {a.repeats} image(s).")
        each = {r: prompts_needed(a.difference, sd, icc, r, a.wanted) for r in REPEATS}
        lines.append("; ".join(f"{r} per prompt: {n} prompts, {n * r} images" for r, n in each.items()) + ".")
        lines.append("Power by prompts: " + ", ".join(f"{n}: {power_of(n, a.difference, sd, icc, a.repeats):.0%}" for n in PROMPTS) + ".")
    return "\n".join(lines)


def measured(a: argparse.Namespace, frame: pd.DataFrame, score_table: ScoreTable) -> tuple[float, float, float, int, int]:
    """(sd, icc, mean, prompts, images per prompt) of the paired difference of two methods, pooled over concepts."""
    metric, _, column = a.column.partition(".")
    cells = frame[(frame["split"] == a.split) & (frame["attack"] == a.attack) & (frame["metric"] == metric) & (frame["column"] == column)]
    differences, groups = [], []
    # Two methods meet only where everything but the method is the same.
    for place, part in cells.groupby([name for name in (*IDENTITY, "judge") if name != "method"], dropna=False):
        pair = [part[part["method"] == name].head(1) for name in (a.a, a.b)]
        if any(p.empty for p in pair):
            continue
        read = score_table.together(p[["score", "images", "column"]].iloc[0] for p in pair)
        if read is not None:
            asked, (ours, theirs) = read
            differences.append(ours - theirs)
            groups += [f"{place}/{g}" for g in asked.group]
    if not differences:
        known = ", ".join(sorted(frame["method"].unique()))
        raise ValueError(f"no concept has {a.a} and {a.b} on split {a.split} with {a.column} under {a.attack}. Methods: {known}.")
    values = np.concatenate(differences)
    sd, icc = sd_and_icc(values - np.repeat([d.mean() for d in differences], [len(d) for d in differences]), np.array(groups))
    if sd == 0:
        raise ValueError(f"{a.a} and {a.b} differ by the same amount on every image: there is no spread to plan with.")
    prompts = len(set(groups))
    return sd, icc, float(values.mean()), prompts, round(len(values) / prompts)
