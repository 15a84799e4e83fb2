"""What is wrong with a job, and what this machine lacks for it, before a model is loaded."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from pathlib import Path

from vestige.bench.contract.types import Sampler
from vestige.bench.models import device, loading
from vestige.bench.prompts import prompt_sets
from vestige.bench.run.job import Job


def check(job: Job, planned: bool = False) -> None:
    """Mistakes, whatever the machine holds. planned: nothing will be written, not even to see whether that can be done."""
    job.runtime.check(writes=not planned)
    device.check(job.runtime.device)
    _batch_size(job.runtime.batch_size, "runtime.batch_size")
    _scheduler(job.sampler)
    loading.check(job.model)
    for name, split in job.splits.items():
        if min(split.rows, split.repeats, split.limit or 1) < 1:
            raise ValueError(f"split.{name}: rows, repeats and limit must be at least 1, got {split.rows}, {split.repeats}, {split.limit}.")
        for metric_name, metric in split.metrics.items():
            _batch_size(getattr(metric, "batch_size", 1), f"split.{name}.metrics.{metric_name}.batch_size")
        job._asked_here(split)  # refuses more rows than there are sentences


def missing(job: Job) -> list[str]:
    """What the job needs and this machine does not have, one sentence each: weights, prompt lists, metrics, the attacks' judge."""
    lacks, told = [device.missing(job.runtime.device), loading.missing(job.model)], set()
    for name, split in job.splits.items():
        lacks.append(prompt_sets.missing(split.prompts, job.concepts))
        for metric_name, metric in split.metrics.items():
            unsupported_reason = metric.supports(job.model, job.concepts)
            if unsupported_reason not in told:  # once, however many metrics need the same file
                lacks.append(unsupported_reason and f"split.{name}.metrics.{metric_name}: {unsupported_reason}")
                told.add(unsupported_reason)
    if job.asks_attack_judge:
        from vestige.bench import judges  # loads torch, which `vestige reproduce` does without

        try:
            judges.check(job.attack_judge)
        except ValueError as unsupported_reason:
            lacks.append(str(unsupported_reason))
    return unknown_labels(job) + list(dict.fromkeys(filter(None, lacks)))


def unknown_labels(job: Job) -> list[str]:
    """One sentence for each judge that is to be asked for labels it does not know. Loads no weights."""
    asked: dict[str, dict[str, list[str]]] = {}
    for where, judge, labels in job.judged():
        asked.setdefault(judge, {})[where] = labels
    if not asked:
        return []
    from vestige.bench import judges

    sentences: list[str] = []
    for judge, places in asked.items():
        try:
            lost = {where: some for where, labels in places.items() if (some := judges.unknown(judge, job.concepts, labels))}
        except ValueError:
            continue  # no such judge: its own check says so
        if lost:
            labels = list(dict.fromkeys(label for some in lost.values() for label in some))
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            where = f" (asked by {', '.join(list(lost)[:3])}{more})"
            if sentence := judges.unknown_labels(judge, job.model.domain, job.concepts, labels, where):
                sentences.append(sentence)
    return sentences


def _batch_size(size: int, setting: str) -> None:
    if size < 1:
        raise ValueError(f"{setting}={size}: a batch holds at least 1 image. Type {setting}=8.")


def _scheduler(sampler: Sampler) -> None:
    """Read the names from diffusers' list of lazy imports: importing diffusers would load torch before the checks are done."""
    package = importlib.util.find_spec("diffusers")
    assert package is not None and package.origin is not None, "diffusers is a dependency"
    listing = Path(package.origin).read_text()
    known = set(re.findall(r'"(\w+Scheduler)"', listing))
    if sampler.scheduler not in known:
        near = ", ".join(difflib.get_close_matches(sampler.scheduler, sorted(known), 3)) or "none"
        raise ValueError(f"model.sampler.scheduler={sampler.scheduler!r} is no scheduler of diffusers. Near names: {near}.")
