"""What every judge answers, and the judge that is a classifier with one or several heads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vestige.bench.contract.batches import in_batches
from vestige.bench.contract.types import Concept
from vestige.bench.prompts.prompt_sets import slug

Columns = tuple[str, list[int]]  # a head and the columns there that mean one label


@dataclass(frozen=True)
class Verdict:
    """Per image: was the expected label among the first answers (bool [n]), and its probability (float [n]).

    An image that cannot be judged (no face in it) has the probability NaN and is not present.
    """

    present: Tensor
    probability: Tensor

    @property
    def judged(self) -> Tensor:
        return ~self.probability.isnan()


class PresenceJudge:
    """Calls a classifier and looks the expected labels up in the head that knows them.

    `logits` maps uint8 images [n, 3, h, w] to {head: [n, labels]}; `labels` names each head's columns. `groups` names sets of
    columns (a group is seen when any member is): name -> (head, columns). `family` is the key of a concept's `labels` that
    holds this judge's word for the concept. A judge that `abstains` returns rows of NaN for images it cannot judge. Without
    `logits` it knows its labels, and judges nothing (bench.judges.blank).
    """

    def __init__(
        self,
        logits: Callable[[Tensor], dict[str, Tensor]] | None,
        labels: dict[str, list[str]],
        name: str,
        groups: dict[str, Columns] | None = None,
        family: str = "",
        abstains: bool = False,
    ) -> None:
        self.abstains = abstains
        self.logits: Callable[[Tensor], dict[str, Tensor]] = logits or self._without_network
        self.labels, self.name, self.groups, self.family = labels, name, groups or {}, family
        self.wording: dict[str, str] = {}  # concept slug -> the label that means it
        self.meta: dict = {}  # what a score's meta data say about the judge beside its name

    def _without_network(self, images: Tensor) -> dict[str, Tensor]:
        raise ValueError(f"judge {self.name} has no network: it knows its labels only.")

    def about(self, concepts: list[Concept]) -> Self:
        """The same judge, which also knows the concepts by their slugs where their files name its label."""
        informed = copy.copy(self)
        informed.wording = self.wording | {c.slug: slug(c.labels[self.family]) for c in concepts if self.family in c.labels}
        return informed

    def among(self, candidates: list[str]) -> PresenceJudge:
        """The judge for a set of images that expects these labels: zero-shot judges choose among them."""
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        """`expect`: one label per image; `names`: how many objects its prompt names, so how many object answers count."""
        if not len(images) == len(expect) == len(names):
            raise ValueError(f"judge {self.name}: {len(images)} images, {len(expect)} expected labels, {len(names)} counts must agree.")
        if len(images) == 0:
            raise ValueError(f"judge {self.name}: there is no image to judge.")
        places = [self.place(label) for label in expect]
        logits = self._answers(images)
        order = {head: answer.argsort(dim=-1, descending=True) for head, answer in logits.items()}
        share = {head: answer.float().softmax(-1) for head, answer in logits.items()}
        present, probability = [], []
        for row, ((head, columns), count) in enumerate(zip(places, names, strict=True)):
            k = max(1, int(count)) if head == "object" else 1  # an image has one style and one background
            present.append(not set(columns).isdisjoint(order[head][row, :k].tolist()))
            probability.append(share[head][row, columns].sum().item())
        chance = torch.tensor(probability)
        return Verdict(torch.tensor(present) & ~chance.isnan(), chance)

    def present(self, images: Tensor, expect: list[str]) -> Tensor:
        """The yes or no an attack may ask for: bool [n], one object per image."""
        return self(images, expect, [1] * len(expect)).present

    def ranking(self, labels: list[str]) -> PresenceJudge:
        """The judge that ranks its answers about images of these labels: itself (a chain has several)."""
        return self

    def with_logits(self, logits: Callable[[Tensor], dict[str, Tensor]]) -> PresenceJudge:
        """The same judge with its network."""
        whole = copy.copy(self)
        whole.logits = logits
        return whole

    @torch.no_grad()
    def shares(self, images: Tensor) -> dict[str, Tensor]:
        """All answers: {head: probabilities [n, labels]}."""
        return {head: answer.float().softmax(-1) for head, answer in self._answers(images).items()}

    def _answers(self, images: Tensor) -> dict[str, Tensor]:
        """All logits, on the CPU."""
        parts = [some for _, some in in_batches([images], self.logits, f"images that {self.name} judges")]
        return {head: torch.cat([some[head].cpu() for some in parts]) for head in parts[0]}

    def columns(self, label: str) -> Columns | None:
        """The head that knows a label, concept or group, and its columns there. A label goes before a group of that name."""
        word = self.wording.get(label, label)
        for head, known in self.labels.items():
            if word in known:
                return head, [known.index(word)]
        return self.groups.get(word)

    def knows(self, label: str) -> bool:
        return self.columns(label) is not None

    def place(self, label: str) -> Columns:
        """The same; raises a ValueError for a label nobody knows."""
        found = self.columns(label)
        if found is None:
            shown = {**self.labels, **({"groups": list(self.groups)} if self.groups else {})}
            heads = "; ".join(f"{head}: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" for head, known in shown.items())
            raise ValueError(f"judge {self.name!r} does not know the label {label!r} (column expect of the prompt set). It knows {heads}.")
        return found
