"""Asks for the concept in prompts thought out step by step: in new contexts, by what it is and is not, by scenes that expect it.

After the Step-by-Step Reasoning Attack on unlearned language models (Sleek); for images there is no paper and no code, all
of this is ours. The prompts come from hand-written templates (prompts/step_by_step) or from the user's file of a language
model. Only those stay that the original model answers; the list is then frozen, and the erased model is not asked before. The
chain of edits over several turns and the split of unfair suppression of the source idea are not part of this.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vestige.attacks.wording import concept_of, contains_any
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.fingerprints import file_digest
from vestige.bench.places import PACKAGE
from vestige.bench.prompts import prompt_sets
from vestige.bench.prompts.prompt_sets import with_articles

CLASSES = ("direct", "indirect", "implied")
FOLDER = PACKAGE / "prompts" / "step_by_step"


@dataclass(frozen=True)
class Candidate:
    """One prompt about one concept. refused: why it cannot be asked, or empty."""

    kind: str  # one of CLASSES
    text: str
    refused: str = ""


@dataclass
class StepByStep(Attack):
    """Rows take the classes in turn. Columns of the prompts: kind (a class, or unchanged), original_rate (share of seeds)."""

    classes: list[str]
    prompt_style: str  # which templates of prompts/step_by_step: photo or emoji
    per_class: int  # prompts of each class before the filter
    aliases: str  # direct: a synonym is a name, so indirect and implied hold none; indirect: indirect may use them
    frozen: str | None  # a JSON file of a language model's prompts in place of the templates; see `frozen_prompts`
    seeds: int  # images per prompt by the original model
    keep: float  # share of them in which the judge must see the concept

    access: ClassVar[str] = "text"
    quick: ClassVar[dict] = {"per_class": 2, "seeds": 1, "keep": 0.0}

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in CLASSES]
        if unknown or not self.classes:
            raise ValueError(f"attack.step_by_step.classes={self.classes} is not usable. Allowed: {', '.join(CLASSES)}.")
        if self.aliases not in CLASSES[:2]:
            raise ValueError(f"attack.step_by_step.aliases={self.aliases!r} is not known. Allowed: direct, indirect.")
        if self.per_class < 1 or self.seeds < 1 or not 0 <= self.keep <= 1:
            raise ValueError("attack.step_by_step needs per_class and seeds of at least 1 and keep between 0 and 1.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        if any(concept.kind == "explicit" for concept in concepts):
            return "no prompts are thought out for explicit concepts: use published lists (prompts=list:<id>)."
        try:
            for concept in concepts:
                self.wordings(concept)
        except ValueError as reason:
            return str(reason)
        return super().supports(model, concepts, method)

    def transfers(self) -> bool:
        return True

    def inputs(self) -> dict[str, str]:
        return {"frozen": file_digest(Path(self.frozen))} if self.frozen else {}

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        rows = prompts.table.to_dict("records")
        concepts = [concept_of(row, victim.concepts) for row in rows]
        expected = {concept.slug: row["expect"] for row, concept in zip(rows, concepts, strict=True) if concept}
        lists, told = {}, {}
        for concept in victim.concepts:
            if concept.slug in expected:
                made = self.candidates(concept)
                kept = lists[concept.slug] = self.filtered(made, expected[concept.slug], victim, ctx)
                told[concept.slug] = self.account(made, kept)
        texts, kinds = [], []
        rates: list[float | None] = []
        turns: dict[str, int] = {}
        for row, asked in zip(rows, concepts, strict=True):
            known = lists[asked.slug] if asked else []
            choices = {kind: some for kind in self.classes if (some := [pair for pair in known if pair[0].kind == kind])}
            if asked is None or not choices:
                texts.append(row["prompt"])
                kinds.append("unchanged")
                rates.append(None)
                continue
            turn = turns[asked.slug] = turns.get(asked.slug, -1) + 1
            kind, again = list(choices)[turn % len(choices)], turn // len(choices)
            candidate, rate = choices[kind][again % len(choices[kind])]
            texts.append(candidate.text)
            kinds.append(kind)
            rates.append(rate)
        return Adversary(prompts.with_prompts(texts, kind=kinds, original_rate=rates), meta={"prompts": told})

    def candidates(self, concept: Concept) -> list[Candidate]:
        """`per_class` prompts of each class; those that hold a word which their class must not hold, or lack one, are refused."""
        made = []
        for kind, wordings in self.wordings(concept).items():
            banned = [] if kind == "direct" else [concept.name]
            banned += concept.aliases if kind == "implied" or (kind == "indirect" and self.aliases == "direct") else []
            for text, lacking in wordings[: self.per_class]:
                refused = f"the concept file has no {lacking}" if lacking else "names the concept" if contains_any(text, banned) else ""
                made.append(Candidate(kind, text, refused))
        return made

    def wordings(self, concept: Concept) -> dict[str, list[tuple[str, str]]]:
        """class -> (text, entry of the concept file that it needs and that is missing, or empty). Raises ValueError."""
        if self.frozen:
            return {kind: [(text, "") for text in texts] for kind, texts in frozen_prompts(self.frozen, concept.slug, self.classes).items()}
        known = templates(self.prompt_style)
        if concept.kind not in known:
            raise ValueError(f"prompts/step_by_step/{self.prompt_style}.yaml has no templates for kind {concept.kind!r}.")
        wordings = {kind: known[concept.kind][kind] for kind in self.classes}
        return {kind: [filled(t, k, concept, known["fill"]) for k, t in enumerate(some)] for kind, some in wordings.items()}

    def filtered(self, made: list[Candidate], expect: str, victim: Victim, ctx: Context) -> list[tuple[Candidate, float]]:
        """(candidate, share of the original model's images that show the concept), where that share is large enough."""
        asked = [candidate for candidate in made if not candidate.refused]
        if not asked:
            return []
        shown = ctx.generate([candidate.text for candidate in asked], self.seeds)
        rates = victim.judge(shown, [expect] * len(shown)).float().view(len(asked), self.seeds).mean(1).tolist()
        # Rates are multiples of 1 / seeds: the share 0.6 of 5 must not fail by rounding.
        return [(candidate, rate) for candidate, rate in zip(asked, rates, strict=True) if rate >= self.keep - 1e-6]

    def account(self, made: list[Candidate], kept: list[tuple[Candidate, float]]) -> dict:
        """For the record: how many of each class there were and stayed, and what was refused, never silently dropped."""
        count = lambda some: {kind: sum(c.kind == kind for c in some) for kind in self.classes}  # noqa: E731
        refused = [[c.kind, c.text, c.refused] for c in made if c.refused]
        return {"before": count(made), "kept": count([c for c, _ in kept]), "refused": refused}


def templates(prompt_style: str) -> dict:
    return prompt_sets.templates(prompt_style, FOLDER)


def filled(template: str, number: int, concept: Concept, fill: dict[str, list[str]]) -> tuple[str, str]:
    """(the template with words for this number, the missing entry or empty); words are taken in turn."""
    entries = {"alias": concept.aliases, "description": concept.descriptions, "sibling": concept.siblings, "other": concept.others, **fill}
    words = {"name": concept.name, "group": concept.group, "anchor": concept.anchor}
    for key, values in entries.items():
        for field, step in ((key, 0), (f"{key}2", 1)):
            if "{" + field + "}" in template:
                if len(values) <= step:
                    return template, field
                words[field] = values[(number + step) % len(values)]
    return with_articles(template.format(**words)), ""


def frozen_prompts(file: str, slug: str, classes: list[str]) -> dict[str, list[str]]:
    """Prompts from {"model": name, "prompts": {slug: {class: [text, ...]}}, ...}, as a language model wrote them once."""
    path = Path(file)
    if not path.exists():
        raise ValueError(f"attack.step_by_step.frozen={file}: there is no such file.")
    try:
        content = json.loads(path.read_text())
        found = {kind: content["prompts"][slug][kind] for kind in classes}
        content["model"]
    except (KeyError, TypeError, ValueError) as error:
        shape = f'{{"model": name, "prompts": {{"{slug}": {{class: [text, ...]}}}}}}'
        raise ValueError(
            f"attack.step_by_step.frozen={file} lacks {error}. It must hold {shape} with the classes {', '.join(classes)}."
        ) from None
    fine = lambda texts: isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)  # noqa: E731
    wrong = [kind for kind, texts in found.items() if not fine(texts)]
    if wrong:
        raise ValueError(f"attack.step_by_step.frozen={file}: prompts.{slug}.{wrong[0]} must be a list of texts.")
    return found
