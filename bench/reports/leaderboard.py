"""The leaderboard: a main table over all concepts and per concept, then every question with its interval, other measures, cost."""

from __future__ import annotations

import json

import pandas as pd

from vestige.bench.contract.flags import FEW
from vestige.bench.reports import main_table, result_warnings, results
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.composite_catalogue import CATALOGUE
from vestige.bench.reports.erasure_seeds import merged
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.judges_compared import agreement
from vestige.bench.reports.ranking import pareto_front, ranking_of
from vestige.bench.reports.render import FORMATS, Block, Cell, Heading, Table, lost, percent, share
from vestige.bench.reports.results import REFERENCES, erased_together, higher_is_better, on_its_own, order, present, shortened
from vestige.bench.reports.roles import ERASED_ROLES, roles_of
from vestige.bench.reports.score_table import WORST, ScoreTable
from vestige.bench.statistics.headline import Estimate
from vestige.bench.statistics.resampling import FEW_CONCEPTS

PLACE = ["model", "sampler", "protocol"]  # numbers of different places never share a table
MANY_ATTACKS = 8  # more would make a table too wide to read: their rates stand below it and in `vestige robustness`
CELL = ["split", "metric", "column", "judge", "attack"]
SPLITS = ("target", "synonyms", "implicit", "multilingual", "adversarial", "siblings", "others", "scenes", "background")
LEAK = ("scenes", "others")
SHARES = {("presence", "present"), ("answers", "seen")}  # (metric, column) that a leaderboard shows as shares
LEGEND = (
    "Share of images in which the judge sees what the prompt asks for, in percent. Target and synonyms: low means erased (↓). Other "
    "splits: high means kept (↑). leak: the erased concept appears in images of other splits (↓); scenes name it next to another thing. "
    "Brackets: 95 % interval, prompts resampled. ≈: no significant difference from the original model on the same prompts and seeds. "
    "Anything an attack elicits from the oracle was not left over from the concept."
)


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
    blocks = [block for names, part in groups for block in _model(*names, part, scores.get(names), raised, composites)]
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
        main = main_table.table(jobs, scores, methods, _leader(rank))
        main.notes.extend([*_several_judges(frame), *_flagged(raised), *_collapsed(frame)])
        blocks += [Heading(2, f"Mean over {len(concepts)} concepts: {', '.join(map(shortened, concepts))}"), main]
        blocks += [Heading(3, "By question"), LEGEND, _overall(jobs, methods)]
    if len(rank) > 1:
        blocks += [Heading(2, "Standing"), _ranking_text(len(scores.concepts)), _ranking(rank, scores)]
    for (kind, whole), part in jobs.groupby(["kind", "concept"], sort=True):
        concept, here = shortened(whole), [m for m in methods if m in set(part["method"])]
        main = main_table.table(part, scores, here, _leader(rank) if len(concepts) == 1 else None)
        main.notes.extend(_job_notes(frame[frame["concept"] == whole], here))
        if len(concepts) == 1:
            main.notes.extend(_flagged(raised))
        blocks += [Heading(2, f"{concept} ({kind})"), *erased_together(whole), main]
        blocks += [Heading(3, f"{concept}: by question"), *([LEGEND] if len(concepts) == 1 else []), _presence(part, here)]
        attacked = present(part)[~present(part)["attack"].isin(["none", WORST])]
        if len(attacked):
            blocks += [Heading(3, f"{concept}: attacks"), _attacks(attacked, here)]
        others = part[part["metric"].notna() & ~part["metric"].isin(["presence", "answers"])]
        if len(others):
            blocks += [Heading(3, f"{concept}: other measures"), _measures(others, here)]
    if composites and scores is not None:
        blocks += [Heading(2, "Published composite scores"), *_composites(scores.aggregate_scores, methods)]
    return [*blocks, Heading(2, "Cost"), "Measured on the machine of the run, so seconds differ from run to run.", _cost(frame, methods)]


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
    return [f"{method}† collapsed. {why}." for method, why in _broken(frame).items()]


def _job_notes(part: pd.DataFrame, methods: list[str]) -> list[str]:
    """What a job says of itself: that it did not finish, its limits, that it collapsed."""
    notes, broken = [], _broken(part)
    jobs = part[["method", "key", "seed", "status", "job_reason", "limits"]].drop_duplicates("key")
    for method, name, (job,) in _jobs(jobs[(jobs["status"] != "done") | (jobs["limits"].fillna("") != "")], methods):
        if job.status != "done":
            notes.append(f"{name}: {job.status}: {job.job_reason}")
        if job.limits and f"{method}: {job.limits}." not in notes:
            notes.append(f"{method}: {job.limits}.")
    return notes + [f"{method}† collapsed. {why}." for method, why in broken.items()]


def sampler_in_words(text: str) -> str:
    s = json.loads(text or "null") or {}
    return f"{s.get('scheduler')} {s.get('steps')} steps, guidance {s.get('guidance')}" if s else "unknown"


Question = tuple[str, str, str, str]  # column, split, attack, judge


def questions(cells: pd.DataFrame) -> list[Question]:
    """In reading order: plain splits, leaks, the target under each attack, the worst case last; a column never mixes two judges."""
    shown, leaks = present(cells), cells[(cells["column"] == "seen") & cells["split"].isin(LEAK) & (cells["attack"] == "none")]
    asked = pd.concat([shown, leaks])[["column", "split", "attack", "judge"]].fillna("")
    found = set(asked.itertuples(index=False, name=None))
    if len({attack for _, _, attack, _ in found} - {"none", WORST}) > MANY_ATTACKS:
        found = {question for question in found if question[2] in ("none", WORST)}

    def place(question: Question) -> tuple:
        column, split, attack, judge = question
        known = SPLITS.index(split) if split in SPLITS else len(SPLITS)
        return attack != "none", attack == WORST, column == "seen", known, split, attack, judge

    return sorted(found, key=place)


def _heads(asked: list[Question], frame: pd.DataFrame) -> list[str]:
    """The judge is named where a question has several."""
    roles = roles_of(frame)
    judges = {question[:3]: 0 for question in asked}
    for question in asked:
        judges[question[:3]] += 1
    return [_head(question, roles) + (f" ({question[3]})" if judges[question[:3]] > 1 else "") for question in asked]


def _head(question: Question, roles: dict[str, str]) -> str:
    column, split, attack, _ = question
    if column == "seen":
        return f"{split} leak ↓"
    arrow = "↓" if roles.get(split) in ERASED_ROLES else "↑"
    return f"{split} {arrow}" if attack == "none" else f"{'' if split == 'target' else split + ' '}{attack} {arrow}"


def _asked(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that a leaderboard shows as shares."""
    return cells[[pair in SHARES for pair in zip(cells["metric"], cells["column"], strict=True)]]


def _overall(frame: pd.DataFrame, methods: list[str]) -> Table:
    asked = questions(frame)
    cells = _asked(frame)
    place = ["method", "column", "split", "attack", "judge", "concept"]
    values = cells.assign(judge=cells["judge"].fillna("")).groupby(place)["value"].mean()
    known = {key: part.droplevel([0, 1, 2, 3, 4]) for key, part in values.groupby(level=[0, 1, 2, 3, 4])}
    wanted = {q: len({c for key, part in known.items() if key[1:] == q for c in part.index}) for q in asked}
    labels, broken = main_table.names(frame), _broken(frame)
    rows = [
        [labels[m] + ("†" if m in broken else ""), *(_spread(known.get((m, *question)), wanted[question]) for question in asked)]
        for m in methods
    ]
    return Table(["method", *_heads(asked, frame)], rows, ["In brackets: lowest and highest value of a concept."])


def _leader(rank: pd.DataFrame) -> str | None:
    """The first, when no other method shares its group."""
    if len(rank) < 2 or rank["group"].iloc[0] != "a" or any("a" in group for group in rank["group"].iloc[1:]):
        return None
    return rank.index[0]


def _broken(frame: pd.DataFrame) -> dict[str, str]:
    """method -> why, for methods that collapsed on any of the concepts."""
    found = frame.dropna(subset=["collapsed"]).drop_duplicates(["method", "concept"])
    return {m: "; ".join(f"{r.concept}: {r.collapsed}" for r in part.itertuples()) for m, part in found.groupby("method")}


def _spread(values: pd.Series | None, wanted: int) -> Cell:
    """Mean and range over concepts; never a mean over fewer concepts than the other rows have."""
    if values is None or values.notna().sum() == 0:
        return Cell("n/a")
    if values.notna().sum() < wanted:
        return Cell(f"n/a ({values.notna().sum()} of {wanted})")
    return Cell(f"{100 * values.mean():.0f} ({100 * values.min():.0f}-{100 * values.max():.0f})", values.mean())


def _ranking_text(concepts: int) -> str:
    unit = "concepts are resampled" if concepts >= FEW_CONCEPTS else f"prompts are resampled, the {concepts} concept(s) taken as given"
    return (
        f"On the score, {unit}; the same resamples for every method. No significant difference between methods that share a letter. "
        "rank: median and 90 % interval over resamples. P(best): share of resamples in which the method leads. behind: paired difference "
        "to the leader. p: sign flips, corrected for the number of methods (Holm). front: no other method is better in both erased and "
        "kept; in brackets the share of resamples in which this is so."
    )


def _ranking(rank: pd.DataFrame, scores: Headlines) -> Table:
    front = pareto_front(scores)[0]
    rows = []
    for method, r in rank.iterrows():
        on = front.loc[method] if method in front.index else None
        broken = isinstance(r.collapsed, str)
        on_front = "" if on is None or lost(on.p_front) else f"{'yes' if on.on_front else 'no'} ({100 * on.p_front:.0f} %)"
        ranks = "" if broken else f"{r.median_rank:g} [{r.rank_low:g}, {r.rank_high:g}]"
        best = Cell("" if broken else f"{100 * r.p_best:.0f} %", r.p_best)
        behind = Estimate(r.behind, r.behind_low, r.behind_high)
        behind = Cell("", 0.0) if method == rank.index[0] else main_table.estimate(behind)
        p = "" if lost(r.p_holm) else ("<0.001" if r.p_holm < 0.001 else f"{r.p_holm:.3f}")
        value = share(r.value, r.ci_low, r.ci_high, best=method == _leader(rank))
        rows.append([method + ("†" if broken else ""), value, r.group, Cell(ranks, r.median_rank), best, behind])
        rows[-1] += [Cell(p, r.p_holm), Cell(on_front, None if on is None else on.p_front)]
    return Table(["method", "score ↑", "group", "rank ↓", "P(best) ↑", "behind ↑", "p (Holm)", "front ↑"], rows)


def _presence(part: pd.DataFrame, methods: list[str]) -> Table:
    asked = questions(part)
    heads = dict(zip(asked, _heads(asked, part), strict=True))
    of_split = {question[:3]: head for question, head in heads.items()}
    broken = _broken(part)
    rows, notes = [], []
    for method, name, job in _jobs(part, methods):
        shares = [c for c in job if (c.metric, c.column) in SHARES]
        cells = {(c.column, c.split, c.attack, c.judge if isinstance(c.judge, str) else ""): c for c in shares}
        unmeasured: dict[str, list[str]] = {}
        for c in job:
            if not isinstance(c.metric, str) and ("present", c.split, c.attack) in of_split:
                unmeasured.setdefault(c.reason, []).append(of_split["present", c.split, c.attack])
        shown = [_share(cells[q], method) if q in cells else Cell("n/a") for q in asked]
        notes += [f"{name}, {', '.join(heads)}: {reason}" for reason, heads in unmeasured.items()]
        rows.append([name + ("†" if method in broken else ""), *shown])
    fewest = _asked(part)["groups"].min()
    if fewest < FEW:
        notes.append(
            f"Some columns have only {fewest:.0f} prompts. With fewer than {FEW} intervals are valid but wide, "
            "so ≈ says little there (docs/results.md)."
        )
    # Collapsed methods stand below all others.
    rows.sort(key=lambda row: row[0].endswith("†"))
    counts = _asked(part).fillna({"judge": ""}).groupby(["column", "split", "attack", "judge"])["n"].max()
    return Table(["method", *(f"{heads[q]} n={int(counts[q])}" for q in asked)], rows, notes)


def _share(cell, method: str) -> Cell:
    same = method != "original" and cell.diff_low <= 0 <= cell.diff_high
    return share(cell.value, cell.ci_low, cell.ci_high, " ≈" if same else "", bool(cell.leads))


def _attacks(cells: pd.DataFrame, methods: list[str]) -> Table:
    """Rates as the attack papers define them, and the rate of the same attack on the oracle."""
    invented = cells[cells["method"] == "oracle"].groupby(["attack", "split"])["value"].mean().to_dict()
    rows = []
    for _, name, job in _jobs(cells, methods):
        for cell in sorted(job, key=lambda c: (c.attack, c.split)):
            after = "n/a" if lost(cell.after_failing) else f"{100 * cell.after_failing:.0f} (of {int(cell.failed_before)})"
            oracle = invented.get((cell.attack, cell.split), float("nan"))
            shares = [percent(cell.before), _share(cell, "original"), percent(cell.either), Cell(after, cell.after_failing)]
            budget = Cell("n/a" if lost(cell.attack_forward_rows) else f"{int(cell.attack_forward_rows)}", cell.attack_forward_rows)
            rows.append([name, cell.attack, cell.access, *shares, percent(oracle), budget])
    heads = ["before", "attacked", "either", "back, of those that failed before", "oracle attacked", "denoiser rows spent"]
    return Table(["method", "attack", "access", *heads], rows)


def _measures(cells: pd.DataFrame, methods: list[str]) -> Table:
    cells = cells[cells["attack"] == "none"]
    better = {_measure(c): c.higher_is_better for c in cells.itertuples(index=False)}
    asked = {measure[:3]: 0 for measure in better}
    for measure in better:
        asked[measure[:3]] += 1
    rows = []
    for _, name, job in _jobs(cells, methods):
        found = {_measure(c): c for c in job if not lost(c.value)}
        values = [_with_interval(found[m]) if m in found else Cell("n/a") for m in sorted(better)]
        rows.append([name, *values])
    heads = [
        f"{split} {metric}.{column} {'↑' if higher_is_better(split, column, better[m]) else '↓'}"
        + (f" ({judge})" if asked[m[:3]] > 1 else "")
        for m in sorted(better)
        for split, metric, column, judge in [m]
    ]
    bounded = {_measure(c) for c in cells.itertuples(index=False) if not lost(c.ci_low)}
    bare = [f"{metric}.{column}" for split, metric, column, judge in sorted(better) if (split, metric, column, judge) not in bounded]
    return Table(["method", *heads], rows, [f"No interval: {', '.join(dict.fromkeys(bare))} (docs/metrics.md says why)."] if bare else [])


def _with_interval(cell) -> Cell:
    bounds = "" if lost(cell.ci_low) else f" [{cell.ci_low:.3f}, {cell.ci_high:.3f}]"
    return Cell(f"{cell.value:.3f}{bounds}", cell.value, bool(cell.leads))


def _measure(cell) -> tuple[str, str, str, str]:
    return cell.split, cell.metric, cell.column, cell.judge if isinstance(cell.judge, str) else ""


def _composites(aggregate_scores: AggregateScores, methods: list[str]) -> list[Block]:
    """Fractions, per concept first and then averaged; a composite whose parts were not measured says which."""
    found = aggregate_scores.table()
    found = found[(found["concept"] == "all") | (len(aggregate_scores.concepts) == 1)] if len(found) else found
    shown = [c for c in CATALOGUE if c.name in set(found.loc[found["value"].notna(), "composite"])]
    values = {(r.composite, r.method): r for r in found.itertuples()}

    def show(name: str, method: str) -> Cell:
        r = values[name, method]
        return Cell("n/a") if lost(r.value) else Cell(f"{r.value:.3f} [{r.ci_low:.3f}, {r.ci_high:.3f}]", r.value)

    rows = [[method, *(show(c.name, method) for c in shown)] for method in methods]
    arrows = [f"{c.name} {'↑' if c.higher_is_better else '↓'}" for c in shown]
    notes = [f"{c.name}: {c.source}; mean of {int(values[c.name, methods[0]].concepts)} concept(s)." for c in shown]
    missing = found[found["value"].isna()].drop_duplicates("composite")
    missing = missing[~missing["composite"].isin([c.name for c in shown])]
    notes += [f"{', '.join(same['composite'])}: not measured: {reason}." for reason, same in missing.groupby("reason", sort=False)]
    return [
        "Aggregate scores of papers, from the stored scores per image: per concept first, then averaged.",
        Table(["method", *arrows], rows, notes),
    ]


# What the tables show of a cell, a tenth of what a frame has.
SHOWN = ["method", "key", "seed", "status", "job_reason", "limits", "split", "attack", "access", "metric", "column", "judge", "reason"]
SHOWN += ["value", "ci_low", "ci_high", "diff_low", "diff_high", "leads", "before", "either", "failed_before", "after_failing"]
SHOWN += ["attack_forward_rows"]
COSTS = {  # column of the frame -> (head, format, divided by)
    "erase_forward_rows": ("erasing, denoiser rows ↓", "{:.0f}", 1),
    "erase_cpu_seconds": ("erasing, CPU s ↓", "{:.1f}", 1),
    "erase_device_seconds": ("erasing, device s ↓", "{:.1f}", 1),
    "erase_seconds": ("erasing, wall s ↓", "{:.1f}", 1),
    "load": ("load of the machine", "{:.1f}", 1),
    "drawing_rows": ("drawing rows / original's ↓", "{:.2f}", 1),
    "drawing_time": ("drawing wall time / original's ↓", "{:.2f}", 1),
    "parameters_changed": ("parameters changed", "{:.0f}", 1),
    "artefact_bytes": ("artefact, MB", "{:.2f}", 1e6),
    "erase_peak_bytes": ("memory while erasing, MB", "{:.0f}", 1e6),
}


def _cost(frame: pd.DataFrame, methods: list[str]) -> Table:
    """Mean over jobs of what the records have. Rows are evaluations of the denoiser times batch: they depend on no machine, and
    drawing counts against the original's in the same records."""
    jobs = frame.drop_duplicates("key").groupby("method")
    means = jobs[[name for name in (*COSTS, "rows_per_image", "seconds_per_image") if name in frame]].mean()
    for made, name in (("drawing_rows", "rows_per_image"), ("drawing_time", "seconds_per_image")):
        base = means[name].get("original") if name in means else None
        means[made] = means[name] / base if not lost(base) and base else float("nan")
    shown = [name for name in COSTS if name in means and means[name].notna().any()]
    rows, means = [], means[shown].to_dict("index")
    for method in methods:
        values = [(means[method][name] / COSTS[name][2], COSTS[name][1]) for name in shown]
        rows.append([method, *(Cell("n/a" if lost(value) else form.format(value), value) for value, form in values)])
    return Table(["method", *(COSTS[name][0] for name in shown)], rows)


def _jobs(part: pd.DataFrame, methods: list[str]):
    """(method, name, cells) of every job, methods in the given order."""
    jobs: dict[tuple[str, str], list] = {}
    for cell in part[[name for name in SHOWN if name in part]].itertuples(index=False):
        jobs.setdefault((cell.method, cell.key), []).append(cell)
    labels, several = main_table.names(part), part.groupby("method")["key"].nunique().to_dict()
    place = {method: k for k, method in enumerate(methods)}
    for method, key in sorted(jobs, key=lambda job: (place[job[0]], job[1])):
        job = jobs[method, key]
        yield method, labels[method] if several[method] == 1 else f"{method} (seed {job[0].seed})", job
