"""Jobs that differ in nothing but the erasure seed are one row: its value is the mean over seeds, its interval holds their spread."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vestige.bench.reports.results import IDENTITY, QUESTION
from vestige.bench.reports.score_table import WORST, ScoreTable
from vestige.bench.statistics.intervals import seeds_interval, yes_or_no

BOUNDS = ["ci_low", "ci_high", "diff_low", "diff_high"]
FIRST = ("seed", "key", "n", "groups", "sweep_at")  # of numbers, those that are not averaged


def merged(frame: pd.DataFrame, score_table: ScoreTable | None) -> pd.DataFrame:
    """One job per method and concept, with the number of its `seeds`; a job whose cells come from several commands is one too.

    Each question keeps one cell, the mean over erasure seeds. Without `images` the mean of several has no interval.
    """
    done = frame[frame["status"] == "done"]
    seeds = done.groupby(IDENTITY, dropna=False)["seed"].nunique()
    owner = frame.groupby(IDENTITY, dropna=False)["key"].transform("first")
    count = frame[IDENTITY].merge(seeds.rename("seeds").reset_index(), on=IDENTITY, how="left")["seeds"].fillna(1).astype(int).to_numpy()
    frame = frame.assign(seeds=count)
    asked = frame["metric"].notna() & frame.duplicated(["method", *QUESTION], keep=False)
    if not asked.any():
        return frame.assign(key=owner)
    alone = frame[~asked]
    rows = []
    for _, cells in frame[asked].groupby(["method", *QUESTION], dropna=False, sort=False):
        cells = cells.drop_duplicates("seed")
        rows.append(cells.iloc[0] if len(cells) == 1 else _mean(cells, frame, score_table))
    together = pd.DataFrame(rows).astype(frame.dtypes.to_dict())
    whole = pd.concat([alone, together]).sort_index(kind="stable")
    return whole.assign(key=owner.loc[whole.index])


def _mean(cells: pd.DataFrame, frame: pd.DataFrame, score_table: ScoreTable | None) -> pd.Series:
    row = cells.iloc[0].copy()
    numbers = [name for name in cells.select_dtypes("number") if name not in (*FIRST, *BOUNDS, "seeds")]
    row[numbers] = cells[numbers].mean()
    row[BOUNDS] = np.nan
    row["leads"] = bool(cells["leads"].all())
    row["cell_flags"] = ",".join(dict.fromkeys(flag for text in cells["cell_flags"].fillna("") for flag in text.split(",") if flag))
    answers = _answers(cells, score_table)
    if answers is None:
        return row
    means, rate, repeats = answers
    row["value"], row["ci_low"], row["ci_high"] = seeds_interval(means, rate)
    base = frame[(frame["method"] == "original") & (frame[QUESTION] == row[QUESTION]).all(axis=1)]
    theirs = None if row["attack"] == WORST else _answers(base.iloc[:1], score_table)
    if theirs is not None and theirs[0].shape[1] == means.shape[1]:
        row["diff"], row["diff_low"], row["diff_high"] = seeds_interval(means - theirs[0], rate, True, repeats)
    return row


def _answers(cells: pd.DataFrame, score_table: ScoreTable | None) -> tuple[np.ndarray, bool, float] | None:
    """((seeds, prompts) means, whether they are of yes and no, images per prompt); None of measures of whole sets, and where the
    seeds were asked different prompts."""
    read = score_table.together((c.score, c.images, c.column) for c in cells.itertuples()) if score_table else None
    if read is None or any(values.dtype == object for values in read[1]):
        return None
    asked, values = read[0], np.stack(read[1])
    means = np.stack([asked.means(each) for each in values])
    whole = ~np.isnan(means).any(0)
    return (means[:, whole], yes_or_no(values), values.shape[1] / asked.groups) if whole.any() else None
