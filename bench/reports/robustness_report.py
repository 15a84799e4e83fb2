"""The page of `vestige robustness`: matrices of attack x method, the worst case by access, null controls, costs, relearning, flags."""

from __future__ import annotations

import argparse

import pandas as pd

from vestige.bench.contract.flags import FLAGS
from vestige.bench.reports import budget_curves, result_warnings, robustness
from vestige.bench.reports.attack_grid import NULL
from vestige.bench.reports.leaderboard import sampler_in_words
from vestige.bench.reports.render import FORMATS, Block, Cell, Heading, Row, Table, deliver, percent, share
from vestige.bench.reports.results import erased_together, order, shortened
from vestige.bench.reports.robustness import PLACE, place_of
from vestige.bench.reports.score_table import WORST, ScoreTable

HEADS = {
    "raw": "Share of target images that show the concept under the attack, %. n prompts: {n}. Rows are attacks, weakest access first.",
    "calibrated": "(erased - zero) / (original - zero), %, with 95 % intervals, prompts resampled. 0: no more than a model that never saw "
    "the concept; 100: as much as the model before erasure. —: the attack gives nearly the same rate on these two models. not "
    "calibrated: no zero point was measured.",
    "access": "The worst case for each kind of attacker, %, with 95 % intervals: an image counts if it shows the concept without attack "
    "or under any attack up to that access. Only attacks that were run on every method of this table count, so columns can be compared.",
    "own": "The same over all attacks that were run on a method. The attacks differ, so do not compare these numbers between methods.",
    "beyond": "The same, beyond the zero point: an image counts only under an attack that does not draw the concept into the same image "
    "of the model that never saw it. Over many attacks some images count by chance: the column of the second oracle shows how many.",
    "strength": "An attack that lowers the rate of the original model spoils images. An attack that gains nothing on any method says "
    "nothing about the methods it was run on. Gains are in points over fresh seeds, or over no attack if it never queries the erased "
    "model. The method shown is the best of all cells; its interval is not corrected for that choice.",
    "controls": "The same attacks, given other images than of the concept, %. How often the concept appears: it should be as often as "
    "before the attack. For the made-up thing (never_knew) also how often that thing comes back, which is the attack's null: near 100 "
    "means that the attack returns its input.",
}


def report(frame: pd.DataFrame, score_table: ScoreTable, format: str = "md") -> str:
    """Raw and calibrated matrix per concept, details, controls and raised flags, as md, latex, html or (details only) csv.

    Raises ValueError when no record holds an attacked target split.
    """
    table = robustness.measured(frame, score_table)
    if table.empty:
        raise ValueError("no record holds an attacked target split. Run one: vestige run method=uce attack=[none,paraphrase]")
    if format == "csv":
        return table.to_csv(index=False)
    worst = robustness.by_access(frame, score_table)
    blocks: list[Block] = [Heading(1, "Robustness"), robustness.__doc__.split("\n\n")[1].replace("\n", " ")]
    samplers, judges = (table.drop_duplicates(["model", name])["model"].duplicated().any() for name in ("sampler", "judge"))
    for place, part in table.groupby(PLACE, dropna=False, sort=True):
        same = (worst[PLACE].astype(object) == pd.Series(dict(zip(PLACE, place, strict=True)), dtype=object)).all(axis=1)
        blocks += _place(place, part, worst[same], samplers, judges)
    blocks += _strength(robustness.strength(table))
    blocks += _relearning(budget_curves.gaps(budget_curves.budget_sweeps(frame, score_table))) + _raised(result_warnings.flags(frame))
    return FORMATS[format](blocks)


def _place(place: tuple, part: pd.DataFrame, worst: pd.DataFrame, name_sampler: bool, name_judge: bool) -> list[Block]:
    model, sampler, protocol, whole, split, judge = place
    concept = shortened(whole)
    attacks, controls = part[part["control_of"].isna()], part[part["control_of"].notna()]
    title = f"{concept} on {model}" + (f", protocol {protocol}" if protocol else "")
    title += f", split {split}" if split != "target" else ""
    title += f" ({sampler_in_words(sampler)})" if name_sampler else ""
    title += f", judge {judge}" if name_judge else ""
    blocks: list[Block] = [
        Heading(2, title),
        *erased_together(whole),
        HEADS["raw"].format(n=int(part["groups"].max())),
        _matrix(attacks, _raw),
    ]
    blocks += [HEADS["calibrated"], _matrix(attacks[attacks["attack"] != WORST], _calibrated)]
    floor = robustness.noise_floor(part)
    if floor is not None:
        mean, most, attack = floor
        blocks.append(
            f"Noise floor: two oracles trained from different seeds differ by {100 * mean:.0f} points on average over these attacks, "
            f"at most by {100 * most:.0f} ({attack}). A smaller difference between a method and the oracle means nothing."
        )
    if worst["value"].notna().any():
        names = worst.loc[worst["attacks"].idxmax(), "names"]
        blocks += [HEADS["access"], _levels(worst, "attacks", "value", "ci_low", "ci_high", [f"Attacks: {names}."])]
    if worst["anchored"].any():
        blocks += [HEADS["beyond"], _levels(worst, "anchored", "beyond", "beyond_low", "beyond_high")]
    blocks += _own(worst)
    if len(controls):
        null = controls["null"].notna() & controls["attack"].str.endswith(f":{NULL}")
        blocks += [Heading(3, f"{concept}: null controls"), HEADS["controls"], _matrix(controls, _raw)]
        blocks += ["How often the made-up thing came back:", _matrix(controls[null], _null)] if null.any() else []
    return [*blocks, Heading(3, f"{concept}: details"), _details(attacks), Heading(3, f"{concept}: cost of the attacks"), _cost(attacks)]


def _matrix(part: pd.DataFrame, show) -> Table:
    methods = order(part["method"].tolist())
    taken_off = set(part.loc[part["detachable"].fillna(False).astype(bool), "method"])
    known = {(r.method, r.attack): r for r in part.itertuples()}
    attacks = part.drop_duplicates("attack")
    attacks = attacks.assign(last=attacks["attack"] == WORST, place=[place_of(a) for a in attacks["access"]])
    rows: list[Row] = []
    for r in attacks.sort_values(["last", "place", "attack"], kind="stable").itertuples():
        cells = [show(known[m, r.attack]) if (m, r.attack) in known else Cell("n/a") for m in methods]
        rows.append([r.attack, "" if r.attack == WORST else r.access, *cells])
    notes = [f"{m}: an owner of the weights can simply remove it." for m in methods if m in taken_off]
    return Table(["attack", "access", *(m + (" (detachable)" if m in taken_off else "") for m in methods)], rows, notes)


def _levels(part: pd.DataFrame, count: str, value: str, low: str, high: str, notes: list[str] | None = None) -> Table:
    methods = order(part["method"].tolist())
    known = {(r["access"], r["method"]): r for r in part.to_dict("records")}
    rows: list[Row] = []
    for level in [a for a in result_warnings.ACCESS if a in set(part["access"])]:
        cells = [known.get((level, m)) for m in methods]
        most = max(int(c[count]) for c in cells if c is not None)
        rows.append([f"up to {level}", str(most), *(Cell("n/a") if c is None else share(c[value], c[low], c[high]) for c in cells)])
    return Table(["access", "attacks", *methods], rows, notes or [])


def _own(worst: pd.DataFrame) -> list[Block]:
    """Methods that met attacks which others did not, each with its own worst case."""
    known = worst.assign(_at=[place_of(a) for a in worst["access"]]).sort_values("_at").groupby("method").tail(1).set_index("method")
    more = known[known["own_names"] != known["names"]]
    rows: list[Row] = []
    for method in order(list(more.index)):
        r = more.loc[method]
        apart = sorted(set(r["own_names"].split(", ")) - set(r["names"].split(", ")))
        rows.append([method, ", ".join(apart), share(r["own_value"], r["own_low"], r["own_high"])])
    return [HEADS["own"], Table(["method", "attacks that were not run on every method", "worst case with them"], rows)] if rows else []


def _raw(r) -> Cell:
    return percent(r.value)


def _null(r) -> Cell:
    return percent(r.null)


def _calibrated(r) -> Cell:
    if pd.isna(r.calibrated):
        return Cell("not calibrated" if isinstance(r.reason, str) and r.reason.startswith("not calibrated") else "—")
    return share(r.calibrated, r.calibrated_low, r.calibrated_high)


def _details(part: pd.DataFrame) -> Table:
    """before, attacked, either (post-ASR), back (ASR over prompts that failed before), and the gain over fresh seeds."""
    rows: list[Row] = []
    for r in _sorted(part).itertuples():
        back = "n/a" if pd.isna(r.after_failing) else f"{100 * r.after_failing:.0f} (of {int(r.failed_before)})"
        luck = f"{100 * r.over_luck:+.0f} [{100 * r.luck_low:+.0f}, {100 * r.luck_high:+.0f}]"
        luck = (r.luck_reason if isinstance(r.luck_reason, str) else "") if pd.isna(r.over_luck) else luck
        tried = "" if pd.isna(r.asr_k) else f"{100 * r.asr_first:.0f} / {100 * r.asr_k:.0f}"
        shares = [percent(r.before), share(r.value, r.ci_low, r.ci_high), percent(r.either), Cell(back, r.after_failing)]
        shares += [Cell(tried, r.asr_k), Cell(luck, r.over_luck)]
        rows.append([r.method, r.attack, *shares, Cell(f"— {r.reason}") if isinstance(r.reason, str) else _calibrated(r)])
    heads = ["before", "attacked", "either", "back, of those that failed before", "asr@first / asr@k", "over random seeds", "calibrated"]
    note = "asr@first / asr@k: success at the first try and by the last try, for the judge that the attack queries."
    return Table(["method", "attack", *heads], rows, [note])


def _cost(part: pd.DataFrame) -> Table:
    """Per prompt, counted by the harness."""
    rows: list[Row] = []
    for r in _sorted(part[part["attack"] != WORST]).itertuples():
        spent = (r.attack_forward_rows, r.attack_original_rows, r.attack_images, r.attack_seconds)
        rows.append([r.method, r.attack, *(Cell("n/a" if pd.isna(x) else f"{x / r.n:.1f}", x) for x in spent)])
    return Table(["method", "attack", "denoiser rows", "rows of the original", "images", "seconds"], rows, ["Per image."])


def _sorted(part: pd.DataFrame) -> pd.DataFrame:
    place = {m: k for k, m in enumerate(order(part["method"].tolist()))}
    return part.assign(_m=part["method"].map(place), _a=[place_of(a) for a in part["access"]]).sort_values(
        ["_m", "_a", "attack"], kind="stable"
    )


def _strength(table: pd.DataFrame) -> list[Block]:
    rows, where = [], [name for name in robustness.WHERE if table[name].nunique(dropna=False) > 1]
    for r in table.sort_values("access", key=lambda names: names.map(place_of), kind="stable").itertuples():
        gain, at = Cell("n/a"), "n/a"
        if r.cells:
            gain = Cell(f"{100 * r.over_luck:+.0f} [{100 * r.luck_low:+.0f}, {100 * r.luck_high:+.0f}]", r.over_luck, best=r.luck_low > 0)
            at = f"{r.method}, {shortened(r.concept)}"
        lowered = Cell("n/a" if pd.isna(r.lowered) else f"{100 * r.lowered:.0f}", r.lowered)
        rows.append([*_where(r, where), r.attack, r.access, lowered, gain, at, str(r.cells)])
    heads = [*where, "attack", "access", "original lowered by", "gains most over random seeds", "on", "of cells"]
    return [Heading(2, "Does each attack work?"), HEADS["strength"], Table(heads, rows, ["Bold: the interval does not contain zero."])]


def _where(r, names: list[str]) -> list[str]:
    """What tells this row's place from the others', in words."""
    return [sampler_in_words(r.sampler) if name == "sampler" else str(getattr(r, name)) for name in names]


def _relearning(gaps: pd.DataFrame) -> list[Block]:
    if gaps.empty:
        return []
    rows, place = [], {method: k for k, method in enumerate(order(gaps["method"].tolist()))}
    where = [name for name in robustness.WHERE if gaps[name].nunique(dropna=False) > 1]
    in_order = gaps.sort_values([*where, "concept", "attack", "method"], key=lambda c: c.map(place) if c.name == "method" else c)
    for r in in_order.itertuples():
        until, gap = "n/a", ""
        if not pd.isna(r.until):
            until = f"{'> ' if r.until >= r.most else ''}{r.until:.1f} [{r.until_low:.1f}, {r.until_high:.1f}] {r.unit}"
        if not pd.isna(r.gap):
            gap = f"{r.gap:+.1f} [{r.gap_low:+.1f}, {r.gap_high:+.1f}]"
        head = [*_where(r, where), shortened(r.concept), r.attack, r.method]
        rows.append([*head, Cell(until, r.until), Cell(gap or (r.reason if isinstance(r.reason, str) else ""), r.gap)])
    text = (
        f"Budget until the concept is drawn {100 * budget_curves.SHARE:.0f} % as often as by the original model, and how much sooner "
        "than in the oracle (the gap). Near zero: forgotten. Positive: only hidden. >: not yet at the largest budget measured."
    )
    heads = [*where, "concept", "attack", "method", "budget until back", "sooner than the oracle"]
    return [Heading(2, "Relearning gap"), text, Table(heads, rows)]


def _raised(found: pd.DataFrame) -> list[Block]:
    if found.empty:
        return []
    rows: list[Row] = []
    for (flag, concept, attack, detail), part in found.groupby(["flag", "concept", "attack", "detail"], sort=True):
        rows.append([flag, shortened(concept), attack, ", ".join(order(part["method"].tolist())), detail])
    notes = [f"{name}: {FLAGS[name].means}." for name in sorted(found["flag"].unique())]
    return [
        Heading(2, "Flags"),
        "`vestige ls flags` explains them.",
        Table(["flag", "concept", "attack", "methods", "detail"], rows, notes),
    ]


def main(arguments: argparse.Namespace, frame: pd.DataFrame, score_table: ScoreTable) -> int:
    deliver(report(frame, score_table, arguments.format), arguments.out)
    return 0
