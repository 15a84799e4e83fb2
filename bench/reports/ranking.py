"""Who leads on the headline score, and how sure is that: intervals, ranks under resampling, groups, tests, the Pareto front."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vestige.bench.reports.aggregates import Missing
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.results import REFERENCES
from vestige.bench.statistics.headline import Headline
from vestige.bench.statistics.permutation import holm
from vestige.bench.statistics.ranks import letters, pareto, rank_distribution
from vestige.bench.statistics.resampling import LEVEL


def ranking_of(scores: Headlines) -> pd.DataFrame:
    """One row per method with a score on every concept that has one, best first; collapsed methods after all others.

    Columns: value, ci_low, ci_high; group (no significant difference between methods that share a letter); median_rank, rank_low,
    rank_high (90 %), p_best; behind, behind_low, behind_high (paired difference to the leader), p (sign flips), p_holm;
    collapsed.
    """
    concepts = scores.concepts
    found = measured(scores, [m for m in scores.aggregate_scores.methods if m not in REFERENCES], concepts)
    if not found:
        return pd.DataFrame()
    broken = collapsed(scores)
    names = sorted(found, key=lambda m: (m in broken, -found[m].score.value, m))
    fit = [m for m in names if m not in broken]
    stack = np.stack([found[m].draws["score"] for m in names], axis=1)
    table = pd.DataFrame(index=names, columns=["median_rank", "rank_low", "rank_high", "p_best"], dtype=float)
    if fit:
        table.loc[fit] = rank_distribution(stack[:, : len(fit)], fit)
    table[["value", "ci_low", "ci_high"]] = [tuple(found[m].score) for m in names]
    table["group"] = [*letters(_apart([found[m] for m in fit])), *[""] * (len(names) - len(fit))]
    table[["behind", "behind_low", "behind_high"]] = [(0.0, 0.0, 0.0), *(scores.difference(m, names[0], concepts) for m in names[1:])]
    table["p"] = [np.nan, *(np.nan if m in broken else scores.p_difference(m, names[0], concepts) for m in names[1:])]
    table["p_holm"] = holm(table["p"].to_numpy())
    return table.assign(collapsed=[broken.get(m) for m in names]).rename_axis("method")


def pareto_front(scores: Headlines) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Erased against kept. (per method: erased, kept, on_front, p_front, collapsed; draws (resamples, 2)).

    Original and oracle are shown, never counted: the front is among methods whose model still works. p_front: share of
    resamples in which the method is not dominated.
    """
    found = measured(scores, scores.aggregate_scores.methods, scores.concepts)
    draws = {m: np.stack([h.draws["erased"], h.draws["kept"]], axis=1) for m, h in found.items()}
    points = {m: (h.erased.value, h.kept.value) for m, h in found.items()}
    table = pd.DataFrame.from_dict(points, orient="index", columns=["erased", "kept"]).rename_axis("method")
    broken = collapsed(scores)
    table["collapsed"] = [broken.get(m) for m in table.index]
    rivals = [m for m in table.index if m not in REFERENCES and m not in broken]
    table["on_front"], table["p_front"] = False, np.nan
    if rivals:
        table.loc[rivals, "on_front"] = pareto(table.loc[rivals, ["erased", "kept"]].to_numpy())
        table.loc[rivals, "p_front"] = pareto(np.stack([draws[m] for m in rivals], axis=1)).mean(0)
    return table, draws


def measured(scores: Headlines, methods: list[str], concepts: list[str]) -> dict[str, Headline]:
    """Method -> its score over the concepts, of methods that have one on each."""
    found = {}
    for method in methods if concepts else []:
        try:
            found[method] = scores.mean(method, concepts)
        except Missing:
            continue
    return found


def collapsed(scores: Headlines) -> dict[str, str]:
    """Method -> why its numbers on some concept come from a broken model."""
    frame = scores.aggregate_scores.frame
    return frame.dropna(subset=["collapsed"]).groupby("method")["collapsed"].first().to_dict()


def _apart(found: list[Headline]) -> np.ndarray:
    """(methods, methods) bool: the interval of the paired difference of scores leaves out zero, as `headline.difference` says, for all
    pairs of a method at once."""
    apart = np.zeros((len(found),) * 2, bool)
    if not found:
        return apart
    values, ends = (np.array([[*h.score] for h in found]).reshape(-1, 3).T[k] for k in (0, slice(1, 3)))
    lower, upper = (np.stack([h.bounds["score"][side] for h in found], axis=1) for side in range(2))
    for k in range(len(found) - 1):
        low = np.quantile(lower[:, [k]] - upper[:, k + 1 :], (1 - LEVEL) / 2, axis=0)
        high = np.quantile(upper[:, [k]] - lower[:, k + 1 :], (1 + LEVEL) / 2, axis=0)
        gap = values[k] - values[k + 1 :]
        low, high = np.maximum(low, ends[0, k] - ends[1, k + 1 :]), np.minimum(high, ends[1, k] - ends[0, k + 1 :])
        apart[k, k + 1 :] = apart[k + 1 :, k] = (np.minimum(low, gap) > 0) | (np.maximum(high, gap) < 0)
    return apart
