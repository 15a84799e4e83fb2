"""How much faster the prompts of a cell are attacked as one batch than one by one: `make bench`.

On the emoji model, unattacked by any eraser, at a small budget and with a judge that always says no, so that every search runs
to its end. Both ways do the same work: rows of a batch do not see each other. CPU time of one thread, so that a busy machine
matters little.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir

from vestige.bench.contract.plugin import Attack, Context, Victim
from vestige.bench.contract.types import PromptSet, Sampler
from vestige.bench.models import loading
from vestige.bench.places import CONF, results
from vestige.bench.run import composing, resolvers
from vestige.bench.run.job import Job
from vestige.bench.run.provenance import provenance

STEPS = 5  # per image; 20 in the emoji settings
SMALL = {  # the emoji settings with a budget of seconds
    "unlearn_diff_atk": {"number_of_t": 2, "steps_per_t": 5},
    "p4d": {"steps": 10, "evaluate_every": 10},
    "dori_embedding": {"steps": 3},
    "sneakyprompt": {"queries": 2},
    "random_seeds": {"tries": 2},
    "ring_a_bell": {"generations": 5},
    "circumventing": {"steps": 10},
}
REASONS = {
    "ring_a_bell": "searches row after row, its population is the batch",
    "circumventing": "learns one word per concept, whatever the number of prompts",
}


def seconds(attack: Attack, victim: Victim, asked: list[PromptSet], context: Context) -> float:
    begun = time.process_time()
    for some in asked:
        with victim.pipe.preserved():
            attack.attack(victim, some, replace(context, history=[]))
    return time.process_time() - begun


def emoji_job(rows: int) -> Job:
    """The attacks with their emoji settings, a dog, and `rows` prompts about it."""
    resolvers.register_resolvers()
    chosen = ["model=emoji", "concept=[dog]", "method=original", "split=[target]", f"attack=[{','.join(SMALL)}]"]
    small = [f"split.target.rows={rows}", "split.target.repeats=1", f"model.sampler.steps={STEPS}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composing.build_job(compose("run", [*chosen, *small]))


def main(rows: int, repeats: int, out: Path) -> None:
    torch.set_num_threads(1)
    job = emoji_job(rows)
    pipe, original = loading.load(job.model), loading.load(job.model)
    victim = Victim(pipe, job.concepts, job.method, job.sampler, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
    whole = job.prompts_of(job.splits["target"])
    single = [replace(whole, table=whole.table.iloc[[k]].reset_index(drop=True)) for k in range(rows)]

    def images(asked: PromptSet, how: Sampler):
        """Noise in place of the original model's images: drawing these is shared by all jobs and no part of an attack."""
        shape = (len(asked) * asked.repeats, 3, how.height, how.width)
        return SimpleNamespace(pixels=lambda: torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8))

    took, context = {}, Context(("bench",), job.sampler, lambda: original, images)
    for name, small in SMALL.items():
        attack = replace(job.attacks[name], **small)  # type: ignore[type-var]  # every plugin is a dataclass
        seconds(attack, victim, single[:1], context)  # judges and CLIP models are loaded
        runs = [(seconds(attack, victim, [whole], context), seconds(attack, victim, single, context)) for _ in range(repeats)]
        took[name] = [statistics.median(side) for side in zip(*runs, strict=True)]
        print(name, took[name], flush=True)

    facts = provenance()
    lines = [f"# {rows} prompts as one batch against one by one", ""]
    lines += [__doc__.split("\n\n")[1].replace("\n", " ").strip(), ""]
    lines += ["| attack | one batch, CPU seconds | one by one, CPU seconds | times as fast | |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {one:.2f} | {many:.2f} | {many / one:.1f} | {REASONS.get(name, '')} |" for name, (one, many) in took.items()]
    how = "One run" if repeats == 1 else f"Median of {repeats} runs"
    lines += ["", f"{how}, with torch {facts['packages']['torch']} on {facts['machine']}."]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results() / "bench" / "attack_batching.md")
    main(**vars(parser.parse_args()))
