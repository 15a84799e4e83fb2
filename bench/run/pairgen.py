"""`vestige prompts pairgen`: prompts whose images are known to show a concept, and the same with another thing in its place.

After the concept generator and visual filter of ECGVF (EAR, Fan et al. 2025, arXiv 2506.20151), with a bank of templates in place
of language models: candidate pairs, drawn by the original model, are kept where the filter's judge sees the concept on most
images of one and on none of the other. The filter must not be the judge that scores: that one would meet a set made to please
it. Seeds of a run differ from the filter's, so that prompts are chosen and noise is not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from vestige.bench import judges
from vestige.bench.contract.types import Concept, PromptSet
from vestige.bench.models import device
from vestige.bench.prompts import prompt_sets
from vestige.bench.run import composing, generate, tree
from vestige.bench.run.job import Job

REPEATS = 3  # images per candidate
NEEDED = 2  # of them must show the concept; of its counterpart none may
BANK = {"target": "target", "replaced": "sibling"}  # column of a candidate -> role in the frozen set


def main(overrides: list[str]) -> int:
    """Compose a job as `vestige run` would, filter, and write one CSV per concept: prompts/pairs/<prompt style>/<slug>.csv."""
    options = dict(word.removeprefix("--").split("=", 1) for word in overrides if word.startswith("--") and "=" in word)
    unknown = sorted(set(options) - {"rows", "out"})
    if unknown:
        raise ValueError(f"pairgen does not know --{unknown[0]}. It knows --rows=24, --out=folder and the settings of `vestige run`.")
    job, scoring = composed([word for word in overrides if not word.startswith("--")])
    folder = Path(options["out"]) if "out" in options else Path("prompts/pairs") / job.model.prompt_style
    folder.mkdir(parents=True, exist_ok=True)
    if job.attack_judge == scoring:
        raise ValueError(f"the filter's judge model.attack_judge={job.attack_judge} is the one that scores (judge): choose another.")
    for concept in job.concepts:
        table = frozen(job, concept, int(options.get("rows", 24)))
        table.to_csv(folder / f"{concept.slug}.csv", index=False)
        kept = table.drop_duplicates("group")
        print(f"{folder / concept.slug}.csv: {len(kept)} pairs, the concept on {kept['base_rate'].mean():.0%} of the filter's images")
    return 0


def composed(overrides: list[str]) -> tuple[Job, str]:
    """The job, and the judge that scores in it."""
    settings = tree.composed(["method=original", "split=[target]", *overrides])
    return composing.build_job(settings), settings.judge


def frozen(job: Job, concept: Concept, n: int) -> pd.DataFrame:
    """The kept pairs of n candidates, two rows each: columns of a prompt set, and base_rate (images of the pair's target prompt
    that show the concept, by the filter). Raises ValueError when none is kept."""
    from vestige.bench.run.stages import Stages

    stages = Stages(job)
    with device.on(job.runtime.device):
        judge = judges.load(job.attack_judge).about([concept])
    seen = {}
    pairs = candidates(concept, n, job.model.prompt_style)
    for side in BANK:
        table = pd.DataFrame([{**pair[side], "expect": concept.slug} for pair in pairs])
        asked = PromptSet(f"pairgen-{side}-{job.model.prompt_style}-{concept.slug}", table, REPEATS)
        images = generate.load(stages.images(asked, job.sampler).path)
        hits = [hit for part in images.batches() for hit in judge.present(part, [concept.slug] * len(part)).tolist()]
        seen[side] = images.index.assign(hit=hits).groupby("row_id")["hit"].sum()
    rows = [
        {**pair[side], "role": role, "group": pair["target"]["row_id"], "base_rate": f"{shown / REPEATS:.2f}"}
        for pair in pairs
        for side, role in BANK.items()
        if (shown := seen["target"][pair["target"]["row_id"]]) >= NEEDED and seen["replaced"][pair["replaced"]["row_id"]] == 0
    ]
    if not rows:
        raise ValueError(f"no pair of {concept.slug} passes the filter: does model {job.model.name} draw it, and does its judge know it?")
    return pd.DataFrame(rows).astype({"base_rate": float})


def candidates(concept: Concept, n: int, prompt_style: str) -> list[dict[str, dict]]:
    """Pairs of rows that differ in one thing: a sibling (or, when all siblings are erased too, something unrelated) for the concept."""
    things = concept.asked_of(concept.siblings) or concept.asked_of(concept.others)  # they will be scored as kept
    if not things:
        raise ValueError(f"concept.{concept.slug} names neither siblings nor others: there is nothing to put in its place.")
    asked = _asked(concept, n, prompt_style)
    replaced = {thing: _asked(dataclasses.replace(concept, name=thing, slug=prompt_sets.slug(thing)), n, prompt_style) for thing in things}
    pairs = []
    for k, row in enumerate(asked):
        thing = things[k % len(things)]
        name = f"{concept.slug}-{k:03d}"
        pairs.append({"target": {**row, "row_id": name}, "replaced": {**replaced[thing][k], "row_id": f"{name}-replaced"}})
    return pairs


def _asked(concept: Concept, n: int, prompt_style: str) -> list[dict]:
    return prompt_sets.build("pairgen", "target", n, 1, [concept], prompt_style).table.to_dict("records")
