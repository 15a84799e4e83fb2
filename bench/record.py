"""What the record of one job says: its specification, one cell per measured column, what it cost, what makes it doubtful."""

from __future__ import annotations

import json

from bench import generate, score_intervals
from bench.config import Job, Probe, specification
from bench.plugin import Attack, Metric
from bench.provenance import provenance
from bench.store import Stage, Store
from bench.types import Adversary, Scores, canonical_hash, plain


def empty(job: Job, model_spec: dict) -> dict:
    """Of a job that has measured nothing yet. Its key is a function of what was asked, never of what came out."""
    spec = {
        "model": model_spec,
        "concepts": plain(job.concepts),
        "method": [job.method_name, specification(job.method)],
        "attacks": {name: specification(a) for name, a in job.attacks.items()},
        "probes": {
            p.name: [p.prompts, p.rows_for(job.concepts), p.repeats, p.attacked, {m: specification(x) for m, x in p.metrics.items()}]
            for p in job.probes.values()
        },
        "sampler": plain(job.sampler),
        "attack_judge": job.attack_judge,
        "seed": job.seed,
        "until": job.until,
    }
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
        "protocol": job.protocol,
        "method": job.method_name,
        "mechanism": job.method.mechanism,
        "removable": job.method.removable,
        "limits": job.method.limits,
        "concepts": [c.slug for c in job.concepts],
        "kind": job.concepts[0].kind,
        "seed": job.seed,
        "sampler": plain(job.sampler),
        "cells": [],
        "screened": {},
        "cost": {},
        "stages": {},
        "flags": [],
        "command": " ".join(facts["command"]),
        "provenance": facts,
    }


def unmeasured(probe: Probe, attack_name: str, attack: Attack, reason: str | None = None) -> dict:
    """A cell without a number."""
    blank = dict.fromkeys(("metric", "column", "judge", "value", "ci_low", "ci_high", "score", "images"))
    head = {"probe": probe.name, "attack": attack_name, "access": attack.access, "n": 0, "groups": 0, "higher_is_better": True}
    return {**head, **blank, "reason": reason, "budget": {}, "flags": [], "found_at": None}


def cells(probe: Probe, attack_name: str, attack: Attack, metric_name: str, metric: Metric, images: Stage, scored: Stage) -> list[dict]:
    """One per column that the metric gave."""
    scores, index = Scores.load(scored.path), generate.load(images.path).index
    base = unmeasured(probe, attack_name, attack) | {"metric": metric_name, "score": scored.reference, "images": images.reference}
    base |= {"judge": getattr(metric, "judge", None), "n": len(index), "groups": int(index["group"].nunique())}
    made = []
    for column in scores.totals:
        value, low, high = score_intervals.measured(column, metric, scores, index)
        better = metric.columns.get(column, metric.columns.get(column.split("_")[0], True))
        head = base | {"value": value} | ({"reason": "no picture could be judged"} if value is None else {})
        made.append(head | {"column": column, "ci_low": low, "ci_high": high, "higher_is_better": better})
    return made


def attack_facts(adversary: Stage | None, images: Stage) -> dict:
    """What a cell says beside its number: the attack's budget and what makes it doubtful (bench/flags.py)."""
    facts, flags, found_at = {}, images.meta["facts"].get("flags", []), None
    if adversary:
        tried = Adversary.load_prompts(adversary.path).table.get("found_at")
        found_at = None if tried is None else tried.astype(int).tolist()
        facts = {"seconds": adversary.meta["seconds"], **adversary.meta["facts"]["budget"]}
        flags = adversary.meta["facts"].get("flags", []) + flags
    return {"budget": facts, "flags": flags, "found_at": found_at}


def speed(measured: list[dict], store: Store) -> dict:
    """Seconds per picture, as the image stages of these cells measured them."""
    stages = {c["images"] for c in measured if c["images"] and c["attack"] == "none"}
    metas = [json.loads((store.root / s / "stage.json").read_text()) for s in sorted(stages)]
    drawn = sum(m["facts"]["pictures"] for m in metas)
    return {"seconds_per_image": sum(m["seconds"] for m in metas) / drawn} if drawn else {}
