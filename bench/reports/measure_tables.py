"""Tables of other measures: what metrics beside the judges' answers say, published composite scores, and cost."""

from __future__ import annotations

import pandas as pd

from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.composite_catalogue import CATALOGUE
from vestige.bench.reports.job_rows import jobs_of
from vestige.bench.reports.render import Block, Cell, Row, Table, lost
from vestige.bench.reports.results import higher_is_better

COSTS = {  # column of the frame -> (head, format, divided by)
    "erase_forward_rows": ("erasing, denoiser rows ↓", "{:.0f}", 1),
    "erase_cpu_seconds": ("erasing, CPU s ↓", "{:.1f}", 1),
    "erase_device_seconds": ("erasing, device s ↓", "{:.1f}", 1),
    "erase_seconds": ("erasing, wall s ↓", "{:.1f}", 1),
    "load": ("load of the machine", "{:.1f}", 1),
    "drawing_rows": ("drawing rows / original's ↓", "{:.2f}", 1),
    "drawing_time": ("drawing wall time / original's ↓", "{:.2f}", 1),
    "parameters_changed": ("parameters changed", "{:.0f}", 1),
    "artefact_bytes": ("artefact, MB", "{:.2f}", 1e6),
    "erase_peak_bytes": ("memory while erasing, MB", "{:.0f}", 1e6),
}


def measures(cells: pd.DataFrame, methods: list[str]) -> Table:
    cells = cells[cells["attack"] == "none"]
    better = {_measure(c): c.higher_is_better for c in cells.itertuples(index=False)}
    asked = {measure[:3]: 0 for measure in better}
    for measure in better:
        asked[measure[:3]] += 1
    rows: list[Row] = []
    for _, name, job in jobs_of(cells, methods):
        found = {_measure(c): c for c in job if not lost(c.value)}
        values = [_with_interval(found[m]) if m in found else Cell("n/a") for m in sorted(better)]
        rows.append([name, *values])
    heads = [
        f"{split} {metric}.{column} {'↑' if higher_is_better(split, column, better[m]) else '↓'}"
        + (f" ({judge})" if asked[m[:3]] > 1 else "")
        for m in sorted(better)
        for split, metric, column, judge in [m]
    ]
    bounded = {_measure(c) for c in cells.itertuples(index=False) if not lost(c.ci_low)}
    bare = [f"{metric}.{column}" for split, metric, column, judge in sorted(better) if (split, metric, column, judge) not in bounded]
    return Table(["method", *heads], rows, [f"No interval: {', '.join(dict.fromkeys(bare))} (docs/metrics.md says why)."] if bare else [])


def _with_interval(cell) -> Cell:
    bounds = "" if lost(cell.ci_low) else f" [{cell.ci_low:.3f}, {cell.ci_high:.3f}]"
    return Cell(f"{cell.value:.3f}{bounds}", cell.value, bool(cell.leads))


def _measure(cell) -> tuple[str, str, str, str]:
    return cell.split, cell.metric, cell.column, cell.judge if isinstance(cell.judge, str) else ""


def composites(aggregate_scores: AggregateScores, methods: list[str]) -> list[Block]:
    """Fractions, per concept first and then averaged; a composite whose parts were not measured says which."""
    found = aggregate_scores.table()
    found = found[(found["concept"] == "all") | (len(aggregate_scores.concepts) == 1)] if len(found) else found
    shown = [c for c in CATALOGUE if c.name in set(found.loc[found["value"].notna(), "composite"])]
    values = {(r.composite, r.method): r for r in found.itertuples()}

    def show(name: str, method: str) -> Cell:
        r = values[name, method]
        return Cell("n/a") if lost(r.value) else Cell(f"{r.value:.3f} [{r.ci_low:.3f}, {r.ci_high:.3f}]", r.value)

    rows: list[Row] = [[method, *(show(c.name, method) for c in shown)] for method in methods]
    arrows = [f"{c.name} {'↑' if c.higher_is_better else '↓'}" for c in shown]
    notes = [f"{c.name}: {c.source}; mean of {int(values[c.name, methods[0]].concepts)} concept(s)." for c in shown]
    missing = found[found["value"].isna()].drop_duplicates("composite")
    missing = missing[~missing["composite"].isin([c.name for c in shown])]
    notes += [f"{', '.join(same['composite'])}: not measured: {reason}." for reason, same in missing.groupby("reason", sort=False)]
    return [
        "Aggregate scores of papers, from the stored scores per image: per concept first, then averaged.",
        Table(["method", *arrows], rows, notes),
    ]


def cost(frame: pd.DataFrame, methods: list[str]) -> Table:
    """Mean over jobs of what the records have. Rows are evaluations of the denoiser times batch: they depend on no machine, and
    drawing counts against the original's in the same records."""
    jobs = frame.drop_duplicates("key").groupby("method")
    means = jobs[[name for name in (*COSTS, "rows_per_image", "seconds_per_image") if name in frame]].mean()
    for made, name in (("drawing_rows", "rows_per_image"), ("drawing_time", "seconds_per_image")):
        base = means[name].get("original") if name in means else None
        means[made] = means[name] / base if not lost(base) and base else float("nan")
    shown = [name for name in COSTS if name in means and means[name].notna().any()]
    rows: list[Row] = []
    means = means[shown].to_dict("index")
    for method in methods:
        values = [(means[method][name] / COSTS[name][2], COSTS[name][1]) for name in shown]
        rows.append([method, *(Cell("n/a" if lost(value) else form.format(value), value) for value, form in values)])
    return Table(["method", *(COSTS[name][0] for name in shown)], rows)
