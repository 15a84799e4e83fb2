"""No attack: the control for every attack."""

from dataclasses import dataclass

from vestige.bench.contract.plugin import Attack, Context, Victim
from vestige.bench.contract.types import Adversary, PromptSet


@dataclass
class NoAttack(Attack):
    """Asks the prompts as they are."""

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        return Adversary(prompts)
