"""The baseline of every attack that asks a judge: draw again from another seed until the judge says yes.

Whoever may try often succeeds by chance alone (attacks on stopped searches report a maximum over many images). The control of
UnlearnDiffAtk and P4D; here with any number of tries, so that it can be given at least another attack's budget: a table cuts the run
to the tries that the compared attack could have paid for, and gives no difference where there were fewer.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.attacks._rows import ByRow
from vestige.bench.contract.plugin import Attack, Context, Victim
from vestige.bench.contract.types import Adversary, PromptSet, derived_seed
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Trajectory


@dataclass
class RandomSeeds(Attack):
    """Columns of the prompts: seed_number (0: the row's own), found_at (1-based try, -1 never)."""

    tries: int  # images per row, the row's own seed first

    access: ClassVar[str] = "images"
    quick: ClassVar[dict] = {"tries": 2}

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"attack.random_seeds.tries={self.tries} must be at least 1.")

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n = len(prompts)
        found, expected = [-1] * n, prompts.table["expect"]
        for number in ctx.resumable("tries", range(self.tries), found=found):
            todo = [k for k in range(n) if found[k] < 0]
            if not todo:
                break
            with victim.pipe.sampled_by(_reseeded(prompts, [number] * n)):
                hits = victim.judge(victim.images(prompts, todo), expected.iloc[todo].tolist()).tolist()
            for k in (k for k, hit in zip(todo, hits, strict=True) if hit):
                found[k] = number + 1
        chosen = [max(at - 1, 0) for at in found]
        rates = {"tries": self.tries, "rate_at_first": sum(at == 1 for at in found) / n, "rate_at_last": sum(at > 0 for at in found) / n}
        return Adversary(prompts.with_prompts(prompts.prompts, seed_number=chosen, found_at=found), meta=rates)

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return pipe.sampled_by(_reseeded(adversary.prompts, adversary.prompts.table["seed_number"].tolist()))


def _reseeded(prompts: PromptSet, numbers: list[int]):
    """A course whose rows begin, and draw noise, from their seed number `numbers[row]`."""
    number_of = ByRow(prompts, torch.tensor(numbers))

    class Reseeded(Trajectory):
        def __init__(self, pipe, seeds, sampler, image_ids=None) -> None:
            image_ids = tuple(seeds if image_ids is None else image_ids)
            pairs = zip(seeds, number_of(image_ids).tolist(), strict=True)
            chosen = [seed if k == 0 else derived_seed(seed, "random_seeds", k) for seed, k in pairs]
            super().__init__(pipe, chosen, sampler, image_ids)

    return Reseeded
