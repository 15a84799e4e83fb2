"""Asks for the concept as people do: by a synonym, a description, with a typing error, in a long text, in an odd scene.

No optimisation and no look at the erased model, so the list of prompts is the same for every method. Families after
ml-postech/HUB@3f4957b, jasper0314-huang/Receler@3ccedc9 and fmp453/erase-eval@fab9900; written anew. Unlike theirs, no
language model writes prompts and no filter by the original model's success is applied: the control column shows that rate.
"""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from vestige.attacks.typos import TYPOS, misspell
from vestige.attacks.wording import concept_of, contains_any, instead, named_as
from vestige.bench.contract.plugin import Attack, Context, Victim
from vestige.bench.contract.types import Adversary, Concept, PromptSet, derived_seed
from vestige.bench.models.text import TextSide
from vestige.bench.prompts.prompt_sets import with_articles

WORDINGS = ("synonym", "description", "typo", "long_context", "compositional")


@dataclass
class Paraphrase(Attack):
    """Each row is asked in the next family in turn; columns `family` and `names_concept` say how."""

    wordings: list[str]
    q: float  # chance that a word is misspelt
    typo_words: str  # name: only the concept's words; all: every word of the prompt
    typos: list[str]  # kinds of errors, one is drawn per misspelt word
    positions: list[int]  # in turn: how many tokens stand before the prompt in a long context
    filler: str  # harmless text, repeated to fill these tokens
    compositions: list[str]  # templates with {name} and {other}
    style_compositions: list[str]  # the same for styles and artists, where {other} is a thing
    seed: int  # of the typing errors

    access: ClassVar[str] = "text"
    needs: ClassVar[tuple[str, ...]] = ("draw", "words")

    def __post_init__(self) -> None:
        _allowed("wordings", self.wordings, WORDINGS)
        _allowed("typos", self.typos, tuple(TYPOS))
        _allowed("typo_words", [self.typo_words], ("name", "all"))

    def transfers(self) -> bool:
        return True

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        texts, families = [], []
        turns: dict[str, int] = {}
        for row in prompts.table.to_dict("records"):
            concept = concept_of(row, victim.concepts)
            word = named_as(row["prompt"], concept) if concept else None
            choices = self.usable(concept) if concept and word else []
            if concept is None or word is None or not choices:
                texts.append(row["prompt"])
                families.append("unchanged")
                continue
            turn = turns[concept.slug] = turns.get(concept.slug, -1) + 1
            family, again = choices[turn % len(choices)], turn // len(choices)
            texts.append(self.ask(family, again, row, word, concept, victim.pipe.text))
            families.append(family)
        names = [contains_any(text, [c.name for c in victim.concepts]) for text in texts]
        left_out = {c.slug: [f for f in self.wordings if f not in self.usable(c)] for c in victim.concepts}
        return Adversary(prompts.with_prompts(texts, family=families, names_concept=names), meta={"families_without_words": left_out})

    def usable(self, concept: Concept) -> list[str]:
        """The families this concept has words for. A description that uses the name or a synonym is none."""
        words = {"synonym": concept.aliases, "description": _descriptions(concept), "compositional": self.scenes(concept)}
        return [family for family in self.wordings if words.get(family, True)]

    def scenes(self, concept: Concept) -> list[str]:
        return self.style_compositions if concept.kind == "style" else self.compositions

    def ask(self, family: str, again: int, row: dict, word: str, concept: Concept, text: TextSide) -> str:
        """One row in one family; `again` counts the rows this family already had."""
        prompt = row["prompt"]
        if family == "typo":
            rng = Random(derived_seed("paraphrase", self.seed, row["row_id"]))
            return misspell(prompt, word if self.typo_words == "name" else prompt, self.q, self.typos, rng)
        if family == "long_context":
            return f"{_filled(self.filler, self.positions[again % len(self.positions)], text)} {prompt}"
        if family == "compositional":
            other = concept.others[again % len(concept.others)] if concept.others else "box"
            scenes = self.scenes(concept)
            scene = scenes[again % len(scenes)].format(name="\0", other=other)
            return with_articles(instead(scene, "\0", concept.name))
        phrases = concept.aliases if family == "synonym" else _descriptions(concept)
        # The first phrase that differs: a synonym split already uses one of the aliases.
        fresh = [phrase for phrase in phrases if phrase.lower() != word.lower()] or phrases
        return instead(prompt, word, fresh[again % len(fresh)])


def _descriptions(concept: Concept) -> list[str]:
    return [text for text in concept.descriptions if not contains_any(text, [concept.name, *concept.aliases])]


def _filled(filler: str, tokens: int, text: TextSide) -> str:
    """Words of the filler, over and over, while they fit into so many tokens."""
    words = filler.split()
    chosen: list[str] = []
    while len(text.token_ids(" ".join([*chosen, words[len(chosen) % len(words)]]))) <= tokens:
        chosen.append(words[len(chosen) % len(words)])
    return " ".join(chosen)


def _allowed(key: str, values: list[str], known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise ValueError(f"paraphrase.{key}={values} is not usable. Allowed: {', '.join(known)}. Set attack.paraphrase.{key}=[...].")
