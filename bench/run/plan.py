"""`vestige plan`: what a run would find in the store, what it would compute, what it cannot do, and what is missing here.

Works on a machine without the weights, judges and prompt lists that the run needs: each of them gets a line.
"""

from __future__ import annotations

from typing import Any

from vestige.bench.models.capabilities import unsupported
from vestige.bench.prompts import prompt_sets
from vestige.bench.run import shared_work
from vestige.bench.run.concept_sets import split_in_words
from vestige.bench.run.job import Job, Split


def plan_job(job: Job) -> dict:
    """Print one line per split and attack; loads no model. The record's key is not known before weights are hashed."""
    from vestige.bench.run.runner import attacks_of
    from vestige.bench.run.stages import Stages

    stages = Stages(job)
    stages.store.verify, stages.store.stale = False, "keep"  # a plan reads no result and refuses none
    under = f", protocol {job.protocol}" if job.protocol else ""
    title = f"{job.method_name} x {_together(job)} on {job.model.name}{under}"
    plan: dict[str, Any] = {"status": "planned", "missing": list(job.missing), "images": 0}
    if job.unsupported_reason:
        print(f"{title}: unsupported: {job.unsupported_reason}")
        return plan | {"status": "unsupported"}
    finished = stages.find_erased()
    erased = finished if len(finished) == len(job.steps) else []  # later stages have no key before all steps are there
    for line in _erasing(title, stages, finished):
        print(line)
    print("\n".join(split_in_words(job.concepts, job.given, most=16)))
    for split in job.splits.values():
        try:
            asked = None if prompt_sets.missing(split.prompts, job.concepts) else job.prompts_of(split)
        except prompt_sets.NothingToAsk as reason:
            print(f"  {split.name:<12} left out: {reason}")
            continue
        # A list that is not here has at most the rows that its manifest says.
        n = prompt_sets.rows_of(split.prompts, job.concepts, split.rows) if asked is None else len(asked)
        for name, attack in attacks_of(job, split).items():
            unsupported_reason = unsupported(attack, job.model, job.concepts, job.method)
            if unsupported_reason:
                state = f"unsupported: {unsupported_reason}"
            else:
                state = _state(stages, erased, split, name, attack, asked, n)
                plan["images"] += n * split.repeats
            print(f"  {split.name:<12} {name:<24} {state}")
    for line in judged(job):
        print(f"  {line}")
    return plan | {"stale": sorted(stages.store.kept), "damaged": stages.store.damaged, "rule": job.runtime.stale}


def _erasing(title: str, stages, finished: list) -> list[str]:
    """The state of every step, and of what the method and the attacks share with other jobs."""
    job = stages.job
    states = [_found(stages, stage) for stage in [*finished, *[None] * (len(job.steps) - len(finished))]]
    if len(job.steps) == 1:
        lines = [f"{title}: erase {states[0]}"]
    else:
        names = ["+".join(concept.slug for concept in step) for step in job.steps]
        lines = [f"{title}, {len(names)} steps:"]
        lines += [f"  step {number:<7} {name:<24} erase {state}" for number, (name, state) in enumerate(zip(names, states, strict=True), 1)]
    works = {work.name: work for plugin in (job.method, *job.attacks.values()) for work in plugin.shares()}
    return lines + [f"  {'shared':<12} {name:<24} {_found(stages, shared_work.find(stages, work))}" for name, work in works.items()]


WITH_STALE = {"keep": "kept", "refuse": "refused", "recompute": "made again"}


def _found(stages, stage) -> str:
    if stage is None:
        return "missing"
    stale = stages.store.kept.get(stage.reference)
    return f"cached, stale ({stale}): {WITH_STALE[stages.job.runtime.stale]}" if stale else "cached"


def judged(job: Job) -> list[str]:
    """What will be asked of whom: one line for each judge and its labels, with the places that ask so."""
    asked: dict[str, list[str]] = {}
    for where, judge, labels in job.judged():
        for told in _parts(judge, labels, job):
            asked.setdefault(told, []).append(where.removeprefix("split.").replace(".metrics.", "."))
    return [f"judge {', '.join(places)}: {told}" for told, places in asked.items()]


def _parts(judge_id: str, labels: list[str], job: Job) -> list[str]:
    """Of a chain of judges one line each; with the number of candidates of zero-shot judges, and the labels nobody knows."""
    from vestige.bench import judges

    try:
        lost = judges.unknown(judge_id, job.concepts, labels)
        judge = judges.blank(judge_id)
    except ValueError:  # no such judge: the plan lists that as missing
        return []
    told, known = [], [label for label in labels if label not in lost]
    if judge is None:
        told.append(f"{judge_id} for {_some(labels)}; its labels lie beside its weights, which are not here")
    else:
        informed = judge.about(job.concepts)
        members = informed.parted(known) if isinstance(informed, judges.Chain) else {judge_id: known}
        by_name = {member.name: member for member in getattr(informed, "members", [informed])}
        for name, some in members.items():
            if some:
                among = by_name[name].among(some).meta.get("candidates")
                told.append(f"{name} for {_some(some)}" + (f" among {among} candidates" if among else ""))
    return told + ([f"{judge_id} does not know {_some(lost)}"] if lost else [])


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:6])
    return shown if len(labels) <= 6 else f"{shown}, ... ({len(labels)})"


def summary(plans: list[dict]) -> str:
    """The grid in numbers, and once each what this machine lacks."""
    lacks = list(dict.fromkeys(sentence for plan in plans for sentence in plan["missing"]))
    lines = [f"in all: {len(plans)} jobs, {sum(plan['images'] for plan in plans):,} images"]
    stale = {reference for plan in plans for reference in plan.get("stale", ())}
    if stale:
        rules = "/".join(sorted({WITH_STALE[plan["rule"]] for plan in plans if plan.get("stale")}))
        lines.append(f"stale: {len(stale)} results were made by earlier code; they are {rules} (runtime.stale)")
    lines += dict.fromkeys(f"damaged, so computed again: {why}" for plan in plans for why in plan.get("damaged", {}).values())
    if lacks:
        lines.append(f"missing here, so `vestige run` refuses ({len(lacks)}):")
    return "\n".join(lines + [f"  {sentence}" for sentence in lacks])


def _state(stages, erased, split: Split, name, attack, asked, n: int) -> str:
    """What of one cell the store holds; its later stages have no key before the earlier ones exist."""
    attacked = attack.access != "none"
    adversary = stages.find_attack(erased, attack, name, asked) if erased and attacked and asked else None
    known = erased and asked and (adversary or not attacked)
    images = stages.find_images(erased, attack, adversary, asked) if known else None
    words = [f"attack {_found(stages, adversary)}"] if attacked else []
    words += [f"{n} x {split.repeats} = {n * split.repeats} images {_found(stages, images)}"]
    return ", ".join([*words, f"metrics {', '.join(split.metrics)}"])


def _together(job: Job) -> str:
    slugs = [concept.slug for concept in job.concepts]
    return "+".join(slugs) if len(slugs) <= 8 else f"{'+'.join(slugs[:2])}+... ({len(slugs)} concepts)"
