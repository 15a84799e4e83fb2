"""`vestige plan`: what a run would find in the store, what it would compute, and what it cannot do."""

from __future__ import annotations

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
        asked = job.prompts_of(probe)
        for name, attack in runner.attacks_of(probe).items():
            why_not = attack.supports(job.model, job.concepts, job.method)
            state = f"unsupported: {why_not}" if why_not else _state(runner, erased, probe, name, attack, asked)
            print(f"  {probe.name:<12} {name:<24} {state}")
    return {"status": "planned"}


def _state(runner, erased, probe, name, attack, asked) -> str:
    """What of one cell the store holds; its later stages have no key before the earlier ones exist."""
    attacked = attack.access != "none"
    adversary = runner.find_attack(erased, attack, name, asked) if erased and attacked else None
    known = erased and (adversary or not attacked)
    images = runner.find_images(erased, adversary, asked) if known else None
    words = [f"attack {'cached' if adversary else 'missing'}"] if attacked else []
    words += [f"{len(asked) * probe.repeats} pictures {'cached' if images else 'missing'}", f"metrics {', '.join(probe.metrics)}"]
    return ", ".join(words)
