"""The main table: one row per method, at most twelve columns, of one concept or as the mean over several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from vestige.bench.reports.aggregates import Missing
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.render import Cell, Row, Table, lost
from vestige.bench.reports.results import present
from vestige.bench.reports.roles import ERASED_ROLES, roles_of
from vestige.bench.reports.score_table import WORST
from vestige.bench.statistics.headline import FEW_THINGS, Estimate

NO = Cell("n/a")
SPLITS = ("captions", "others", "siblings", "scenes", "background")  # where quality is read, the first that was measured
METRICS = ("clip_score", "fid_real", "fid", "fid_kept", "fid_inf")
NEEDED = [
    "method",
    "concept",
    "key",
    "intervention",
    "seeds",
    "collapsed",
    "held_out",
    "split",
    "role",
    "attack",
    "metric",
    "column",
    "judge",
]
NEEDED += ["value", "n", "score", "erase_seconds", "erase_forward_rows"]
LEGEND = (
    "In percent, [95 % interval]; per concept first, then averaged. erased: from 0 (rate of the original model) to 100 (rate of the "
    "oracle; without an oracle: never seen), the mean over target, synonyms and leak (the concept next to another thing). kept: share of "
    "the original's rate that is left on what should stay (held out: names that the method was not given). score: harmonic mean of "
    "erased and kept, 0 for a collapsed model (†). to oracle: paired difference of the scores. worst case: share of target images that "
    "show the concept without attack or under any attack that was run on all methods (number of attacks in brackets); not in the score. "
    "prompts: the smallest number of distinct prompts in a part of erased / number of kept things. Bold: better than every other method "
    "by a paired interval without zero."
)


def table(frame: pd.DataFrame, scores: Headlines | None, methods: list[str], best: str | None = None) -> Table:
    """frame: one job per method and concept (bench/reports/erasure_seeds.py); methods: in order; best: the one that leads alone."""
    frame = frame[[name for name in NEEDED if name in frame]]  # of some seventy columns: filters copy them all
    concepts = sorted(frame["concept"].unique())
    quality, notes = _quality(frame)
    columns = {
        **_scored(scores, methods, concepts, best, "kept (held out) ↑" if frame["held_out"].all() else "kept ↑"),
        "leak ↓": _share(_leaks(frame), methods, concepts),
        **{head: _number(cells, methods, concepts) for head, cells in quality.items()},
        "worst case ↓": _worst(frame, scores, methods, concepts),
        **_cost(frame, methods),
        "prompts": _prompts(scores, methods, concepts),
    }
    # What nobody measured has no column; the score always has one, with the reason below.
    columns = {head: cells for head, cells in columns.items() if cells or head == "score ↑"}
    labels, intervention = names(frame), frame.groupby("method")["intervention"].first().to_dict()
    broken = set(frame.dropna(subset=["collapsed"])["method"])
    rows: list[Row] = []
    for m in sorted(methods, key=broken.__contains__):
        rows.append([labels[m] + "†" * (m in broken), str(intervention[m]), *(column.get(m, NO) for column in columns.values())])
    return Table(["method", "intervention", *columns], rows, [*_no_score(scores, concepts), *_few_things(scores, concepts), *notes])


def names(frame: pd.DataFrame) -> dict[str, str]:
    """Method -> its name in a table, with the number of erasure seeds where there are several (1-3: not on every concept as many)."""
    if "seeds" not in frame:
        return {method: method for method in frame["method"].unique()}
    seeds = frame.groupby("method")["seeds"].agg(["min", "max"]).itertuples()
    return {method: method if n == 1 else f"{method} ({n if n == least else f'{least}-{n}'} seeds)" for method, least, n in seeds}


def _scored(scores: Headlines | None, methods: list[str], concepts: list[str], best: str | None, kept: str) -> dict:
    """kept: the head of what should stay."""
    found: dict[str, dict[str, Cell]] = {head: {} for head in ("score ↑", "to oracle ↑", "erased ↑", kept)}
    if scores is None:
        return found
    for method in methods:
        asked = [c for c in concepts if c in scores.concepts]
        try:
            mine = scores.mean(method, asked)
        except Missing:
            measured = sum(_has(scores, method, c) for c in asked)
            found["score ↑"][method] = Cell(f"n/a ({measured} of {len(asked)})") if measured else NO
            continue
        found["score ↑"][method] = estimate(mine.score, best=method == best)
        found["erased ↑"][method], found[kept][method] = estimate(mine.erased), estimate(mine.kept)
        if method not in ("oracle", "original"):
            try:
                found["to oracle ↑"][method] = estimate(scores.difference(method, "oracle", asked))
            except Missing:
                continue
    if found["to oracle ↑"]:
        found["to oracle ↑"] |= dict.fromkeys(("original", "oracle"), Cell(""))
    return found


def _has(scores: Headlines, method: str, concept: str) -> bool:
    try:
        scores.of(method, concept)
    except Missing:
        return False
    return True


def estimate(found: Estimate, best: bool = False) -> Cell:
    """In percent, with its interval."""
    if lost(found.value):
        return NO
    value, low, high = (None if lost(x) else round(100 * x) for x in found)  # whole numbers know no -0
    return Cell(f"{value}" if low is None else f"{value} [{low}, {high}]", found.value, best)


def _no_score(scores: Headlines | None, concepts: list[str]) -> list[str]:
    if scores is None:
        return []
    unsupported_reason = {concept: why.removeprefix("no score: ") for concept, why in scores.unsupported_reason.items()}
    found = [f"No score on {concept}: {unsupported_reason[concept]}." for concept in concepts if concept in unsupported_reason]
    for concept in (c for c in concepts if c not in scores.unsupported_reason):
        found += [f"{concept}: {part} is no part of the score: {why}." for part, why in scores.of("original", concept).left_out.items()]
    return found


def _few_things(scores: Headlines | None, concepts: list[str]) -> list[str]:
    if scores is None:
        return []
    things = {c: scores.of("original", c).things for c in concepts if c in scores.concepts}
    few = [f"{concept} {n}" for concept, n in things.items() if n < FEW_THINGS]
    return [f"kept rests on fewer than {FEW_THINGS} things ({', '.join(few)}): its interval is about these things only."] if few else []


def _prompts(scores: Headlines | None, methods: list[str], concepts: list[str]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    if scores is None:
        return found
    for method in methods:
        try:
            each = [scores.of(method, c) for c in concepts if c in scores.concepts]
        except Missing:
            continue
        if each:
            units, things = min(h.units for h in each), min(h.things for h in each)
            found[method] = Cell(f"{units} / {things}", units)
    return found


@dataclass(frozen=True)
class Values:
    """One value per method and concept, of one question, by one judge; `several` judges are never averaged."""

    by_method: dict[str, dict[str, float]]
    several: bool = False


def _values(cells: pd.DataFrame) -> Values:
    found: dict[str, dict[str, float]] = {}
    for method, concept, value in cells.groupby(["method", "concept"])["value"].mean().reset_index().itertuples(index=False):
        found.setdefault(method, {})[concept] = value
    return Values(found, cells["judge"].nunique() > 1)


def _mean(values: Values, method: str, concepts: list[str]) -> float | None:
    """Over the concepts on which any method has a value; None where this one lacks some."""
    wanted = [c for c in concepts if any(c in mine and not lost(mine[c]) for mine in values.by_method.values())]
    mine = [values.by_method.get(method, {}).get(c, np.nan) for c in wanted]
    return None if not mine or values.several or any(map(lost, mine)) else float(np.mean(mine))


def _share(values: Values, methods: list[str], concepts: list[str]) -> dict[str, Cell]:
    means = {m: _mean(values, m, concepts) for m in methods}
    return {m: Cell(f"{100 * x:.0f}", x) for m, x in means.items() if x is not None}


def _number(values: Values, methods: list[str], concepts: list[str]) -> dict[str, Cell]:
    means = {m: _mean(values, m, concepts) for m in methods}
    return {m: Cell("0" if abs(x) < 1e-6 else f"{x:.3g}", x) for m, x in means.items() if x is not None}


def _leaks(frame: pd.DataFrame) -> Values:
    scenes = frame["split"].map(roles_of(frame)).eq("scene")
    return _values(_first_judges(frame[scenes & (frame["column"] == "seen") & (frame["attack"] == "none")]))


def _worst(frame: pd.DataFrame, scores: Headlines | None, methods: list[str], concepts: list[str]) -> dict[str, Cell]:
    cells = _first_judges(present(frame[frame["attack"] == WORST]))
    found = _share(_values(cells), methods, concepts)
    attacks: dict[str, set[str]] = {}
    if scores is not None:
        for cell in cells[["method", "score"]].itertuples():
            attacks.setdefault(cell.method, set()).update(scores.aggregate_scores.score_table.attacks_of(cell.score) - {"none"})
    return {m: Cell(f"{cell.text} ({len(attacks[m])})" if attacks.get(m) else cell.text, cell.value) for m, cell in found.items()}


def _first_judges(cells: pd.DataFrame) -> pd.DataFrame:
    """If a concept has several judges, the one with most cells."""
    if cells.empty:
        return cells
    chosen = cells.groupby("concept")["judge"].agg(lambda judges: next(iter(judges.mode()), None)).to_dict()
    return cells[[judge == chosen[concept] or lost(judge) for judge, concept in zip(cells["judge"], cells["concept"], strict=True)]]


def _quality(frame: pd.DataFrame) -> tuple[dict[str, Values], list[str]]:
    """CLIP and FID of one split each, the same for all methods, and where they were read."""
    plain = frame[(frame["attack"] == "none") & ~frame["split"].map(roles_of(frame)).isin(ERASED_ROLES) & frame["value"].notna()]
    fid = plain[plain["column"].fillna("").str.startswith("fid")]
    found, notes = {}, []
    for head, cells in (("CLIP ↑", plain[plain["column"] == "clip_cos"]), ("FID", fid)):
        own = sorted(set(cells[["split", "metric", "column"]].itertuples(index=False, name=None)), key=_preference)
        if not own:
            found["FID ↓" if head == "FID" else head] = _values(cells)
            continue
        split, metric, column = own[0]
        cells = cells[(cells["split"] == split) & (cells["metric"] == metric) & (cells["column"] == column)]
        n = int(cells["n"].max())
        if head == "FID":
            head = f"FID{' to original' if '_original' in column else ''} ↓ n={n}"
        found[head] = _values(cells)
        notes.append(f"{head.split()[0]}: {metric}.{column} on {split}, {n} images.")
    return found, notes


def _preference(question: tuple[str, str, str]) -> tuple:
    split, metric, column = question
    return "_original" in column, _place(SPLITS, split), _place(METRICS, metric), question


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _cost(frame: pd.DataFrame, methods: list[str]) -> dict[str, dict[str, Cell]]:
    """Of one erasure: denoiser rows where the records count them, else seconds."""
    rows = frame["erase_forward_rows"].notna().any() if "erase_forward_rows" in frame else False
    name, head = ("erase_forward_rows", "erasing, rows ↓") if rows else ("erase_seconds", "erasing, s ↓")
    means = frame.drop_duplicates("key").groupby("method")[name].mean().to_dict()
    return {head: {m: Cell(f"{means[m]:.0f}" if rows else f"{means[m]:.1f}", means[m]) for m in methods if not lost(means.get(m))}}
