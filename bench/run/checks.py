"""What is wrong with a job, and what this machine lacks for it, before a model is loaded."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
from numbers import Integral
from pathlib import Path

from vestige.bench.contract.types import Sampler
from vestige.bench.models import device, loading
from vestige.bench.models.architecture import is_flow
from vestige.bench.models.capabilities import unsupported
from vestige.bench.models.families import family
from vestige.bench.prompts import prompt_sets
from vestige.bench.run.job import Job


def check(job: Job, planned: bool = False) -> None:
    """Mistakes, whatever the machine holds. planned: nothing will be written, not even to see whether that can be done."""
    job.runtime.check(writes=not planned)
    device.check(job.runtime.device)
    _batch_size(job.runtime.batch_size, "runtime.batch_size")
    loading.check(job.model)
    check_sampler(job.sampler, job.model.family)
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
            unsupported_reason = unsupported(metric, job.model, job.concepts)
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


def check_sampler(sampler: Sampler, name: str) -> None:
    """Raise a ValueError for numbers that draw nothing and for a scheduler of another noise process, with what to type."""
    layout = family(name)
    layout.check_sampler(sampler) if layout.own_sampler else _check_scheduler(sampler, name)
    _check_numbers(sampler, name)


def _check_scheduler(sampler: Sampler, name: str) -> None:
    where, layout, known = "model.sampler", family(name), _schedulers()
    if sampler.scheduler not in known:
        near = ", ".join(difflib.get_close_matches(sampler.scheduler, sorted(known), 3)) or "none"
        raise ValueError(f"{where}.scheduler={sampler.scheduler!r} is no scheduler of diffusers. Near names: {near}.")
    if is_flow(sampler.scheduler) == layout.diffusion:
        process, fits = ("a diffusion", "DDIMScheduler") if layout.diffusion else ("a rectified flow", "FlowMatchEulerDiscreteScheduler")
        raise ValueError(
            f"{where}.scheduler={sampler.scheduler} does not fit model.family={name}, which is {process}. Type {where}.scheduler={fits}."
        )


def _check_numbers(sampler: Sampler, name: str) -> None:
    where = "model.sampler"
    if sampler.steps < 1:
        raise ValueError(f"{where}.steps={sampler.steps}: an image takes at least one step. Type a whole number such as {where}.steps=50.")
    if not math.isfinite(sampler.guidance):
        raise ValueError(f"{where}.guidance={sampler.guidance} is not finite. Type a number such as {where}.guidance=7.5 (1: no guidance).")
    for side in ("height", "width"):
        asked, cell = getattr(sampler, side), family(name).cell
        if asked < cell or asked % cell:
            fits = max(cell, round(asked / cell) * cell)
            raise ValueError(
                f"{where}.{side}={asked} is off the grid of latents: sides of model.family={name} are multiples of {cell} pixels. "
                f"Type {where}.{side}={fits}."
            )


def whole_number(key: str, value: object) -> int:
    """A setting that counts from 0, such as a seed: int() would cut 1.5 to 1 without a word."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key}={value!r} is not a whole number from 0 on. Type one such as {key}=0.")
    return int(value)


def _schedulers() -> set[str]:
    """Names from diffusers' list of lazy imports: importing diffusers would load torch before the checks are done."""
    package = importlib.util.find_spec("diffusers")
    assert package is not None and package.origin is not None, "diffusers is a dependency"
    return set(re.findall(r'"(\w+Scheduler)"', Path(package.origin).read_text()))
