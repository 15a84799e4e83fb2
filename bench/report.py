"""The leaderboard as text: methods down, measurements across, every value with its interval and number of pictures."""

import pandas as pd

from bench.results import order

CELL = ["probe", "metric", "column", "judge", "attack"]
LOW_IS_GOOD = ("target", "synonyms")


def table(frame: pd.DataFrame, format: str) -> str:
    """One section per model, sampler, kind and concept, so nothing is averaged over cells that some method lacks."""
    if format not in ("md", "csv"):
        raise ValueError(f"format={format!r} is not known. Allowed: md, csv.")
    if format == "csv":
        return frame.sort_values(["method", "concept", "key", *CELL], kind="stable").to_csv(index=False)
    groups = frame.groupby(["model", "sampler", "kind", "concept"], dropna=False, sort=True)
    return "\n".join(_section(names, part) for names, part in groups)


def _section(names: tuple, part: pd.DataFrame) -> str:
    model, sampler, kind, concept = names
    measured = part.dropna(subset=["metric"])
    columns = list(dict.fromkeys(measured[CELL].fillna("").sort_values(CELL).itertuples(index=False, name=None)))
    better = {tuple(row[:-1]): row[-1] for row in measured[[*CELL, "higher_is_better"]].fillna("").to_numpy().tolist()}
    heads = [f"{p} {m}.{c} {j} {_arrow(p, better[p, m, c, j, a])} ({a})" for p, m, c, j, a in columns]
    lines = [f"## {concept} ({kind})", "", f"Model {model}; sampler {sampler}; 95 % intervals, n pictures.", ""]
    lines += ["| " + " | ".join(["method", "seed", *heads, "erase s ↓"]) + " |", "|" + "---|" * (len(heads) + 3)]
    for method in order(part["method"].tolist()):
        for _, job in part[part["method"] == method].groupby("key", sort=True):
            first = job.iloc[0]
            cells = {tuple(row[:5]): row[5:] for row in job[[*CELL, "value", "ci_low", "ci_high", "n", "reason"]]
                     .astype(object).where(lambda f: f.notna(), "").to_numpy().tolist()}  # fmt: skip
            shown = [_value(*cells[c]) if c in cells else f"missing: {first['job_reason'] or 'not run'}" for c in columns]
            seconds = "" if pd.isna(first["erase_seconds"]) else f"{first['erase_seconds']:.1f}"
            name = method if first["status"] == "done" else f"{method} ({first['status']}: {first['job_reason']})"
            lines.append("| " + " | ".join(_plain(x) for x in [name, str(first["seed"]), *shown, seconds]) + " |")
    return "\n".join(lines) + "\n"


def _arrow(probe: str, higher_is_better: object) -> str:
    """Presence of the erased concept is a failure, whatever the metric says about pictures in general."""
    if higher_is_better == "":
        return ""
    return "↑" if higher_is_better and probe not in LOW_IS_GOOD else "↓"


def _value(value, low, high, n, reason) -> str:
    if value == "":
        return f"missing: {reason or 'not measured'}"
    interval = "" if low == "" else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{interval}" + ("" if n == "" else f" n={int(n)}")


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
