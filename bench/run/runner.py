"""One job, in order: erase, attack, generate, score, record. The only file that knows the order."""

from __future__ import annotations

import traceback
from functools import partial

from vestige.bench.contract import flags, screen
from vestige.bench.contract.plugin import Attack
from vestige.bench.contract.types import Scores
from vestige.bench.models.capabilities import unsupported
from vestige.bench.prompts.prompt_sets import NothingToAsk
from vestige.bench.run import record
from vestige.bench.run.attack_cells import null_of
from vestige.bench.run.job import UNTIL, Job, Split
from vestige.bench.run.stages import Stages
from vestige.bench.run.store import Stale
from vestige.bench.run.store_locks import Busy


def run_job(job: Job) -> dict:
    """Run (or complete from the store) one job and write its record. A failed cell is recorded, not raised.

    Raises Stale (a ValueError) and writes no record where a stage was made by other code and the job refuses it.
    """
    stages = Stages(job)
    made = record.empty(job, stages.model_spec)
    if job.unsupported_reason:
        made |= {"status": "unsupported", "reason": job.unsupported_reason}
    else:
        try:
            with stages.unsafe_images_deleted():
                fill(made, stages)
            made["status"] = "done"
        except Stale:
            raise
        except Busy as busy:
            made |= {"status": "busy", "reason": str(busy)}
        except Exception as error:  # a failed cell is a result: it is recorded with the command that repeats it
            made |= {"status": "failed", "reason": f"{type(error).__name__}: {error}", "error": traceback.format_exc()}
        finally:
            stages.models.give_back()
    made |= {"stale": sorted(stages.store.kept), "flags": flags.of_record(made)}
    record.write(made, job.runtime.folder("records"))
    return made


def fill(made: dict, stages: Stages) -> None:
    """Every stage of the job up to `until`, and what the record says of it."""
    job, reached = stages.job, UNTIL.index(stages.job.until)
    made["inputs"] = record.inputs(job)
    erased = stages.erase()
    made["stages"]["erase"] = {"key": erased[-1].key, "digest": erased[-1].digest}
    made["steps"] = record.steps(job, erased)
    made["cost"] = record.erase_cost(erased)
    made["code"] = record.code_of(erase=erased[-1])
    for split in job.splits.values():
        try:
            asked = job.prompts_of(split)
        except NothingToAsk as reason:
            made["cells"].append(record.unmeasured(split, "none", Attack(), str(reason)))
            continue
        if screen.applies(job.concepts):
            made["screened"][split.name] = {"before": len(job.prompts_before_screen(split)), "after": len(asked)}
        for attack_name, attack in attacks_of(job, split).items():
            unsupported_reason = unsupported(attack, job.model, job.concepts, job.method)
            if unsupported_reason:
                made["cells"].append(record.unmeasured(split, attack_name, attack, unsupported_reason))
                continue
            adversary = stages.attack(erased, attack, attack_name, asked) if reached >= 1 and attack.access != "none" else None
            if reached < 2:
                continue
            images = stages.generate(erased, attack, adversary, asked)
            facts = record.attack_facts(adversary, images)
            again = partial(stages.generate, erased, attack, adversary, asked, whole=True)
            if reached < 3:
                continue
            for metric_name, metric in (split.metrics | null_of(attack)).items():
                scored = stages.score(metric, metric_name, images, asked, again, partial(stages.models.in_force, erased, attack, adversary))
                with stages.store.reading(images), stages.store.reading(scored):
                    scores = Scores.load(scored.path)
                    cells = record.cells(split, attack_name, attack, metric_name, metric, images, scored, scores)
                by = {"code": record.code_of(erase=erased[-1], attack=adversary, images=images, score=scored)}
                made["cells"] += [cell | facts | by | {"flags": cell["flags"] + facts["flags"]} for cell in cells]
                record.note_candidates(made, scores, adversary)
    plain = record.unattacked(made["cells"], stages.drawn)
    made["cost"] |= record.speed(plain)
    made["code"] |= record.code_of_images(plain)


def attacks_of(job: Job, split: Split) -> dict[str, Attack]:
    return job.attacks if split.attacked else {"none": Attack()}
