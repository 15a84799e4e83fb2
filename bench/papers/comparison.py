"""Our numbers compared with published ones. A published number is grey, with the reason, unless it was measured in the same way.

Protocol: a record follows one when its split has the prompts, rows and repeats that conf/protocol composes to, whatever its command
said. Judge and sampler: as the record has them. Settings: method, attack and model must be those that the plan's own command
composes to (our numbers for the paper); of a record with others it is said which, and nothing is said of agreement.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.papers import planning, published
from vestige.bench.papers.mapping import PaperMap, PaperTable, Reading, lacks
from vestige.bench.papers.planning import TablePlan, Work
from vestige.bench.papers.published import Published
from vestige.bench.reports.identity import flat
from vestige.bench.reports.render import Block, Cell, Row, Table, raised

if TYPE_CHECKING:
    import pandas as pd

NOT_RUN = "not run"
OTHER_SETTINGS = "other settings: "


@dataclass(frozen=True)
class Compared:
    """One published value and ours. `why_not`: why they may not be compared; empty when they may, or when ours is missing."""

    row: Published
    method: str  # ours, or empty
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    reasons: tuple[str, ...] = ()
    lacks: str = ""  # why ours is missing


class Measured:
    """What records and store hold, read when first needed."""

    def __init__(self, records: Path, *places: Path) -> None:
        self.records, self.places = records, places

    @cached_property
    def frame(self) -> pd.DataFrame:
        from vestige.bench.reports import results

        frame = results.load(self.records, self.score_table)
        return frame[frame["metric"].notna()] if len(frame) else frame

    @cached_property
    def score_table(self):
        from vestige.bench.reports.score_table import ScoreTable

        return ScoreTable(*self.places)

    @cached_property
    def specifications(self) -> dict[str, dict]:
        records = (json.loads(file.read_text()) for file in sorted(self.records.glob("*.json")))
        return {record["key"]: record.get("specification") or {} for record in records}


def compare(paper: PaperMap, plan: TablePlan, measured: Measured, model: str | None, extra: Path | None) -> list[Compared]:
    """One entry per published value of a table. Reads records only when some exist."""
    found = []
    empty = not any(measured.records.glob("*.json"))
    for row in plan.rows:
        here = model or paper.models.get(row.model)
        lost = planning.uncovered(paper, plan.table, row, here, extra)
        if lost or here is None:
            found.append(Compared(row, "", lacks="; ".join(f"{word}: {why}" for word, why in lost.items())))
            continue
        method = planning.jobs_of(paper, plan.table, row, here, extra)[-1][0]
        if empty:
            found.append(Compared(row, method, lacks=NOT_RUN))
            continue
        one = _ours(row, plan.table, method, here, measured, extra)
        if one.ours is not None and here != paper.models.get(row.model):
            one = replace(one, reasons=(f"other model: theirs {row.model}, ours {here}", *one.reasons))
        found.append(one)
    return found


def _ours(row: Published, table: PaperTable, method: str, model: str, measured: Measured, extra: Path | None) -> Compared:
    """Our number for a covered row: the mean over its concepts, of the records that agree best with how theirs was measured."""
    reading, concepts = table.reading(row), planning.concepts_of(table, row, model)
    assert isinstance(reading, Reading) and isinstance(concepts, list), "a covered row has both"
    parts, protocol = [], _known(table.protocol, extra)
    reasons: dict[str, None] = {}
    for concept in concepts:
        settings = planning.settings_of(table, model) if protocol else ()
        work = Work(model, protocol, ("original",), (concept,), settings=settings)
        expected, why = planning.composed(work, extra)
        if expected is None:
            return Compared(row, method, lacks=why or "")
        name = "+".join(expected.concept)
        cells = measured.frame
        cells = cells[(cells["model_name"] == model) & (cells["method_name"] == method) & (cells["concept_name"] == name)]
        candidates = list(_candidates(row, reading, cells, measured, expected if protocol else None, protocol))
        if not candidates:
            return Compared(row, method, lacks=NOT_RUN)
        attacks = () if reading.attack == "none" else (reading.attack,)
        planned = intended(replace(work, methods=(method,), attacks=attacks if set(attacks) <= set(table.attacks) else ()), extra)
        told = [(*c[:3], c[3] + other_settings([measured.specifications[key] for key in c[4]], planned, attacks)) for c in candidates]
        value, low, high, differences = min(told, key=lambda c: len(c[3]))
        parts.append((value, low, high))
        reasons |= dict.fromkeys(differences)
    mean = sum(value for value, _, _ in parts) / len(parts)
    low, high = parts[0][1:] if len(parts) == 1 else (None, None)
    return Compared(row, method, mean, low, high, tuple(reasons))


def _known(protocol: str | None, extra: Path | None) -> str | None:
    return None if protocol is None or lacks("protocol", protocol, extra) else protocol


@cache
def intended(work: Work, extra: Path | None) -> dict:
    """Method, attacks and model of the plan's command, in the words of a record's specification. Imports the plugins, loads no model."""
    from vestige.bench.contract import building
    from vestige.bench.contract.plugin import Attack, Method
    from vestige.bench.contract.types import ModelSpec, plain
    from vestige.bench.models.fingerprints import weights_digest
    from vestige.bench.run.choices import chosen_attacks

    tree, why = planning.composed(work, extra)
    if tree is None:
        raise ValueError(why)
    model = building.typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"), keep_name=True)
    attacks = {
        name: building.specification(building.plugin(entry, Attack, f"attack.{name}")) for name, entry in chosen_attacks(tree).items()
    }
    made = {"method": building.specification(building.plugin(tree.method, Method, "method")), "attacks": attacks}
    made |= {"sampler": {"arguments": dict(tree.model.sampler.arguments)}, "held_out": tree.get("held_out")}
    return made | {"model": {**plain(model), "weights": weights_digest(model)}}


def other_settings(specifications: list[dict], planned: dict, attacks: tuple[str, ...]) -> list[str]:
    """One sentence that names where the records' method, model, sampler arguments or attacks are not the planned ones, or nothing."""
    if not all({"model", "method", "sampler"} <= set(spec) for spec in specifications):
        return [OTHER_SETTINGS + "the record does not say its own"]
    found: dict[str, None] = {}
    for spec in specifications:
        ours = spec["method"][1] | {"model": spec["model"], "sampler": {"arguments": spec["sampler"].get("arguments", {})}}
        ours, theirs = (part | {"held_out": some.get("held_out")} for part, some in ((ours, spec), (planned["method"], planned)))
        theirs |= {"model": planned["model"], "sampler": planned["sampler"]}
        for name in attacks:
            ours, theirs = (part | {name: some.get("attacks", {}).get(name)} for part, some in ((ours, spec), (theirs, planned)))
        found |= dict.fromkeys(_differences(flat(ours), flat(theirs)))
    return [OTHER_SETTINGS + ", ".join(found)] if found else []


def _differences(ours: dict, theirs: dict) -> Iterable[str]:
    for fact in sorted(ours.keys() | theirs.keys()):
        one, two = ours.get(fact), theirs.get(fact)
        pinned = fact in ("model.revision", "model.weights") and two is None  # theirs is whatever the hub or folder holds
        if json.dumps(one) != json.dumps(two) and not pinned:
            yield f"{fact.removeprefix('params.').removeprefix('model.')} {_shown(one)} for {_shown(two)}"


def _shown(value) -> str:
    if isinstance(value, str) and Path(value).is_absolute():
        return "a folder of your own"  # a page to share names no one's disk
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Candidate = tuple[float, float | None, float | None, list[str], list[str]]


def _candidates(row, reading: Reading, cells, measured: Measured, expected, protocol) -> Iterable[Candidate]:
    """(value, low, high, disagreements, keys of the records) in the published unit, one per record or, for composites, per method of
    one identity (bench/reports/identity.py)."""
    if reading.composite:
        yield from _composites(row, reading, cells, measured, expected, protocol)
        return
    if reading.cost:
        for job in cells.drop_duplicates("key").dropna(subset=[reading.cost]).itertuples(index=False):
            yield scaled(getattr(job, reading.cost), row.unit, reading), None, None, ["other machine"], [job.key]
        return
    metric, _, column = reading.column.partition(".")
    asked = cells[(cells["split"] == reading.split) & (cells["attack_name"] == reading.attack)]
    for cell in asked[(asked["metric_name"] == metric) & (asked["column"] == column)].itertuples(index=False):
        value = getattr(cell, reading.value)
        if value is None or value != value:
            continue
        reasons = _disagreements(row, measured, [cell.key], [(reading.split, metric, column)], cell.sampler, expected, protocol)
        bounds = (cell.ci_low, cell.ci_high) if reading.value == "value" and cell.ci_low == cell.ci_low else (None, None)
        factor = cell.n if reading.total else 1
        low, high = (None if x is None else scaled(x * factor, row.unit, reading) for x in bounds)
        low, high = (high, low) if reading.complement else (low, high)
        yield scaled(value * factor, row.unit, reading), low, high, reasons, [cell.key]


def _composites(row, reading: Reading, cells, measured: Measured, expected, protocol) -> Iterable[Candidate]:
    from vestige.bench.reports.aggregates import AggregateScores, Missing
    from vestige.bench.reports.composite_catalogue import CATALOGUE
    from vestige.bench.statistics.resampling import interval

    composite = next((c for c in CATALOGUE if c.name == reading.composite), None)
    if composite is None:
        return
    rule = reading.composite.removeprefix("nudity_")  # judges of nudity are told apart by their rule too
    read = [(split, name.split(".")[0], rule) for part in composite.parts.values() for split in part.splits for name in part.columns]
    place, everyone = ["model", "sampler", "protocol", "concept"], measured.frame
    for (*where, method), own in cells.groupby([*place, "method"]):
        concept, sampler = where[place.index("concept")], where[place.index("sampler")]
        aggregate_scores = AggregateScores(everyone[(everyone[place] == where).all(axis=1)], measured.score_table)
        try:
            value = aggregate_scores.point(composite, method, [concept])
            low, high = interval(aggregate_scores.draws(composite, method, [concept]), aggregate_scores.units(composite, [concept]))
        except Missing:
            continue
        if value == value:
            reasons = _disagreements(row, measured, own["key"].unique().tolist(), read, sampler, expected, protocol)
            score_table = own.loc[own["split"].isin({split for split, *_ in read}), "n"].max() if reading.total else 1
            yield (*(scaled(float(x) * score_table, row.unit, reading) for x in (value, low, high)), reasons, own["key"].unique().tolist())


def scaled(value: float, unit: str, reading: Reading) -> float:
    """Ours in the published unit: shares are stored as fractions, CLIP scores as cosine x 100, times in seconds."""
    value = 1 - value if reading.complement else value
    if unit in ("percent", "percent points"):
        return 100 * value
    if unit == "cosine":
        return value / 100
    return value / {"minutes": 60, "MB": 1e6}.get(unit, 1)


def _disagreements(row, measured: Measured, keys: list[str], read: list[tuple], sampler: str, expected, protocol) -> list[str]:
    """read: (split, metric, column) of every number that enters ours."""
    specifications = [measured.specifications.get(key, {}) for key in keys]
    judges = {judge for spec in specifications for split, metric, column in read if (judge := judge_of(spec, split, metric, column))}
    asked = {_followed(spec, {split for split, *_ in read}, expected, protocol) for spec in specifications}
    words = published.sampler_words(json.loads(sampler)) if sampler and sampler != "null" else ""
    return published.disagreements(row, " and ".join(sorted(asked)), " and ".join(sorted(judges)), words)


def judge_of(specification: dict, split: str, metric: str, column: str) -> str:
    """The identity of what decided a stored number, as results/published writes it: a judge, clip:<model>, or <metric>:<features>."""
    metrics = (specification.get("splits", {}).get(split) or [{}])[-1]
    params = metrics.get(metric, {}).get("params", {})
    if "judge" in params:
        return params["judge"]
    if "clip" in params:
        return f"clip:{params['clip']}"
    if "detector" in params:
        return f"{params['detector']}:{column}"
    if "extractor" in params:
        return f"{metric}:{params['extractor']}/{params.get('reference', 'original')}"
    return f"{metric}:{column}" if params else ""


def _followed(specification: dict, splits: set[str], expected, protocol: str | None) -> str:
    """The protocol's name if the record asked these splits as the protocol does, else what it asked."""
    if protocol is None:
        return ""
    wanted, asked = planning.splits_of(expected), specification.get("splits", {})
    other = []
    for split in sorted(splits & (set(wanted) | set(asked))):
        ours, theirs = (entry[:3] if entry else None for entry in (asked.get(split), wanted.get(split)))
        if ours != theirs:
            other.append(f"{split} {_asked(ours)} in place of {_asked(theirs)}")
    return f"{protocol} with {', '.join(other)}" if other else protocol


def _asked(split: list | None) -> str:
    return "none" if split is None else f"{split[0]} {split[1]} x {split[2]}"


# Shown


def blocks(rows: list[Compared], records: Path) -> list[Block]:
    """One line per value that was measured or could be. Theirs is grey, with a footnote, where the two may not be compared."""
    shown = [one for one in rows if one.method]
    if not any(one.ours is not None for one in shown):
        place = (
            os.path.relpath(records) if records.absolute().is_relative_to(Path.cwd()) else records
        )  # a page to share names no one's disk
        return [f"No comparison: {place} has no records of this table."]
    footnotes: dict[str, int] = {}
    lines: list[Row] = []
    for one in shown:
        marks = [footnotes.setdefault(why, len(footnotes) + 1) for why in one.reasons]
        note = "".join(f" {raised(mark)}" for mark in marks)
        theirs = Cell(f"{one.row.value:g}{note}", one.row.value, grey=bool(marks))
        method = one.row.method if one.row.method == one.method else f"{one.row.method}: {one.method}"
        lines.append([method, one.row.concept, one.row.metric, one.row.unit, _number(one), theirs, one.row.trust])
    notes = [f"{raised(k)} {why}." for why, k in footnotes.items()]
    notes.append("Brackets: 95 % interval, prompts resampled. Trust: A authors' files, B issues, C transcribed, D measured by others.")
    return [Table(["method: ours", "concept", "metric", "unit", "ours", "theirs", "trust"], lines, notes)]


def _number(one: Compared) -> Cell:
    if one.ours is None:
        return Cell(one.lacks)
    bounds = "" if one.low is None else f" [{one.low:.3g}, {one.high:.3g}]"
    return Cell(f"{one.ours:.4g}{bounds}", one.ours)


def as_csv(rows: list[Compared]) -> str:
    """Every published value of the tables, tidy, with ours. agrees (in how it was measured): yes, no, or empty where there
    is none of ours, or only one with other settings."""
    extra = ["our_method", "ours", "ours_low", "ours_high", "agrees", "reason"]
    out = io.StringIO()
    writer = csv.DictWriter(out, [*published.COLUMNS, *extra], lineterminator="\n")
    writer.writeheader()
    for one in rows:
        silent = one.ours is None or any(why.startswith(OTHER_SETTINGS) for why in one.reasons)
        agrees = "" if silent else ("no" if one.reasons else "yes")
        own = [one.method, one.ours, one.low, one.high, agrees, "; ".join(one.reasons) or one.lacks]
        writer.writerow(asdict(one.row) | dict(zip(extra, own, strict=True)))
    return out.getvalue()
