"""What the record of one job says: its specification, one cell per measured column, what it cost, what makes it doubtful."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vestige.bench.contract import flags
from vestige.bench.contract.building import specification
from vestige.bench.contract.plugin import Attack, Metric
from vestige.bench.contract.types import Adversary, Scores, canonical_hash, plain
from vestige.bench.run import generate
from vestige.bench.run.job import Job, Split
from vestige.bench.run.provenance import provenance
from vestige.bench.run.store_folder import Stage, write_atomically
from vestige.bench.statistics import score_intervals

FAILED = "failed"  # folder beside the records: later runs of a finished job that did not succeed


def empty(job: Job, model_spec: dict) -> dict:
    """Of a job that has measured nothing yet. Its key is a function of what was asked, never of what came out."""
    spec = {
        "model": model_spec,
        "concepts": plain(job.concepts),
        "method": [job.method_name, specification(job.method)],
        "attacks": {name: specification(a) for name, a in job.attacks.items()},
        "splits": {
            p.name: [p.prompts, p.rows_for(job.concepts), p.repeats, p.attacked, {m: specification(x) for m, x in p.metrics.items()}]
            for p in job.splits.values()
        },
        "sampler": plain(job.sampler),
        "attack_judge": job.attack_judge,
        "held_out": job.held_out,
        "seed": job.seed,
        "until": job.until,
    }
    if len(job.steps) > 1:
        spec["steps"] = [[c.slug for c in step] for step in job.steps]
    if job.protocol:
        spec["protocol"] = job.protocol
    facts = provenance()
    return {
        "key": canonical_hash(spec),
        "specification": spec,
        "status": "running",
        "reason": None,
        "error": None,
        "model": job.model.name,
        "domain": job.model.domain,
        "protocol": job.protocol,
        "method": job.method_name,
        "intervention": job.method.intervention,
        "detachable": job.method.detachable,
        "limits": job.method.limits,
        "concepts": [c.slug for c in job.concepts],
        "steps": steps(job),
        "kind": job.concepts[0].kind,
        "seed": job.seed,
        "sampler": plain(job.sampler),
        "follows_concept": job.follows_concept,
        "inputs": {},
        "cells": [],
        "judges": {},
        "screened": {},
        "cost": {},
        "stages": {},
        "code": {},
        "stale": [],
        "flags": [],
        "command": " ".join(facts["command"]),
        "provenance": facts,
    }


def steps(job: Job, erased: Sequence[Stage] = ()) -> list[dict]:
    """What was erased after what; of finished steps also their stage and what it cost. One entry for a job without steps."""
    told: list[dict] = [{"concepts": [c.slug for c in step]} for step in job.steps]
    for entry, stage in zip(told, erased, strict=False):
        entry |= {"key": stage.key, "digest": stage.digest, "seconds": stage.meta["facts"]["erase_seconds"]}
    return told


SUMMED = ("rows", "seconds", "bytes")  # ends of the costs that add up over steps; memory at one time does not


def erase_cost(erased: Sequence[Stage]) -> dict:
    """Of all steps together: a job that appends a step reports those before it too, whoever made them."""
    costs = [stage.meta["facts"] for stage in erased]
    total = dict(costs[-1])
    for name, value in total.items():
        if name == "erase_peak_bytes":
            total[name] = max(cost[name] for cost in costs)
        elif name.endswith(SUMMED) and value is not None:
            total[name] = sum(cost[name] for cost in costs)
    return total


def inputs(job: Job) -> dict:
    """Digests of the files of one's own that the job reads: for tables, which never join what was made from other files."""
    from vestige.bench import judges  # loads torch

    asked = judges.inputs(job.attack_judge) if any(a.access not in ("none", "text") for a in job.attacks.values()) else {}
    splits = {p.name: {name: metric.inputs() for name, metric in p.metrics.items()} for p in job.splits.values()}
    attacks = {name: attack.inputs() | asked for name, attack in job.attacks.items()}
    return {"method": job.method_inputs(), "attacks": attacks, "splits": splits}


def unmeasured(split: Split, attack_name: str, attack: Attack, reason: str | None = None) -> dict:
    """A cell without a number."""
    blank = dict.fromkeys(("metric", "column", "judge", "candidates", "value", "ci_low", "ci_high", "score", "images"))
    head = {"split": split.name, "attack": attack_name, "access": attack.access, "n": 0, "groups": 0, "higher_is_better": True}
    return {**head, **blank, "reason": reason, "budget": {}, "flags": [], "found_at": None, "code": {}}


def cells(
    split: Split, attack_name: str, attack: Attack, metric_name: str, metric: Metric, images: Stage, scored: Stage, scores: Scores
) -> list[dict]:
    """One per column that the metric gave. scores: what lies in the stage `scored`."""
    index = generate.load(images.path).index
    base = unmeasured(split, attack_name, attack) | {"metric": metric_name, "score": scored.reference, "images": images.reference}
    base |= {"candidates": ",".join(sorted(key for lists in candidates(scores.meta).values() for key in lists)) or None}
    base |= {"judge": getattr(metric, "judge", None), "n": len(index), "groups": int(index["group"].nunique())}
    base["roles"] = sorted(index["role"].unique())
    made = []
    for column in scores.totals:
        value, low, high = score_intervals.measured(column, metric, scores, index)
        better = metric.columns.get(column, metric.columns.get(column.split("_")[0], True))
        warnings = flags.of_answers(scores.per_image[column]) if scores.per_image is not None and column == "present" else []
        head = base | {"value": value, "flags": warnings} | ({"reason": "no image could be judged"} if value is None else {})
        made.append(head | {"column": column, "ci_low": low, "ci_high": high, "higher_is_better": better})
    return made


def candidates(told: dict) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Judge -> hash -> head -> the texts it chose among, out of what a judge says of itself (a score's or an attack's meta data)."""
    who = told.get("ranked_by", told.get("judge"))
    found: dict = {who: {told["candidates_hash"]: told["candidate_texts"]}} if "candidate_texts" in told else {}
    for name, member in told.get("members", {}).items():
        found |= candidates({"judge": name, **member})
    return found


def note_candidates(record: dict, scores: Scores, adversary: Stage | None) -> None:
    """Add to the record the lists that zero-shot judges chose from, each once; its cells name them by their hash."""
    told = [scores.meta]
    told += [adversary.meta["facts"]["judge"]] if adversary and "judge" in adversary.meta["facts"] else []
    for meta in told:
        for judge, lists in candidates(meta).items():
            record["judges"].setdefault(judge, {}).update(lists)


def images_facts(images: Stage) -> dict:
    """Shares of the images that are blank (of one colour, or not finite) and that a filter withheld; None of stages that do not say."""
    facts = images.meta["facts"]
    return {name: facts[name] / max(1, facts["images"]) if name in facts else None for name in ("blank", "withheld")}


def attack_facts(adversary: Stage | None, images: Stage) -> dict:
    """What a cell says beside its number: the attack's budget and what makes it doubtful (bench/contract/flags.py)."""
    facts, raised, found_at = {}, images.meta["facts"].get("flags", []), None
    if adversary:
        tried = Adversary.load_prompts(adversary.path).table.get("found_at")
        found_at = None if tried is None else tried.astype(int).tolist()
        facts = {"seconds": adversary.meta["seconds"], **adversary.meta["facts"]["budget"]}
        raised = adversary.meta["facts"].get("flags", []) + raised
    return {"budget": facts, "flags": raised, "found_at": found_at, **images_facts(images)}


def line(record: dict) -> str:
    """How a job ended, in one line: the last one of a run, and the one of `vestige status`."""
    steps = [step["concepts"] for step in record.get("steps") or [record]]
    done = f"{record['status']:<11} {record['method']} x {' > '.join(map('+'.join, steps))} on {record['model']}  [{record['key']}]"
    warnings = f"  flags: {', '.join(record['flags'])}" if record.get("flags") else ""
    old = record.get("stale")
    stale = f"  stale: {len(old)} results made by other code were used, first {old[0]}" if old else ""
    return done + warnings + (f"  {record['reason']}" if record["reason"] else "") + stale


def unattacked(measured: list[dict], drawn: dict[str, Stage]) -> list[Stage]:
    """The image stages of these cells without attack (drawn: reference -> stage)."""
    return [drawn[reference] for reference in sorted({c["images"] for c in measured if c["images"] and c["attack"] == "none"})]


def speed(images: list[Stage]) -> dict:
    """Of one image, as these stages measured it."""
    timed = [stage.meta["facts"]["timed"] for stage in images]
    shown = sum(t["images"] for t in timed)
    if not shown:
        return {}
    names = {"seconds_per_image": "seconds", "cpu_seconds_per_image": "cpu_seconds", "rows_per_image": "forward_rows"}
    return {name: sum(t[counter] for t in timed) / shown for name, counter in names.items()}


def code_of_images(images: list[Stage]) -> dict:
    """One digest for all of them, however many versions of the code drew them."""
    made_by = sorted({stage.meta["code"] for stage in images})
    return {} if not made_by else {"images": made_by[0] if len(made_by) == 1 else canonical_hash(made_by)}


def code_of(**stages: Stage | None) -> dict:
    """Kind -> digest of the code that made the stage (bench/run/code.py)."""
    return {kind: stage.meta["code"] for kind, stage in stages.items() if stage}


def write(made: dict, folder: Path) -> None:
    """One file per key. A run that failed or was not let in does not replace what was done: it is kept in failed/ until one succeeds."""
    name, failed = f"{made['key']}.json", made["status"] in ("failed", "busy")
    if failed and _was_done(folder / name):
        write_atomically(folder / FAILED / name, json.dumps(made, indent=1, sort_keys=True))
        return
    write_atomically(folder / name, json.dumps(made, indent=1, sort_keys=True))
    if not failed:
        (folder / FAILED / name).unlink(missing_ok=True)


def _was_done(file: Path) -> bool:
    try:
        return json.loads(file.read_text())["status"] == "done"
    except (OSError, ValueError, KeyError):
        return False
