"""The leaderboard: a main table over all concepts and per concept, then every question with its interval, other measures, cost."""

from __future__ import annotations

import json

import pandas as pd

from vestige.bench.reports import main_table, measure_tables, question_tables, ranking_table, result_warnings, results
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.erasure_seeds import merged
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.job_rows import collapsed_methods, jobs_of
from vestige.bench.reports.judges_compared import agreement
from vestige.bench.reports.ranking import ranking_of
from vestige.bench.reports.ranking_table import leader
from vestige.bench.reports.render import FORMATS, Block, Heading
from vestige.bench.reports.results import REFERENCES, erased_together, on_its_own, order, present, shortened
from vestige.bench.reports.score_table import WORST, ScoreTable

PLACE = ["model", "sampler", "protocol"]  # numbers of different places never share a table
CELL = ["split", "metric", "column", "judge", "attack"]


def table(frame: pd.DataFrame, format: str, score_table: ScoreTable | None = None, composites: bool = False) -> str:
    """Per model, sampler and protocol: the main table over concepts and per concept, standing, other measures, cost. CSV: every cell.

    Scores, ranks and intervals of differences need the `images` the frame was loaded with. composites: also the published
    composite scores (with format csv only those, as tidy rows).
    """
    if format not in (*FORMATS, "csv"):
        raise ValueError(f"format={format!r} is not known. Allowed: md, csv, latex, html.")
    everything, frame = frame, frame[on_its_own(frame)]  # null controls and budget sweeps stand in `vestige robustness`
    groups = list(frame.groupby(PLACE, dropna=False, sort=True))
    if format == "csv" and composites:
        tables = [
            AggregateScores(part, score_table).table().assign(**dict(zip(PLACE, place, strict=True)))
            for place, part in groups
            if score_table
        ]
        return pd.concat(tables).to_csv(index=False)
    if format == "csv":
        cells = everything.drop(columns=["images", "score", "found_at"])
        return cells.sort_values(["method", "concept", "key", *CELL], kind="stable").to_csv(index=False)
    scores = {names: Headlines(AggregateScores(part, score_table)) for names, part in groups if score_table is not None}
    raised = result_warnings.flags(everything)
    blocks: list[Block] = []
    for (model, sampler, protocol), part in groups:
        blocks += _model(model, sampler, protocol, part, scores.get((model, sampler, protocol)), raised, composites)
    return FORMATS[format](blocks)


def ranking(frame: pd.DataFrame, scores: Headlines | None) -> list[str]:
    """Original, oracle, then methods by their score, best first; collapsed ones and then those without one last."""
    return _ranked(frame, pd.DataFrame() if scores is None else ranking_of(scores))


def _ranked(frame: pd.DataFrame, rank: pd.DataFrame) -> list[str]:
    place = {name: k for k, name in enumerate([*REFERENCES, *rank.index])}
    return sorted(order(frame["method"].tolist()), key=lambda m: (place.get(m, len(place)), m))


def _model(
    model: str, sampler: str, protocol: str, frame: pd.DataFrame, scores: Headlines | None, raised: pd.DataFrame, composites: bool
) -> list[Block]:
    concepts = sorted(frame["concept"].unique())
    title = f"Leaderboard: {model}" + (f", protocol {protocol}" if protocol else "")
    blocks: list[Block] = [Heading(1, title), f"Sampler {sampler_in_words(sampler)}; {_judges(frame)}. {main_table.LEGEND}"]
    score_table = None if scores is None else scores.aggregate_scores.score_table
    if score_table is not None:
        blocks += [
            f"Judges {p.judge} and {p.other} agree on {100 * p.agreement:.0f} % of {p.n} images (Cohen's kappa {p.kappa:.2f})."
            for p in agreement(frame, score_table).itertuples()
        ]
    rank = pd.DataFrame() if scores is None else ranking_of(scores)
    methods = _ranked(frame, rank)
    blocks += results.without_original(frame)
    jobs = merged(frame, score_table)
    raised = raised[(raised["model"] == model) & raised["concept"].isin([*concepts, "all"])]
    if len(concepts) > 1:
        main = main_table.table(jobs, scores, methods, leader(rank))
        main.notes.extend([*_several_judges(frame), *_flagged(raised), *_collapsed(frame)])
        blocks += [Heading(2, f"Mean over {len(concepts)} concepts: {', '.join(map(shortened, concepts))}"), main]
        blocks += [Heading(3, "By question"), question_tables.LEGEND, question_tables.overall(jobs, methods)]
    if scores is not None and len(rank) > 1:
        blocks += [Heading(2, "Standing"), ranking_table.text(len(scores.concepts)), ranking_table.table(rank, scores)]
    for (kind, whole), part in jobs.groupby(["kind", "concept"], sort=True):
        concept, here = shortened(whole), [m for m in methods if m in set(part["method"])]
        main = main_table.table(part, scores, here, leader(rank) if len(concepts) == 1 else None)
        main.notes.extend(_job_notes(frame[frame["concept"] == whole], here))
        if len(concepts) == 1:
            main.notes.extend(_flagged(raised))
        blocks += [Heading(2, f"{concept} ({kind})"), *erased_together(whole), main]
        blocks += [Heading(3, f"{concept}: by question"), *([question_tables.LEGEND] if len(concepts) == 1 else [])]
        blocks.append(question_tables.presence(part, here))
        attacked = present(part)[~present(part)["attack"].isin(["none", WORST])]
        if len(attacked):
            blocks += [Heading(3, f"{concept}: attacks"), question_tables.attack_rates(attacked, here)]
        others = part[part["metric"].notna() & ~part["metric"].isin(["presence", "answers"])]
        if len(others):
            blocks += [Heading(3, f"{concept}: other measures"), measure_tables.measures(others, here)]
    if composites and scores is not None:
        blocks += [Heading(2, "Published composite scores"), *measure_tables.composites(scores.aggregate_scores, methods)]
    cost = measure_tables.cost(frame, methods)
    return [*blocks, Heading(2, "Cost"), "Measured on the machine of the run, so seconds differ from run to run.", cost]


def _judges(frame: pd.DataFrame) -> str:
    """Which judge decides on which concepts."""
    shown = present(frame).dropna(subset=["judge"])
    by_judge = shown.groupby("judge")["concept"].unique()
    if len(by_judge) < 2:
        return f"judge {next(iter(by_judge.index), 'none')}"
    return "judges " + "; ".join(f"{judge} ({', '.join(map(shortened, sorted(concepts)))})" for judge, concepts in by_judge.items())


def _several_judges(frame: pd.DataFrame) -> list[str]:
    judges = present(frame).groupby("concept")["judge"].agg(lambda judges: next(iter(judges.mode()), None))
    if judges.nunique() < 2:
        return []
    return ["Concepts have different judges, so leak and worst case are not averaged; see each concept."]


def _flagged(raised: pd.DataFrame) -> list[str]:
    """One line per flag, with the methods it was raised for."""
    notes = []
    for flag, rows in raised.groupby("flag", sort=True):
        where = rows.groupby("method", sort=True)["concept"].unique()
        named = [f"{'all methods' if m == 'all' else m} ({', '.join(map(shortened, sorted(c)))})" for m, c in where.items()]
        notes.append(f"Flag {flag}: {'; '.join(named)}. `vestige ls flags {flag}` says what it means.")
    return notes


def _collapsed(frame: pd.DataFrame) -> list[str]:
    return [f"{method}† collapsed. {why}." for method, why in collapsed_methods(frame).items()]


def _job_notes(part: pd.DataFrame, methods: list[str]) -> list[str]:
    """What a job says of itself: that it did not finish, its limits, that it collapsed."""
    notes, broken = [], collapsed_methods(part)
    jobs = part[["method", "key", "seed", "status", "job_reason", "limits"]].drop_duplicates("key")
    for method, name, (job,) in jobs_of(jobs[(jobs["status"] != "done") | (jobs["limits"].fillna("") != "")], methods):
        if job.status != "done":
            notes.append(f"{name}: {job.status}: {job.job_reason}")
        if job.limits and f"{method}: {job.limits}." not in notes:
            notes.append(f"{method}: {job.limits}.")
    return notes + [f"{method}† collapsed. {why}." for method, why in broken.items()]


def sampler_in_words(text: str) -> str:
    s = json.loads(text or "null") or {}
    return f"{s.get('scheduler')} {s.get('steps')} steps, guidance {s.get('guidance')}" if s else "unknown"
