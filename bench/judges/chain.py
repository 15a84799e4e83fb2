"""Several judges as one, <judge>+<judge>+...: each label goes to the first that knows it, in every image and for every method.

No judge of photographs knows all words: a classifier of artists knows no church, one of ImageNet no octopus, a detector of bodies
only the concept it looks for. A zero-shot judge at the end knows what is left.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vestige.bench.contract.types import Concept
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.presence import PresenceJudge, Verdict

Member = PresenceJudge | AskingJudge


class Chain:
    """The interface of one judge. `meta` says what each member says about itself."""

    def __init__(self, members: list[Member], name: str) -> None:
        self.members, self.name = members, name

    @property
    def abstains(self) -> bool:
        return any(member.abstains for member in self.members)

    @property
    def meta(self) -> dict:
        told = {member.name: member.meta for member in self.members if member.meta}
        return {"members": told} if told else {}

    def about(self, concepts: list[Concept]) -> Chain:
        return self._with([member.about(concepts) for member in self.members])

    def among(self, candidates: list[str]) -> Chain:
        """Each member judges among all labels it is asked for here."""
        asked = self.parted(candidates)
        return self._with([member.among(asked[member.name]) if asked[member.name] else member for member in self.members])

    def knows(self, label: str) -> bool:
        return any(member.knows(label) for member in self.members)

    def parted(self, labels: list[str]) -> dict[str, list[str]]:
        """Member -> the labels it judges, in their order. Raises a ValueError for a label nobody knows."""
        parts: dict[str, list[str]] = {member.name: [] for member in self.members}
        for label in labels:
            parts[self._who(label).name].append(label)
        return parts

    def ranking(self, labels: list[str]) -> PresenceJudge:
        """The first member that ranks its answers and knows all these labels."""
        ranks = [member for member in self.members if isinstance(member, PresenceJudge)]
        found = next((member for member in ranks if all(map(member.knows, labels))), None)
        if found is None:
            raise ValueError(f"no member of judge {self.name!r} ranks answers and knows all of {', '.join(labels)}. Add one: +clip:...")
        return found

    @torch.no_grad()
    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        who = [self._who(label) for label in expect]
        present, probability = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images))
        for member in self.members:
            rows = [k for k, judge in enumerate(who) if judge is member]
            if rows:
                verdict = member(images[rows], [expect[k] for k in rows], [names[k] for k in rows])
                present[rows], probability[rows] = verdict.present, verdict.probability.float()
        return Verdict(present, probability)

    def present(self, images: Tensor, expect: list[str]) -> Tensor:
        """The yes or no an attack may ask for: bool [n]."""
        return self(images, expect, [1] * len(expect)).present

    def _who(self, label: str) -> Member:
        for member in self.members:
            if member.knows(label):
                return member
        raise ValueError(f"no member of judge {self.name!r} knows the label {label!r} (column expect of the prompt set).")

    def _with(self, members: list[Member]) -> Chain:
        changed = copy.copy(self)
        changed.members = members
        return changed
