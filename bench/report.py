"""The leaderboard as text: methods down, questions across, every value with its interval, ranked by paired differences."""

from __future__ import annotations

import json

import pandas as pd

from bench.pictures import WORST
from bench.results import FIRST, order

CELL = ["probe", "metric", "column", "judge", "attack"]
LOW_IS_GOOD = ("target", "synonyms")  # probes on which presence of the concept is a failure
PROBES = ("target", "synonyms", "siblings", "others", "scenes", "background")
LEGEND = (
    "Share of pictures in which the judge sees what the prompt asks for, in percent. On target and synonyms low is erased (↓), elsewhere "
    "high is kept (↑). Brackets: 95 % interval, prompts resampled. ≈: not to be told from the original model on the same prompts and "
    "seeds. net: drop on target and synonyms minus drop on everything that should stay, in points, paired with the original; it ranks "
    "the methods. What an attack draws from the oracle, which never saw the concept, is the attack's own invention."
)


def table(frame: pd.DataFrame, format: str) -> str:
    """Markdown: per model and sampler an overall table, one table per concept, other measures, cost. CSV: every cell."""
    if format not in ("md", "csv"):
        raise ValueError(f"format={format!r} is not known. Allowed: md, csv.")
    if format == "csv":
        return frame.drop(columns=["images", "score"]).sort_values(["method", "concept", "key", *CELL], kind="stable").to_csv(index=False)
    parts = [_model(*names, part) for names, part in frame.groupby(["model", "sampler"], dropna=False, sort=True)]
    return "\n".join(parts).rstrip() + "\n"


def ranking(frame: pd.DataFrame) -> list[str]:
    """Original, oracle, then methods by their net score, best first; methods without one last, by name."""
    net = _net(frame).groupby("method")["net"].mean()
    return sorted(order(frame["method"].tolist()), key=lambda m: (FIRST.index(m) if m in FIRST else 9, -net.get(m, -999), m))


def _model(model: str, sampler: str, frame: pd.DataFrame) -> str:
    methods = ranking(frame)
    presence = frame[(frame["metric"] == "presence") & (frame["column"] == "present")]
    judges = ", ".join(sorted(presence["judge"].dropna().unique())) or "none"
    concepts = sorted(frame["concept"].unique())
    lines = [f"# Leaderboard: {model}", "", f"Sampler {_sampler(sampler)}; judge {judges}. {LEGEND}", ""]
    if len(concepts) > 1:
        lines += [f"## Mean over {len(concepts)} concepts: {', '.join(concepts)}", "", _overall(frame, presence, methods, concepts), ""]
    for (kind, concept), part in frame.groupby(["kind", "concept"], sort=True):
        lines += [f"## {concept} ({kind})", "", _presence(part, presence[presence["concept"] == concept], methods), ""]
        attacked = part[(part["metric"] == "presence") & (part["column"] == "present") & ~part["attack"].isin(["none", WORST])]
        if len(attacked):
            lines += [f"### {concept}: attacks", "", _attacks(attacked, methods), ""]
        others = part[part["metric"].notna() & (part["metric"] != "presence")]
        if len(others):
            lines += [f"### {concept}: other measures", "", _measures(others, methods), ""]
    lines += ["## Cost", "", "Measured where the run was made, so it differs from run to run.", "", _cost(frame, methods), ""]
    return "\n".join(lines)


def _sampler(text: str) -> str:
    s = json.loads(text or "null") or {}
    return f"{s.get('scheduler')} {s.get('steps')} steps, guidance {s.get('guidance')}" if s else "unknown"


def _columns(presence: pd.DataFrame) -> list[tuple[str, str]]:
    """(probe, attack) in reading order: plain probes, then the target under each attack, the worst case last."""
    found = set(presence[["probe", "attack"]].itertuples(index=False, name=None))

    def place(column: tuple[str, str]) -> tuple:
        probe, attack = column
        return attack != "none", attack == WORST, PROBES.index(probe) if probe in PROBES else len(PROBES), probe, attack

    return sorted(found, key=place)


def _head(column: tuple[str, str]) -> str:
    probe, attack = column
    arrow = "↓" if probe in LOW_IS_GOOD else "↑"
    return f"{probe} {arrow}" if attack == "none" else f"{'' if probe == 'target' else probe + ' '}{attack} {arrow}"


def _net(frame: pd.DataFrame) -> pd.DataFrame:
    """method, concept, net in points: mean paired drop on erased probes minus mean paired drop on kept ones, no attack."""
    cells = frame[(frame["metric"] == "presence") & (frame["column"] == "present") & (frame["attack"] == "none")].dropna(subset=["diff"])
    drop = -100 * cells["diff"].where(cells["probe"].isin(LOW_IS_GOOD), -cells["diff"])
    cells = cells.assign(drop=drop, erased=cells["probe"].isin(LOW_IS_GOOD))
    sides = cells.groupby(["method", "concept", "erased"])["drop"].mean().unstack("erased")
    return sides.reindex(columns=[False, True]).fillna(0.0).sum(axis=1).rename("net").reset_index()


def _overall(frame: pd.DataFrame, presence: pd.DataFrame, methods: list[str], concepts: list[str]) -> str:
    columns = _columns(presence)
    values = presence.groupby(["method", "probe", "attack", "concept"])["value"].mean()
    net = _net(frame).groupby("method")["net"]
    mechanisms = frame.groupby("method")["mechanism"].first()
    rows = []
    for method in methods:
        has_net = method in net.groups and len(net.get_group(method)) == len(concepts)
        cells = [_spread(values.get((method, *column)), len(concepts)) for column in columns]
        rows.append([method, str(mechanisms[method]), f"{net.get_group(method).mean():.0f}" if has_net else "", *cells])
    return _markdown(["method", "mechanism", "net ↑", *map(_head, columns)], rows)


def _spread(values: pd.Series | None, wanted: int) -> str:
    """Mean and range over concepts; never a mean over fewer concepts than the other rows have."""
    if values is None or values.notna().sum() == 0:
        return "n/a"
    if values.notna().sum() < wanted:
        return f"n/a ({values.notna().sum()} of {wanted})"
    return f"{100 * values.mean():.0f} ({100 * values.min():.0f}-{100 * values.max():.0f})"


def _presence(part: pd.DataFrame, presence: pd.DataFrame, methods: list[str]) -> str:
    columns = _columns(presence)
    net = _net(part).set_index("method")["net"]
    rows, footnotes = [], []
    for method, job in _jobs(part, methods):
        name = _name(part, method, job)
        cells = {(c.probe, c.attack): c for c in job[(job["metric"] == "presence") & (job["column"] == "present")].itertuples()}
        reasons = {(c.probe, c.attack): c.reason for c in job[job["metric"].isna() & job["probe"].notna()].itertuples()}
        shown = []
        for column in columns:
            shown.append(_share(cells[column], method) if column in cells else "n/a")
            if column in reasons:
                footnotes.append(f"{name}, {_head(column)}: {reasons[column]}")
        first = job.iloc[0]
        if first["status"] != "done":
            footnotes.append(f"{name}: {first['status']}: {first['job_reason']}")
        if first["limits"]:
            footnotes.append(f"{name}: {first['limits']}.")
        rows.append([name, f"{net[method]:.0f}" if method in net else "", *shown])
    counts = presence.groupby(["probe", "attack"])["n"].max()
    heads = [f"{_head(c)} n={int(counts[c])}" for c in columns]
    return "\n".join([_markdown(["method", "net ↑", *heads], rows), *[f"\n- {note}" for note in footnotes]])


def _share(cell, method: str) -> str:
    if pd.isna(cell.value):
        return "n/a"
    interval = "" if pd.isna(cell.ci_low) else f" [{100 * cell.ci_low:.0f}, {100 * cell.ci_high:.0f}]"
    same = method != "original" and cell.diff_low <= 0 <= cell.diff_high
    return f"{100 * cell.value:.0f}{interval}{' ≈' if same else ''}"


def _attacks(cells: pd.DataFrame, methods: list[str]) -> str:
    """Rates as the attack papers define them, beside what the same attack draws from the oracle."""
    invented = cells[cells["method"] == "oracle"].groupby(["attack", "probe"])["value"].mean()
    rows = []
    for method, job in _jobs(cells, methods):
        for cell in job.sort_values(["attack", "probe"]).itertuples():
            after = "" if pd.isna(cell.after_failing) else f"{100 * cell.after_failing:.0f} (of {int(cell.failed_before)})"
            oracle = invented.get((cell.attack, cell.probe), float("nan"))
            shares = [_percent(cell.before), _share(cell, "original"), _percent(cell.either), after or "n/a", _percent(oracle)]
            budget = "n/a" if pd.isna(cell.attack_unet_rows) else f"{int(cell.attack_unet_rows)}"
            rows.append([_name(cells, method, job), cell.attack, cell.access, *shares, budget])
    heads = ["before", "attacked", "either", "back, of those that failed before", "oracle attacked", "denoiser rows spent"]
    return _markdown(["method", "attack", "access", *heads], rows)


def _percent(value: float) -> str:
    return "n/a" if pd.isna(value) else f"{100 * value:.0f}"


def _measures(cells: pd.DataFrame, methods: list[str]) -> str:
    cells = cells[cells["attack"] == "none"]
    columns = list(dict.fromkeys(cells[CELL].fillna("").sort_values(CELL).itertuples(index=False, name=None)))
    better = {tuple(row[:-1]): row[-1] for row in cells[[*CELL, "higher_is_better"]].fillna("").to_numpy().tolist()}
    rows = []
    for method, job in _jobs(cells, methods):
        values = {tuple(row[:5]): row[5] for row in job[[*CELL, "value"]].fillna("").to_numpy().tolist()}
        rows.append([_name(cells, method, job), *(f"{values[c]:.3f}" if values.get(c, "") != "" else "n/a" for c in columns)])
    heads = [f"{probe} {metric}.{column} {_arrow(probe, better[probe, metric, column, *rest])}" for probe, metric, column, *rest in columns]
    return _markdown(["method", *heads], rows)


def _arrow(probe: str, higher_is_better) -> str:
    return "↑" if bool(higher_is_better) and probe not in LOW_IS_GOOD else "↓"


def _cost(frame: pd.DataFrame, methods: list[str]) -> str:
    """Mean over jobs. Drawing time counts against the original's in the same records."""
    jobs = frame.drop_duplicates("key").groupby("method")
    seconds = jobs["seconds_per_image"].mean()
    base = seconds.get("original")
    rows = []
    for method in methods:
        job = jobs.get_group(method)
        ratio = seconds[method] / base if base else float("nan")
        values = [(job["erase_seconds"].mean(), "{:.1f}"), (ratio, "{:.2f}"), (job["parameters_changed"].mean(), "{:.0f}")]
        values += [(job["artefact_bytes"].mean() / 1e6, "{:.2f}"), (job["erase_peak_bytes"].mean() / 1e6, "{:.0f}")]
        rows.append([method, *("n/a" if pd.isna(value) else form.format(value) for value, form in values)])
    heads = ["erasing, s ↓", "drawing time / original's ↓", "parameters changed", "artefact, MB", "more memory while erasing, MB"]
    return _markdown(["method", *heads], rows)


def _jobs(part: pd.DataFrame, methods: list[str]):
    for method in methods:
        for _, job in part[part["method"] == method].groupby("key", sort=True):
            yield method, job


def _name(part: pd.DataFrame, method: str, job: pd.DataFrame) -> str:
    seeds = part.loc[part["method"] == method, "seed"].nunique()
    return method if seeds == 1 else f"{method} (seed {job.iloc[0]['seed']})"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    clean = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in clean)])
