"""Zero-shot judges: a CLIP model picks the nearest of a list of texts. The list is never the asked label alone.

With one candidate beside "nothing" a CLIP sees it in every third image of something else. So each decision is made among the erased
concepts, all their siblings and unrelated things, the labels that are asked for, and names of distractors.yaml until LEAST stand
beside them, by head: objects, styles and persons do not compete with each other.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from vestige.bench.contract.building import read_yaml
from vestige.bench.contract.types import Concept, canonical_hash
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge, Verdict
from vestige.bench.prompts.prompt_sets import slug, with_articles
from vestige.bench.vision import clip_models, features

LISTS, DISTRACTORS = (Path(__file__).parent / name for name in ("candidates.yaml", "distractors.yaml"))
LEAST = 60  # names beside the erased concepts in each head, where the list has as many: a search that stops at a yes asks very often
HEADS = {"object": "object", "style": "style", "celebrity": "celebrity", "explicit": "object"}  # of each kind of concept
NOTHING = "nothing"


class ClipJudge(PresenceJudge):
    """The expected label must be nearer to the image than every other label of its head, and than nothing.

    With a closed list (template, labels) of candidates.yaml it competes with the labels of that list instead, and something is
    always seen. domain: photo or emoji, the part of distractors.yaml.
    """

    def __init__(self, clip, name: str, closed: tuple[str, list[str]] | None = None, domain: str = "photo") -> None:
        super().__init__(None, {}, name, family="clip")
        self.clip, self.closed, self.kinds = clip, closed, kinds_of_words(domain)
        self.texts: dict[str, dict[str, str]] = {"object": {}}  # head -> label -> text
        self.erased: dict[str, int] = dict.fromkeys(self.kinds, 0)  # head -> erased concepts there
        self.near: set[str] = set()  # words that name an erased concept: no distractor may hold one
        self.embedded: dict[tuple[str, ...], Tensor] = {}

    def about(self, concepts: list[Concept]) -> Self:
        informed = super().about(concepts)
        informed.wording = {c.slug: slug(c.name) for c in concepts} | informed.wording
        informed.texts, informed.erased = {head: dict(known) for head, known in self.texts.items()}, dict(self.erased)
        informed.near = self.near | {word for c in concepts for name in (c.name, *c.aliases) for word in slug(name).split("_")}
        for c in concepts:
            kind = c.kind if c.kind in self.kinds else "object"
            informed.erased[HEADS[kind]] += 1
            for name in (c.labels.get("clip", c.name), *c.siblings):
                informed._may_answer(kind, name)
            for name in c.others:
                informed._may_answer("object", name)
        return informed

    def knows(self, label: str) -> bool:
        return self.wording.get(label, label) in self.closed[1] if self.closed else bool(label)

    def __call__(self, images: Tensor, expect: list[str], names: list[int]) -> Verdict:
        return self.among(sorted(set(expect)))(images, expect, names)

    @torch.no_grad()
    def among(self, candidates: list[str]) -> PresenceJudge:
        """The judge that answers one of the list or nothing, `candidates` in it; one of the closed list where there is one."""
        texts = self._closed_texts(*self.closed) if self.closed else self._open_texts(candidates)
        written = {head: self._embed(tuple(known.values())) for head, known in texts.items()} if self.clip is not None else {}

        def logits(images: Tensor) -> dict[str, Tensor]:
            seen = torch.cat([self.clip.image(part) for part in images.split(32)])
            return {head: 100 * seen @ vectors.T for head, vectors in written.items()}

        chosen = PresenceJudge(logits, {head: list(known) for head, known in texts.items()}, self.name, family=self.family)
        chosen.wording = self.wording
        listed, ordered = ({head: list(of(known)) for head, known in texts.items()} for of in (dict.values, dict.items))
        chosen.meta = {"candidates": sum(map(len, listed.values())), "candidates_hash": canonical_hash(ordered), "candidate_texts": listed}
        return chosen

    def _closed_texts(self, template: str, labels: list[str]) -> dict[str, dict[str, str]]:
        return {"object": {label: template.format(label.replace("_", " ")) for label in labels}}

    def _open_texts(self, asked: list[str]) -> dict[str, dict[str, str]]:
        full = copy.copy(self)
        full.texts = {head: dict(known) for head, known in self.texts.items()}
        for word in sorted({self.wording.get(label, label) for label in asked}):
            if not any(word in known for known in full.texts.values()):
                full._may_answer("object", word.replace("_", " "))
        for head, known in full.texts.items():
            for name in self.kinds[head]["names"]:
                if len(known) >= LEAST + max(1, self.erased[head]):
                    break
                if self.near.isdisjoint(slug(name).split("_")):
                    full._may_answer(head, name)
        return {head: known | {NOTHING: self.kinds[head]["nothing"]} for head, known in full.texts.items() if known}

    def _may_answer(self, kind: str, name: str) -> None:
        known, label = self.texts.setdefault(HEADS[kind], {}), slug(name)
        if label not in known:
            known[label] = with_articles(self.kinds[kind]["template"].format(name))

    def _embed(self, texts: tuple[str, ...]) -> Tensor:
        if texts not in self.embedded:
            self.embedded[texts] = self.clip.text(list(texts))
        return self.embedded[texts]


@cache
def closed_list(name: str) -> tuple[str, list[str]]:
    """(template, labels) of a list of candidates.yaml."""
    lists = read_yaml(LISTS)
    if name not in lists:
        raise ValueError(f"there is no closed list {name!r} of candidates. Known: {', '.join(lists)} ({LISTS.name}).")
    return lists[name]["template"], lists[name]["labels"]


@cache
def kinds_of_words(domain: str) -> dict[str, dict]:
    """Kind -> template, nothing and names, of distractors.yaml, for a domain: photo or emoji."""
    kinds = read_yaml(DISTRACTORS)[domain]
    if domain == "emoji":
        from vestige.bench.world.content import catalog

        for kind, items in (("object", catalog.objects()), ("style", catalog.styles())):
            kinds[kind]["names"] = [item.name for item in items]
    return kinds


@dataclass
class ZeroShot(Judge):
    argument: ClassVar[str] = "model"

    model: str  # <open_clip model>/<pretrained tag or file>, hf:<folder or hub id>, or emoji
    candidates: str | None  # a closed list of candidates.yaml; null: the list follows the concepts

    def check(self, name: str) -> None:
        if self.candidates:
            closed_list(self.candidates)
        if "/" not in self.model and self.model != "emoji":
            word = name.partition(":")[0]
            raise ValueError(
                f"judge={name!r}: write {word}:<open_clip model>/<pretrained tag or file>, for example {word}:ViT-B-32/openai."
            )
        if importlib.util.find_spec("open_clip") is None:
            raise ValueError(f"judge={name} needs open_clip. Install it: pip install open_clip_torch")
        if unsupported_reason := features.check(f"clip:{self.model}"):
            raise ValueError(f"judge={name}: {unsupported_reason}")

    def inputs(self) -> dict[str, str]:
        judge = self.blank("")
        return clip_models.inputs(self.model) | {"candidates": canonical_hash(judge.closed or [judge.kinds, LEAST])}

    def blank(self, name: str) -> ClipJudge:
        closed = closed_list(self.candidates) if self.candidates else None
        return ClipJudge(None, name, closed, "emoji" if self.model == "emoji" else "photo")

    def load(self, name: str) -> ClipJudge:
        judge = self.blank(name)
        judge.clip = clip_models.load_clip(self.model)
        return judge
