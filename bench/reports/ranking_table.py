"""The table of who leads on the headline score, and how sure that is."""

from __future__ import annotations

import pandas as pd

from vestige.bench.reports import main_table
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.ranking import pareto_front
from vestige.bench.reports.render import Cell, Row, Table, lost, share
from vestige.bench.statistics.headline import Estimate
from vestige.bench.statistics.resampling import FEW_CONCEPTS


def leader(rank: pd.DataFrame) -> str | None:
    """The first, when no other method shares its group."""
    if len(rank) < 2 or rank["group"].iloc[0] != "a" or any("a" in group for group in rank["group"].iloc[1:]):
        return None
    return rank.index[0]


def text(concepts: int) -> str:
    unit = "concepts are resampled" if concepts >= FEW_CONCEPTS else f"prompts are resampled, the {concepts} concept(s) taken as given"
    return (
        f"On the score, {unit}; the same resamples for every method. No significant difference between methods that share a letter. "
        "rank: median and 90 % interval over resamples. P(best): share of resamples in which the method leads. behind: paired difference "
        "to the leader. p: sign flips, corrected for the number of methods (Holm). front: no other method is better in both erased and "
        "kept; in brackets the share of resamples in which this is so."
    )


def table(rank: pd.DataFrame, scores: Headlines) -> Table:
    front = pareto_front(scores)[0]
    rows: list[Row] = []
    for method, r in rank.iterrows():
        on = front.loc[method] if method in front.index else None
        broken = isinstance(r.collapsed, str)
        on_front = "" if on is None or lost(on.p_front) else f"{'yes' if on.on_front else 'no'} ({100 * on.p_front:.0f} %)"
        ranks = "" if broken else f"{r.median_rank:g} [{r.rank_low:g}, {r.rank_high:g}]"
        best = Cell("" if broken else f"{100 * r.p_best:.0f} %", r.p_best)
        gap = Estimate(r.behind, r.behind_low, r.behind_high)
        behind = Cell("", 0.0) if method == rank.index[0] else main_table.estimate(gap)
        p = "" if lost(r.p_holm) else ("<0.001" if r.p_holm < 0.001 else f"{r.p_holm:.3f}")
        value = share(r.value, r.ci_low, r.ci_high, best=method == leader(rank))
        rows.append([method + ("†" if broken else ""), value, r.group, Cell(ranks, r.median_rank), best, behind])
        rows[-1] += [Cell(p, r.p_holm), Cell(on_front, None if on is None else on.p_front)]
    return Table(["method", "score ↑", "group", "rank ↓", "P(best) ↑", "behind ↑", "p (Holm)", "front ↑"], rows)
