"""What stored scores say about the judges: do two judges agree, and how much of a rate is the error of a judge?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from vestige.bench.reports.results import present
from vestige.bench.reports.score_table import ScoreTable
from vestige.bench.statistics.agreement import cohen_kappa, rogan_gladen

FOREIGN = ("others", "siblings")  # splits whose images must not show the concept


def agreement(frame: pd.DataFrame, score_table: ScoreTable) -> pd.DataFrame:
    """One row per pair of judges that answered the same images: n, agreement (share of equal answers), kappa.

    frame: from results.load. Their answers are the stored presence scores, over all methods, concepts and splits.
    """
    answers: dict[str, dict[str, np.ndarray]] = {}
    shown = present(frame)
    for cell in shown.itertuples(index=False) if shown["judge"].nunique() > 1 else ():
        found = score_table.values(cell.score, cell.images, cell.column)
        if found is not None and isinstance(cell.images, str) and isinstance(cell.judge, str):
            answers.setdefault(cell.judge, {})[cell.images] = found[1]
    rows = []
    for one, two in combinations(sorted(answers), 2):
        shared = sorted(answers[one].keys() & answers[two].keys())
        if shared:
            a, b = (np.concatenate([answers[judge][images] for images in shared]) for judge in (one, two))
            rows.append({"judge": one, "other": two, "n": len(a), "agreement": float((a == b).mean()), "kappa": cohen_kappa(a, b)})
    return pd.DataFrame(rows, columns=["judge", "other", "n", "agreement", "kappa"])


def corrected_presence(frame: pd.DataFrame) -> pd.DataFrame:
    """Presence on the target split with the judge's own errors taken out: concept, judge, method, raw, corrected, and both rates.

    The judge is calibrated on the ORIGINAL model: sensitivity is its share of yes on the target split, taken as if all those
    images showed the concept (what the original fails to draw is counted as the judge's miss: the corrected share is one of
    the original's own); 1 - specificity is how often it sees the concept in the original's images of other things (the
    column `seen` of the metric answers). Concepts without both cells are left out.
    """
    plain = frame[frame["attack"] == "none"]
    target = present(plain[plain["role"] == "target"])
    seen = plain[(plain["column"] == "seen") & plain["split"].isin(FOREIGN) & (plain["method"] == "original")]
    rows = []
    names = ["model", "sampler", "protocol", "concept", "judge"]
    for place, cells in target.groupby(names, sort=True):
        model, sampler, _, concept, judge = place
        base = cells[cells["method"] == "original"]["value"]
        here = (seen[names] == place).all(axis=1)
        if base.empty or not here.any():
            continue
        sensitivity, specificity = float(base.mean()), 1 - float(seen[here]["value"].mean())
        if sensitivity + specificity <= 1:
            continue
        for method, raw in cells.groupby("method")["value"].mean().items():
            fixed = rogan_gladen(float(raw), sensitivity, specificity)
            head = {"model": model, "sampler": sampler, "concept": concept, "judge": judge, "method": method, "raw": float(raw)}
            rows.append(head | {"corrected": fixed, "sensitivity": sensitivity, "specificity": specificity})
    return pd.DataFrame(rows)
