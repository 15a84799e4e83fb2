"""Who leads on one composite, and how sure is that: intervals, ranks under resampling, groups, tests, the Pareto set."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.reports.composites import ERASURE, NET, PRESERVATION, Composite
from bench.reports.results import REFERENCES
from bench.reports.views import Missing, Views
from bench.statistics.permutation import holm
from bench.statistics.ranks import differs, letters, pareto, rank_distribution
from bench.statistics.resampling import interval


def standing(views: Views, composite: Composite = NET) -> pd.DataFrame:
    """One row per method measured on every concept, best first; collapsed methods after all others.

    Columns: value, ci_low, ci_high; group (methods that share a letter cannot be told apart); median_rank, rank_low, rank_high
    (90 %), p_best; behind, behind_low, behind_high (paired difference to the leader), p (sign flips), p_holm; collapsed.
    """
    concepts = views.defined(composite)
    points, draws = measured(views, [composite], [m for m in views.methods if m not in REFERENCES])
    broken = views.frame.dropna(subset=["collapsed"]).groupby("method")["collapsed"].first()
    sign = 1.0 if composite.higher_is_better else -1.0
    names = sorted(points, key=lambda m: (m in broken.index, -sign * points[m][0], m))
    if not names:
        return pd.DataFrame()
    n = views.units(composite, concepts)
    stack = sign * np.stack([draws[m][:, 0] for m in names], axis=1)
    fit = [m not in broken.index for m in names]
    table = rank_distribution(stack[:, fit], [m for m in names if m not in broken.index]).reindex(names)
    low, high = interval(sign * stack, n)
    table = table.assign(value=[points[m][0] for m in names], ci_low=low, ci_high=high)
    table["group"] = [*letters(differs(stack[:, fit], n)), *[""] * (len(names) - sum(fit))]
    gap = sign * (stack - stack[:, [0]])
    low, high = interval(gap, n)
    p = np.array([np.nan, *(views.p_difference(composite, m, names[0], concepts) for m in names[1:])])
    table = table.assign(behind=table["value"] - table["value"].iloc[0], behind_low=low, behind_high=high, p=p, p_holm=holm(p))
    return table.assign(collapsed=[broken.get(m) for m in names]).rename_axis("method")


def plane(views: Views) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Erasure against preservation. (per method: erasure, preservation, on_front, p_front, collapsed; draws (resamples, 2)).

    Original and oracle are shown, never counted: the front is among methods whose model still works. p_front: share of
    resamples in which the method is not dominated.
    """
    points, draws = measured(views, [ERASURE, PRESERVATION], views.methods)
    table = pd.DataFrame.from_dict(points, orient="index", columns=["erasure", "preservation"]).rename_axis("method")
    broken = views.frame.dropna(subset=["collapsed"]).groupby("method")["collapsed"].first()
    table["collapsed"] = [broken.get(m) for m in table.index]
    rivals = [m for m in table.index if m not in REFERENCES and m not in broken.index]
    table["on_front"], table["p_front"] = False, np.nan
    if rivals:
        table.loc[rivals, "on_front"] = pareto(table.loc[rivals, ["erasure", "preservation"]].to_numpy())
        table.loc[rivals, "p_front"] = pareto(np.stack([draws[m] for m in rivals], axis=1)).mean(0)
    return table, draws


def measured(
    views: Views, composites: list[Composite], methods: list[str], concepts: list[str] | None = None, resampled: bool = True
) -> tuple[dict, dict]:
    """method -> values, and method -> draws (resamples, composites), of methods that have them on every concept."""
    points, draws = {}, {}
    concepts = views.defined(composites[0]) if concepts is None else concepts
    for method in methods if concepts else []:
        try:
            points[method] = [views.point(c, method, concepts) for c in composites]
            if resampled:
                draws[method] = np.stack([views.draws(c, method, concepts) for c in composites], axis=1)
        except Missing:
            continue
    return points, draws
