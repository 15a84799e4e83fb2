"""Records of finished jobs as one tidy table: one row per measured cell, compared with the original model picture by picture."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd

from bench.statistics import cluster_interval, paired_difference

FIRST = ("original", "oracle")
WORST = "worst case"
# What identifies a measurement, whichever method it was made on.
QUESTION = ["model", "sampler", "concept", "probe", "attack", "metric", "column", "judge"]
CELL = [
    *("probe", "attack", "access", "metric", "column", "judge", "value", "ci_low", "ci_high", "n", "groups"),
    *("higher_is_better", "images", "score", "reason"),
]
COST = ["erase_seconds", "erase_peak_bytes", "parameters_changed", "artefact_bytes", "seconds_per_image"]
NUMBERS = ["value", "ci_low", "ci_high", "n", "attack_unet_rows", *COST]
DIFFERENCE = ("diff", "diff_low", "diff_high")
RATES = ("before", "either", "failed_before", "after_failing")


def load(records: Path, store: Path | None = None) -> pd.DataFrame:
    """One row per cell; a job without cells (unsupported, failed) keeps one row that carries its reason.

    With a store, whose per-picture scores it reads, the frame also has the worst case over attacks; `diff`, `diff_low`,
    `diff_high`: the paired difference to the original model on the same prompts and seeds; and for attacked presence `before`
    (without attack), `either` (before or after: the field's post-ASR), `failed_before` (number of pictures) and
    `after_failing` (share of those that the attack brings back: the attackable ASR).
    """
    rows = []
    for file in sorted(Path(records).glob("*.json")):
        record = json.loads(file.read_text())
        job = {name: record.get(name) for name in ("key", "status", "model", "method", "mechanism", "kind", "seed", "limits")}
        job |= {"concept": "+".join(record["concepts"]), "sampler": json.dumps(record.get("sampler"), sort_keys=True)}
        job |= {"job_reason": record.get("reason")} | {name: (record.get("cost") or {}).get(name) for name in COST}
        rows += [job | {name: cell.get(name) for name in CELL} | _budget(cell) for cell in record["cells"] or [{}]]
    frame = pd.DataFrame(rows, columns=None if rows else ["key", "method", "concept", *CELL])
    for name in NUMBERS:
        if name in frame:
            frame[name] = pd.to_numeric(frame[name])
    if store is None or frame.empty:
        return frame.assign(**dict.fromkeys((*DIFFERENCE, *RATES), float("nan")))
    reader = _Pictures(Path(store))
    return _with_attack_rates(_compared(_with_worst_case(frame, reader), reader), reader)


def _budget(cell: dict) -> dict:
    """What the attack cost: denoiser evaluations times batch, for the whole prompt set."""
    return {"attack_unet_rows": (cell.get("budget") or {}).get("unet_rows")}


def order(methods: list[str]) -> list[str]:
    """The original model first, the oracle second, the rest by name."""
    return sorted(set(methods), key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


class _Pictures:
    """Per-picture values of measured cells, read once each: a frame with row_id, rep, group and one column per value."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._read = cache(self._read_files)

    def values(self, cell) -> pd.DataFrame | None:
        """row_id, rep, group, value of one cell; None for metrics of whole sets and scores that are gone."""
        if not isinstance(cell.score, str) or not isinstance(cell.images, str):
            return None
        table = self._read(cell.score, cell.images)
        if table is None or cell.column not in table:
            return None
        return table[["row_id", "rep", "group"]].assign(value=table[cell.column].astype(float))

    def _read_files(self, score: str, images: str) -> pd.DataFrame | None:
        scored, index = self.store / score / "per_image.csv", self.store / images / "index.csv"
        if not (scored.exists() and index.exists()):
            return None
        groups = pd.read_csv(index, dtype=str, keep_default_na=False)[["row_id", "rep", "group"]].astype({"rep": int})
        return pd.read_csv(scored, dtype={"row_id": str}).merge(groups, on=["row_id", "rep"])


def _with_worst_case(frame: pd.DataFrame, pictures: _Pictures) -> pd.DataFrame:
    """For each picture of the target probe, the highest presence under any attack (the rule of AutoAttack)."""
    target = frame[(frame["probe"] == "target") & (frame["metric"] == "presence") & (frame["column"] == "present")]
    added = []
    for _, cells in target.groupby("key", sort=False):
        tables = [pictures.values(cell) for cell in cells.itertuples()]
        if len(cells) < 2 or any(table is None for table in tables):
            continue
        worst = pd.concat(tables).groupby(["row_id", "rep", "group"], as_index=False)["value"].max()
        low, high = cluster_interval(worst["value"].to_numpy(), worst["group"].to_numpy())
        means = worst.groupby("group")["value"].mean()
        row = cells.iloc[0].to_dict() | {"attack": WORST, "access": WORST, "value": means.mean(), "ci_low": low, "ci_high": high}
        added.append(row | {"n": len(worst), "groups": len(means), "images": None, "score": None, "reason": None})
    return pd.concat([frame, pd.DataFrame(added)], ignore_index=True) if added else frame


def _compared(frame: pd.DataFrame, pictures: _Pictures) -> pd.DataFrame:
    base = {}
    for cell in frame[(frame["method"] == "original") & frame["metric"].notna()].itertuples():
        base.setdefault(_question(cell), cell)
    differences = [_difference(cell, base.get(_question(cell)), pictures) for cell in frame.itertuples()]
    return frame.assign(**{name: [d[k] for d in differences] for k, name in enumerate(DIFFERENCE)})


def _with_attack_rates(frame: pd.DataFrame, pictures: _Pictures) -> pd.DataFrame:
    shown = frame[(frame["metric"] == "presence") & (frame["column"] == "present")]
    plain = {(cell.key, cell.probe): cell for cell in shown[shown["attack"] == "none"].itertuples()}
    rates = {name: [float("nan")] * len(frame) for name in RATES}
    for cell in shown[~shown["attack"].isin(["none", WORST])].itertuples():
        if (cell.key, cell.probe) not in plain:
            continue
        before, after = pictures.values(plain[cell.key, cell.probe]), pictures.values(cell)
        if before is None or after is None:
            continue
        both = before.merge(after, on=["row_id", "rep", "group"], suffixes=("", "_after"))
        failed = both[both["value"] == 0]["value_after"]
        found = (both["value"].mean(), both[["value", "value_after"]].max(axis=1).mean(), len(failed), failed.mean())
        for name, value in zip(RATES, found, strict=True):
            rates[name][frame.index.get_loc(cell.Index)] = value
    return frame.assign(**rates)


def _difference(cell, original, pictures: _Pictures) -> tuple[float, float, float]:
    nothing = (float("nan"),) * 3
    if original is None or not isinstance(cell.metric, str):
        return nothing
    ours, theirs = pictures.values(cell), pictures.values(original)
    if ours is None or theirs is None:
        return nothing
    both = ours.merge(theirs, on=["row_id", "rep", "group"], suffixes=("", "_original"))
    if len(both) != len(ours):
        return nothing
    return paired_difference(both["value"].to_numpy(), both["value_original"].to_numpy(), both["group"].to_numpy())


def _question(cell) -> tuple:
    return tuple(str(getattr(cell, name)) for name in QUESTION)
