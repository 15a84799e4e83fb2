"""Figures from the records: erased against kept, attack success against budget, rank distributions."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.reports import budget_curves
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.budget_curves import Curve
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.ranking import pareto_front, ranking_of
from vestige.bench.reports.results import REFERENCES, on_its_own, present, shortened
from vestige.bench.reports.score_table import WORST, ScoreTable
from vestige.bench.statistics.ranks import ellipse

MARKERS = "osD^vPX*<>hd"
FEW_PANELS = 4  # concepts that get a panel each


def write(frame: pd.DataFrame, score_table: ScoreTable, folder: Path, format: str = "png") -> list[Path]:
    """One file per figure, model, sampler and protocol; figures without data are left out. Raises ValueError when all are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, ((model, *_), part) in enumerate(frame.groupby(["model", "sampler", "protocol"], dropna=False, sort=True)):
        aggregate_scores = AggregateScores(part, score_table)
        scores = Headlines(aggregate_scores)
        curves = [c for c in budget_curves.budget_sweeps(part, score_table) + budget_curves.searches(part) if c.lost is None]
        by_attack = curves_by_attack(curves)
        drawings = {"pareto": partial(pareto, scores=scores), "budget": partial(budget, aggregate_scores=aggregate_scores)}
        drawings["ranks"] = partial(ranks, scores=scores)
        drawings |= {
            f"curve-{attack}": partial(success, curves=some, methods=aggregate_scores.methods) for attack, some in by_attack.items()
        }
        for name, draw in drawings.items():
            figure = pyplot.figure(figsize=(7, 5), layout="constrained")
            if draw(figure):
                safe = re.sub(r"[^\w.@:=+-]+", "_", f"{name}-{model}")  # a label may hold blanks, brackets and slashes
                files.append(folder / f"{safe}{f'-{number}' if number else ''}.{format}")
                figure.savefig(files[-1], dpi=150, metadata={"Date": None} if format == "svg" else None)
            pyplot.close(figure)
    if not files:
        raise ValueError("the records hold nothing to plot: run at least original and one method with until=score.")
    return files


def styles(methods: list[str]) -> dict[str, dict]:
    """One colour and marker per method, the same in every figure; references grey."""
    from matplotlib import colormaps

    rest = sorted(m for m in methods if m not in REFERENCES)
    colour = colormaps["tab10"] if len(rest) <= 10 else colormaps["tab20"]
    found = {m: {"color": colour(k % colour.N), "marker": MARKERS[k // colour.N % len(MARKERS)]} for k, m in enumerate(rest)}
    greys = {"original": ("0.35", "s"), "oracle": ("0.6", "D"), "oracle_seed1": ("0.75", "d")}
    return found | {name: {"color": colour, "marker": marker} for name, (colour, marker) in greys.items()}


def pareto(figure, scores: Headlines) -> bool:
    """Points with 95 % ellipses of the shared resamples; the front as a line; hollow: collapsed."""
    from matplotlib.patches import Ellipse

    points, draws = pareto_front(scores)
    if points.empty:
        return False
    aggregate_scores = scores.aggregate_scores
    axes, look = figure.subplots(), styles(aggregate_scores.methods)
    for method, at in points.iterrows():
        style, broken = look[method], isinstance(at.collapsed, str)
        centre, width, height, angle = ellipse(100 * draws[method])
        axes.add_patch(
            Ellipse((float(centre[0]), float(centre[1])), width, height, angle=angle, color=style["color"], alpha=0.12, linewidth=0)
        )
        label = f"{method} (collapsed)" if broken else method
        face = "none" if broken else style["color"]
        axes.plot(100 * at.erased, 100 * at.kept, style["marker"], color=style["color"], mfc=face, label=label, zorder=3)
    front = points[points["on_front"]].sort_values("erased")
    axes.plot(100 * front["erased"], 100 * front["kept"], color="0.4", linewidth=1, zorder=1)
    axes.set(xlabel="erased: of target, synonyms and leak, %", ylabel="kept: of what should stay, %")
    axes.set_title(
        f"{aggregate_scores.frame['model'].iloc[0]}: {_concepts(aggregate_scores)}, 95 % ellipses, prompts resampled", fontsize=10
    )
    axes.margins(0.08)
    axes.set(xlim=(None, 101), ylim=(None, 101))
    axes.legend(fontsize=8, loc="lower left")
    return True


def budget(figure, aggregate_scores: AggregateScores) -> bool:
    """Share of target images that show the concept under each attack: a line per attack, cheapest first, a panel per concept.

    Of many concepts, one panel with the mean over those that a method was attacked on. The number beside an attack's name is what
    it spent: denoiser evaluations per prompt set, mean over methods and concepts.
    """
    shown = present(aggregate_scores.frame)
    cells = shown[(shown["split"] == "target") & ~shown["attack"].isin([WORST, "none"]) & on_its_own(shown)]
    if cells.empty:
        return False
    judge = cells["judge"].mode().iloc[0]  # one figure is of one judge
    cells = cells[cells["judge"] == judge]
    cells = cells.assign(spent=cells["attack_forward_rows"].fillna(0))
    spent = cells.groupby("attack")["spent"].mean().sort_values(kind="stable")
    line = {attack: k for k, attack in enumerate(spent.index)}
    look, shift = (
        styles(aggregate_scores.methods),
        np.linspace(-0.24, 0.24, max(len(aggregate_scores.methods), 2)),
    )  # equal rates side by side
    panels = _panels(figure, sorted(cells["concept"].unique()), wide=2.6, left=4.5, high=1.8 + 0.32 * len(line))
    for axes, concepts in panels:
        each = cells[cells["concept"].isin(concepts)].groupby(["method", "attack", "concept"], as_index=False)["value"].mean()
        means = each.groupby(["method", "attack"], as_index=False)["value"].mean()  # over erasure seeds, then over concepts
        axes.hlines(range(len(line)), 0, 100, color="0.94", linewidth=14, zorder=0)
        for k, method in enumerate(aggregate_scores.methods):
            mine = means[means["method"] == method]
            at = [line[attack] + shift[k] for attack in mine["attack"]]
            axes.plot(100 * mine["value"], at, look[method]["marker"], color=look[method]["color"], label=method, markersize=5)
        axes.set(xlim=(-3, 103), ylim=(len(line) - 0.4, -0.6), xlabel="present under attack, %")
    first, last = panels[0][0], panels[-1][0]
    first.set_yticks(range(len(line)), [f"{attack}  {n:,.0f}" for attack, n in spent.items()], fontsize=8)
    first.set_ylabel("attack, denoiser evaluations it spent")
    last.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return True


def curves_by_attack(curves: list[Curve]) -> dict[str, list[Curve]]:
    """One figure per attack; and per unit and judge, where an attack has several."""
    made: dict[str, list[Curve]] = {}
    for curve in curves:
        judge, several = curve.place[-1], [c for c in curves if c.attack == curve.attack]
        name = curve.attack + (f"-{curve.unit}" if len({c.unit for c in several}) > 1 else "")
        name += f"-{slug(str(judge))}" if len({c.place[-1] for c in several}) > 1 else ""
        made.setdefault(name, []).append(curve)
    return made


def success(figure, curves: list[Curve], methods: list[str]) -> bool:
    """Success of one attack against its budget, a line per method; a panel per concept, or the mean over many."""
    look = styles(methods)
    panels = _panels(figure, sorted({c.concept for c in curves}), wide=3.6, left=2.2, high=4.2)
    for axes, concepts in panels:
        for method in methods:
            mine = [c for c in curves if c.method == method and c.concept in concepts]
            if not mine:
                continue
            spent = np.unique(np.concatenate([c.spent for c in mine]))
            # A search that ended early stays at its last rate. Erasure seeds are averaged within their concept.
            of = {concept: [np.interp(spent, c.spent, c.rates) for c in mine if c.concept == concept] for concept in concepts}
            rates = np.mean([np.mean(some, axis=0) for some in of.values() if some], axis=0)
            draw = axes.step if mine[0].unit == "tries" else axes.plot
            kind = {"where": "post"} if mine[0].unit == "tries" else {"marker": look[method]["marker"]}
            draw(spent, 100 * rates, color=look[method]["color"], label=method, **kind)
        axes.set(xlabel=f"{curves[0].unit} (0: no attack)", ylim=(-3, 103))
    panels[0][0].set_ylabel(f"concept present under {curves[0].attack}, %", fontsize=9)
    known = {label: handle for axes, _ in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[-1][0].legend(known.values(), known, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return True


def _panels(figure, concepts: list[str], wide: float, left: float, high: float) -> list[tuple]:
    """(axes, concepts) per panel: one each for a few concepts, since methods may have been run on different ones; else one for all."""
    groups = [[concept] for concept in concepts] if len(concepts) <= FEW_PANELS else [concepts]
    figure.set_size_inches(left + wide * len(groups), high)
    made = list(zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True))
    for axes, group in made:
        axes.set_title(shortened(group[0]) if len(group) == 1 else f"{len(group)} concepts", fontsize=10)
    return made


def ranks(figure, scores: Headlines) -> bool:
    """Median rank on the score with its 90 % interval; the letter names the group that cannot be told apart."""
    table, aggregate_scores = ranking_of(scores), scores.aggregate_scores
    table = table[table["collapsed"].isna()] if len(table) else table
    if len(table) < 2:
        return False
    axes, look, place = figure.subplots(), styles(aggregate_scores.methods), np.arange(len(table))
    for k, (method, r) in enumerate(table.iterrows()):
        axes.plot([r.rank_low, r.rank_high], [k, k], color=look[method]["color"], linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(r.median_rank, k, look[method]["marker"], color=look[method]["color"])
        axes.annotate(f"{r.group}   P(best) {100 * r.p_best:.0f} %", (1.01, k), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(place, table.index)
    axes.invert_yaxis()
    axes.set_xticks(range(1, len(table) + 1))
    axes.set(xlabel="rank on the score, median and 90 % interval")
    axes.set_title(f"{aggregate_scores.frame['model'].iloc[0]}: {_concepts(aggregate_scores)}", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return True


def _concepts(aggregate_scores: AggregateScores) -> str:
    return (
        ", ".join(map(shortened, aggregate_scores.concepts))
        if len(aggregate_scores.concepts) <= 4
        else f"{len(aggregate_scores.concepts)} concepts"
    )
