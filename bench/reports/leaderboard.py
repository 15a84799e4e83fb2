"""The leaderboard: methods down, questions across, every value with its interval, ranked by paired differences."""

from __future__ import annotations

import json

import pandas as pd

from bench.papers.composites import CATALOGUE
from bench.reports import results
from bench.reports.composites import NET
from bench.reports.judges_compared import agreement
from bench.reports.pictures import WORST, Pictures
from bench.reports.render import FORMATS, Block, Cell, Heading, Table, lost, percent, share
from bench.reports.results import ERASED, REFERENCES, erased_together, higher_is_better, on_its_own, order, present, shortened
from bench.reports.standing import measured, plane, standing
from bench.reports.views import Views
from bench.statistics.resampling import FEW_CONCEPTS

PLACE = ["model", "sampler", "protocol"]  # numbers of different places never share a table
MANY_ATTACKS = 8  # more would make a table too wide to read: their rates stand below it and in `vestige robustness`
CELL = ["probe", "metric", "column", "judge", "attack"]
PROBES = (*ERASED, "siblings", "others", "scenes", "background")
ENOUGH_PROMPTS = 20  # for an interval of a difference of rates narrow enough to say something: +- 16 to 31 points at 20
LEAK = ("scenes", "others")
SHARES = {("presence", "present"), ("answers", "seen")}  # (metric, column) that a leaderboard shows as shares
LEGEND = (
    "Share of pictures in which the judge sees what the prompt asks for, in percent. On target and synonyms low is erased (↓), elsewhere "
    "high is kept (↑); leak: the erased concept seen in pictures of other probes (↓; scenes name it beside something else). Brackets: "
    "95 % interval, prompts resampled. ≈: not to be told from the original model on the same prompts and seeds. Bold: better than every "
    "other method by a paired interval that leaves out zero. †: collapsed, the numbers come from a broken model; it cannot lead. net: "
    "drop on target and synonyms minus drop on everything that should stay, in points, paired with the original; it ranks the methods. "
    "What an attack draws from the oracle, which never saw the concept, is the attack's own invention."
)


def table(frame: pd.DataFrame, format: str, pictures: Pictures | None = None, composites: bool = False) -> str:
    """Per model, sampler and protocol: standing, one table per concept, other measures, cost. CSV: every cell.

    Ranks, net and intervals of differences need the `pictures` the frame was loaded with. composites: also the published
    composite scores (with format csv only those, as tidy rows).
    """
    if format not in (*FORMATS, "csv"):
        raise ValueError(f"format={format!r} is not known. Allowed: md, csv, latex, html.")
    everything, frame = frame, frame[on_its_own(frame)]  # null controls and ladders stand in `vestige robustness`
    groups = list(frame.groupby(PLACE, dropna=False, sort=True))
    views = {names: Views(part, pictures) for names, part in groups if pictures is not None}
    if format == "csv" and composites:
        tables = [v.table().assign(**dict(zip(PLACE, place, strict=True))) for place, v in views.items()]
        return pd.concat(tables).to_csv(index=False)
    if format == "csv":
        cells = everything.drop(columns=["images", "score", "found_at"])
        return cells.sort_values(["method", "concept", "key", *CELL], kind="stable").to_csv(index=False)
    blocks = [block for names, part in groups for block in _model(*names, part, views.get(names), composites)]
    return FORMATS[format](blocks)


def ranking(frame: pd.DataFrame, views: Views | None) -> list[str]:
    """Original, oracle, then methods by their net score, best first; collapsed ones and then those without one last."""
    return _ranked(frame, pd.DataFrame() if views is None else standing(views))


def _ranked(frame: pd.DataFrame, rank: pd.DataFrame) -> list[str]:
    place = {name: k for k, name in enumerate([*REFERENCES, *rank.index])}
    return sorted(order(frame["method"].tolist()), key=lambda m: (place.get(m, len(place)), m))


def _model(model: str, sampler: str, protocol: str, frame: pd.DataFrame, views: Views | None, composites: bool) -> list[Block]:
    shown = present(frame)
    judges = ", ".join(sorted(shown["judge"].dropna().unique())) or "none"
    concepts = sorted(frame["concept"].unique())
    title = f"Leaderboard: {model}" + (f", protocol {protocol}" if protocol else "")
    blocks: list[Block] = [Heading(1, title), f"Sampler {sampler_in_words(sampler)}; judge {judges}. {LEGEND}"]
    if views is not None:
        blocks += [
            f"Judges {p.judge} and {p.other} agree on {100 * p.agreement:.0f} % of {p.n} pictures (Cohen's kappa {p.kappa:.2f})."
            for p in agreement(frame, views.pictures).itertuples()
        ]
    rank = pd.DataFrame() if views is None else standing(views)
    methods = _ranked(frame, rank)
    blocks += results.without_original(frame)
    if len(concepts) > 1:
        blocks += [
            Heading(2, f"Mean over {len(concepts)} concepts: {', '.join(map(shortened, concepts))}"),
            _overall(frame, rank, views, methods, concepts),
        ]
    if len(rank) > 1:
        blocks += [Heading(2, "Standing"), _standing_text(len(concepts)), _standing(rank, views)]
    for (kind, whole), part in frame.groupby(["kind", "concept"], sort=True):
        concept = shortened(whole)
        blocks += [Heading(2, f"{concept} ({kind})"), *erased_together(whole), _presence(part, views, methods)]
        attacked = present(part)[~present(part)["attack"].isin(["none", WORST])]
        if len(attacked):
            blocks += [Heading(3, f"{concept}: attacks"), _attacks(attacked, methods)]
        others = part[part["metric"].notna() & ~part["metric"].isin(["presence", "answers"])]
        if len(others):
            blocks += [Heading(3, f"{concept}: other measures"), _measures(others, methods)]
    if composites and views is not None:
        blocks += [Heading(2, "Published composite scores"), *_composites(views, methods)]
    return [*blocks, Heading(2, "Cost"), "Measured where the run was made, so it differs from run to run.", _cost(frame, methods)]


def sampler_in_words(text: str) -> str:
    s = json.loads(text or "null") or {}
    return f"{s.get('scheduler')} {s.get('steps')} steps, guidance {s.get('guidance')}" if s else "unknown"


def questions(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(column, probe, attack) in reading order: plain probes, leaks, the target under each attack, the worst case last."""
    shown, leaks = present(cells), cells[(cells["column"] == "seen") & cells["probe"].isin(LEAK) & (cells["attack"] == "none")]
    found = set(pd.concat([shown, leaks])[["column", "probe", "attack"]].itertuples(index=False, name=None))
    if len({attack for *_, attack in found} - {"none", WORST}) > MANY_ATTACKS:
        found = {question for question in found if question[2] in ("none", WORST)}

    def place(question: tuple[str, str, str]) -> tuple:
        column, probe, attack = question
        return attack != "none", attack == WORST, column == "seen", PROBES.index(probe) if probe in PROBES else len(PROBES), probe, attack

    return sorted(found, key=place)


def _head(question: tuple[str, str, str]) -> str:
    column, probe, attack = question
    if column == "seen":
        return f"{probe} leak ↓"
    arrow = "↓" if probe in ERASED else "↑"
    return f"{probe} {arrow}" if attack == "none" else f"{'' if probe == 'target' else probe + ' '}{attack} {arrow}"


def _asked(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that a leaderboard shows as shares."""
    return cells[[pair in SHARES for pair in zip(cells["metric"], cells["column"], strict=True)]]


def _overall(frame: pd.DataFrame, rank: pd.DataFrame, views: Views | None, methods: list[str], concepts: list[str]) -> Table:
    asked = questions(frame)
    values = _asked(frame).groupby(["method", "column", "probe", "attack", "concept"])["value"].mean()
    known = {key: part.droplevel([0, 1, 2, 3]) for key, part in values.groupby(level=[0, 1, 2, 3])}
    net = _net(views, concepts)
    mechanisms = frame.groupby("method")["mechanism"].first()
    broken = _broken(frame)
    rows = []
    for method in methods:
        cells = [_spread(known.get((method, *question)), len(concepts)) for question in asked]
        name = method + ("†" if method in broken else "")
        rows.append([name, str(mechanisms[method]), _points(net.get(method), best=_is_alone(rank, method)), *cells])
    return Table(["method", "mechanism", "net ↑", *map(_head, asked)], rows)


def _net(views: Views | None, concepts: list[str]) -> dict[str, float]:
    return {} if views is None else {m: p[0] for m, p in measured(views, [NET], views.methods, concepts, False)[0].items()}


def _is_alone(rank: pd.DataFrame, method: str) -> bool:
    """The leader, when no other method shares its group."""
    return (
        len(rank) > 1
        and method == rank.index[0]
        and not any("a" in group for group in rank["group"].iloc[1:])
        and rank["group"].iloc[0] == "a"
    )


def _points(value: float | None, best: bool = False) -> Cell:
    return Cell("" if value is None else f"{100 * value:.0f}", value, best)


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


def _standing_text(concepts: int) -> str:
    unit = "concepts are resampled" if concepts >= FEW_CONCEPTS else f"prompts are resampled, the {concepts} concept(s) taken as given"
    return (
        f"On net, {unit}; the same resamples for every method. Methods that share a letter cannot be told apart. rank: median and 90 % "
        "interval over resamples; P(best): share of resamples a method leads. behind: paired difference to the leader; p: sign flips, "
        "corrected for the number of methods (Holm). front: not dominated in erasure and preservation, in brackets the share of resamples."
    )


def _standing(rank: pd.DataFrame, views: Views) -> Table:
    front = plane(views)[0]
    rows = []
    for method, r in rank.iterrows():
        on = front.loc[method] if method in front.index else None
        broken = isinstance(r.collapsed, str)
        on_front = "" if on is None or lost(on.p_front) else f"{'yes' if on.on_front else 'no'} ({100 * on.p_front:.0f} %)"
        ranks = "" if broken else f"{r.median_rank:g} [{r.rank_low:g}, {r.rank_high:g}]"
        best = Cell("" if broken else f"{100 * r.p_best:.0f} %", r.p_best)
        behind = "" if method == rank.index[0] else f"{100 * r.behind:.0f} [{100 * r.behind_low:.0f}, {100 * r.behind_high:.0f}]"
        p = "" if lost(r.p_holm) else ("<0.001" if r.p_holm < 0.001 else f"{r.p_holm:.3f}")
        value = Cell(f"{100 * r.value:.0f} [{100 * r.ci_low:.0f}, {100 * r.ci_high:.0f}]", r.value, _is_alone(rank, method))
        rows.append([method + ("†" if broken else ""), value, r.group, Cell(ranks, r.median_rank), best, Cell(behind, r.behind)])
        rows[-1] += [Cell(p, r.p_holm), Cell(on_front, None if on is None else on.p_front)]
    notes = [f"{method}† collapsed. {why}." for method, why in _broken(views.frame).items()]
    return Table(["method", "net ↑", "group", "rank ↓", "P(best) ↑", "behind ↑", "p (Holm)", "front ↑"], rows, notes)


def _presence(part: pd.DataFrame, views: Views | None, methods: list[str]) -> Table:
    asked = questions(part)
    net = _net(views, [part["concept"].iloc[0]])
    broken = _broken(part)
    rows, notes = [], []
    for method, name, job in _jobs(part, methods):
        cells = {(c.column, c.probe, c.attack): c for c in job if (c.metric, c.column) in SHARES}
        unmeasured: dict[str, list[str]] = {}
        for c in job:
            if not isinstance(c.metric, str) and ("present", c.probe, c.attack) in asked:
                unmeasured.setdefault(c.reason, []).append(_head(("present", c.probe, c.attack)))
        shown = [_share(cells[q], method) if q in cells else Cell("n/a") for q in asked]
        notes += [f"{name}, {', '.join(heads)}: {reason}" for reason, heads in unmeasured.items()]
        if job[0].status != "done":
            notes.append(f"{name}: {job[0].status}: {job[0].job_reason}")
        if job[0].limits:
            notes.append(f"{name}: {job[0].limits}.")
        if method in broken:
            notes.append(f"{name}† collapsed. {broken[method]}.")
        rows.append([name + ("†" if method in broken else ""), _points(net.get(method)), *shown])
    fewest = _asked(part)["groups"].min()
    if fewest < ENOUGH_PROMPTS:
        notes.append(
            f"Some columns rest on {fewest:.0f} prompts. With fewer than {ENOUGH_PROMPTS} intervals hold but are wide, "
            "so ≈ says little there (docs/results.md)."
        )
    # Collapsed methods stand below all others.
    rows.sort(key=lambda row: row[0].endswith("†"))
    counts = _asked(part).groupby(["column", "probe", "attack"])["n"].max()
    heads = [f"{_head(q)} n={int(counts[q])}" for q in asked]
    return Table(["method", "net ↑", *heads], rows, notes)


def _share(cell, method: str) -> Cell:
    same = method != "original" and cell.diff_low <= 0 <= cell.diff_high
    return share(cell.value, cell.ci_low, cell.ci_high, " ≈" if same else "", bool(cell.leads))


def _attacks(cells: pd.DataFrame, methods: list[str]) -> Table:
    """Rates as the attack papers define them, beside what the same attack draws from the oracle."""
    invented = cells[cells["method"] == "oracle"].groupby(["attack", "probe"])["value"].mean().to_dict()
    rows = []
    for _, name, job in _jobs(cells, methods):
        for cell in sorted(job, key=lambda c: (c.attack, c.probe)):
            after = "n/a" if lost(cell.after_failing) else f"{100 * cell.after_failing:.0f} (of {int(cell.failed_before)})"
            oracle = invented.get((cell.attack, cell.probe), float("nan"))
            shares = [percent(cell.before), _share(cell, "original"), percent(cell.either), Cell(after, cell.after_failing)]
            budget = Cell("n/a" if lost(cell.attack_unet_rows) else f"{int(cell.attack_unet_rows)}", cell.attack_unet_rows)
            rows.append([name, cell.attack, cell.access, *shares, percent(oracle), budget])
    heads = ["before", "attacked", "either", "back, of those that failed before", "oracle attacked", "denoiser rows spent"]
    return Table(["method", "attack", "access", *heads], rows)


def _measures(cells: pd.DataFrame, methods: list[str]) -> Table:
    cells = cells[cells["attack"] == "none"]
    better = {_measure(c): c.higher_is_better for c in cells.itertuples(index=False)}
    rows = []
    for _, name, job in _jobs(cells, methods):
        found = {_measure(c): c for c in job if not lost(c.value)}
        values = [_with_interval(found[m]) if m in found else Cell("n/a") for m in sorted(better)]
        rows.append([name, *values])
    heads = [
        f"{probe} {metric}.{column} {'↑' if higher_is_better(probe, column, better[m]) else '↓'}"
        for m in sorted(better)
        for probe, metric, column, _ in [m]
    ]
    bounded = {_measure(c) for c in cells.itertuples(index=False) if not lost(c.ci_low)}
    bare = [f"{metric}.{column}" for probe, metric, column, judge in sorted(better) if (probe, metric, column, judge) not in bounded]
    return Table(["method", *heads], rows, [f"No interval: {', '.join(dict.fromkeys(bare))} (docs/metrics.md says why)."] if bare else [])


def _with_interval(cell) -> Cell:
    bounds = "" if lost(cell.ci_low) else f" [{cell.ci_low:.3f}, {cell.ci_high:.3f}]"
    return Cell(f"{cell.value:.3f}{bounds}", cell.value, bool(cell.leads))


def _measure(cell) -> tuple[str, str, str, str]:
    return cell.probe, cell.metric, cell.column, cell.judge if isinstance(cell.judge, str) else ""


def _composites(views: Views, methods: list[str]) -> list[Block]:
    """Fractions, per concept first and then averaged; a composite whose parts were not measured says which."""
    found = views.table()
    found = found[(found["concept"] == "all") | (len(views.concepts) == 1)] if len(found) else found
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
    return ["Views on the stored scores per picture: per concept first, then averaged.", Table(["method", *arrows], rows, notes)]


def _cost(frame: pd.DataFrame, methods: list[str]) -> Table:
    """Mean over jobs. Drawing time counts against the original's in the same records."""
    jobs = frame.drop_duplicates("key").groupby("method")
    means = jobs[["erase_seconds", "seconds_per_image", "parameters_changed", "artefact_bytes", "erase_peak_bytes"]].mean()
    base = means["seconds_per_image"].get("original")
    rows = []
    for method in methods:
        job = means.loc[method]
        ratio = job["seconds_per_image"] / base if base else float("nan")
        values = [(job["erase_seconds"], "{:.1f}"), (ratio, "{:.2f}"), (job["parameters_changed"], "{:.0f}")]
        values += [(job["artefact_bytes"] / 1e6, "{:.2f}"), (job["erase_peak_bytes"] / 1e6, "{:.0f}")]
        rows.append([method, *(Cell("n/a" if lost(value) else form.format(value), value) for value, form in values)])
    heads = ["erasing, s ↓", "drawing time / original's ↓", "parameters changed", "artefact, MB", "more memory while erasing, MB"]
    return Table(["method", *heads], rows)


def _jobs(part: pd.DataFrame, methods: list[str]):
    """(method, name, cells) of every job, methods in the given order."""
    jobs: dict[tuple[str, str], list] = {}
    for cell in part.itertuples(index=False):
        jobs.setdefault((cell.method, cell.key), []).append(cell)
    seeds = part.groupby("method")["seed"].nunique().to_dict()
    place = {method: k for k, method in enumerate(methods)}
    for method, key in sorted(jobs, key=lambda job: (place[job[0]], job[1])):
        job = jobs[method, key]
        yield method, method if seeds[method] == 1 else f"{method} (seed {job[0].seed})", job
