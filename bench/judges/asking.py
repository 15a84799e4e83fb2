"""Judges that answer one question at a time: is this in the image, yes or no? Detectors, visual language models, safety filters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vestige.bench.contract.batches import in_batches
from vestige.bench.contract.types import Concept
from vestige.bench.judges.presence import Verdict


class AskingJudge:
    """`ask` maps (uint8 images [n, 3, h, w], what to look for, in words) to (present bool [n], probability float [n]).

    It asks for a concept by its name, or by the word its file gives under the judge's family, and for anything else by its label.
    """

    def __init__(self, ask: Callable[[Tensor, str], tuple[Tensor, Tensor]] | None, name: str, family: str = "") -> None:
        self.ask: Callable[[Tensor, str], tuple[Tensor, Tensor]] = ask or self._without_network
        self.name, self.family, self.abstains = name, family, False
        self.wording: dict[str, str] = {}
        self.meta: dict = {}

    def _without_network(self, images: Tensor, what: str) -> tuple[Tensor, Tensor]:
        raise ValueError(f"judge {self.name} has no network: it knows its labels only.")

    def about(self, concepts: list[Concept]) -> AskingJudge:
        informed = copy.copy(self)
        informed.wording = self.wording | {c.slug: c.labels.get(self.family, c.name) for c in concepts}
        return informed

    def among(self, candidates: list[str]) -> AskingJudge:
        return self

    def knows(self, label: str) -> bool:
        """Any word can be asked for."""
        return bool(label)

    @torch.no_grad()
    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        """`names` (how many objects the prompt names) plays no part: things do not compete here."""
        if not len(images) == len(expect) == len(names) or len(images) == 0:
            raise ValueError(f"judge {self.name}: {len(images)} images, {len(expect)} labels and {len(names)} counts must agree, from 1.")
        present, probability = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images))
        for label in sorted(set(expect)):
            rows = [k for k, other in enumerate(expect) if other == label]
            present[rows], probability[rows] = self._answers(images[rows], self.wording.get(label, label.replace("_", " ")))
        return Verdict(present, probability)

    def _answers(self, images: Tensor, what: str) -> Iterator[Tensor]:
        """What `ask` answers, on the CPU."""
        parts = [both for _, both in in_batches([images], lambda some: self.ask(some, what), f"images that {self.name} judges")]
        return (torch.cat([part.cpu() for part in each]) for each in zip(*parts, strict=True))

    def present(self, images: Tensor, expect: list[str]) -> Tensor:
        """The yes or no an attack may ask for: bool [n]."""
        return self(images, expect, [1] * len(expect)).present


class OneQuestionJudge(AskingJudge):
    """Asks the same whatever the label, so it knows only the concepts whose files say so: `labels` with this judge's family."""

    def about(self, concepts: list[Concept]) -> AskingJudge:
        informed = copy.copy(self)
        informed.wording = self.wording | {c.slug: c.labels[self.family] for c in concepts if self.family in c.labels}
        return informed

    def knows(self, label: str) -> bool:
        return label in self.wording
