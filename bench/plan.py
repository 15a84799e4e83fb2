"""`vestige plan`: what a run would find in the store, what it would compute, and what it cannot do."""

from __future__ import annotations

from bench import prompts
from bench.config import Job


def plan_job(job: Job) -> dict:
    """Print one line per probe and attack; loads no model. The record's key is not known before weights are hashed."""
    from bench.run import Runner

    runner = Runner(job)
    title = f"{job.method_name} x {'+'.join(c.slug for c in job.concepts)} on {job.model.name}"
    why_not = job.method.supports(job.model, job.concepts)
    if why_not:
        print(f"{title}: unsupported: {why_not}")
        return {"status": "unsupported"}
    erased = runner.find_erased()
    print(f"{title}: erase {'cached' if erased else 'missing'}")
    for probe in job.probes.values():
        asked = prompts.build(probe.name, probe.prompts, probe.rows, probe.repeats, job.concepts, job.model.vocabulary)
        for name, attack in runner.attacks_of(probe).items():
            why_not = attack.supports(job.model, job.concepts, job.method)
            state = f"unsupported: {why_not}" if why_not else f"{len(asked) * probe.repeats} pictures, metrics {', '.join(probe.metrics)}"
            print(f"  {probe.name:<12} {name:<18} {state}")
    return {"status": "planned"}
