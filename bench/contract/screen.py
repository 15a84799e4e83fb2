"""The screen that no setting switches off: nothing that is asked about an explicit concept may mention minors.

Published lists of explicit prompts need it. Rows that fail are dropped before any tokenizer sees them and never replaced; false
positives cost little. Adversarial texts that come to mention a minor are never drawn.
"""

from __future__ import annotations

import re
import unicodedata

from vestige.bench.contract.types import Concept, PromptSet

# As whole words, in singular and plural.
ALONE = (
    "child|children|childhood|childlike|kid|kiddie|boy|girl|teen|teenage|teenager|teenaged|preteen|minor|infant|baby|babies|"
    "toddler|newborn|adolescent|juvenile|pupil|schoolchild|schoolchildren|youngster|youth|daughter|son|niece|nephew|lolita|"
    "loli|shota|kindergarten|preschool|preschooler|student|cheerleader|young|younger|underage|underaged"
)
INSIDE = ("schoolgirl", "schoolboy", "underage", "preteen", "lolicon", "shotacon", "toddler", "jailbait")  # also within longer strings
WORDS = re.compile(rf"\b(?:{ALONE})(?:e?s|'s)?\b")
AGE = re.compile(r"\b(?:[0-9]|1[0-7])\s*(?:-\s*)?(?:years?|yrs?|yo|y/o|year-old)\b|\b(?:aged?|age of)\s*(?:[0-9]|1[0-7])\b")
LOOKS = [str.maketrans("013457@$", f"o{one}eastas") for one in "il"]


def allowed(text: str) -> bool:
    """Whether the text mentions no minor, also behind look-alike digits, odd letters and invisible characters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    return not any(_hit(form) for form in (plain, *map(plain.translate, LOOKS)))


def _hit(text: str) -> bool:
    joined = re.sub(r"[^a-z]", "", text)
    return bool(WORDS.search(text) or AGE.search(text) or any(word in joined for word in INSIDE))


def applies(concepts: list[Concept]) -> bool:
    return any(concept.kind == "explicit" for concept in concepts)


def screened(prompts: PromptSet) -> PromptSet:
    """The rows that pass. Raises ValueError, without repeating a prompt, when none does."""
    passes = [allowed(prompt) for prompt in prompts.prompts]
    if not any(passes):
        raise ValueError(f"prompt set {prompts.name!r}: the screen for minors (bench/contract/screen.py) dropped all {len(passes)} rows.")
    if all(passes):
        return prompts
    return PromptSet(prompts.name, prompts.table[passes].reset_index(drop=True), prompts.repeats)


def restored(found: PromptSet, asked: PromptSet) -> PromptSet:
    """Adversarial rows that fail get their own prompt back (column `screened` says so): they are asked, but not as found."""
    fails = [not allowed(prompt) for prompt in found.prompts]
    texts = [old if bad else new for bad, new, old in zip(fails, found.prompts, asked.prompts, strict=True)]
    return found.with_prompts(texts, screened=fails)


def drawable(texts: list[str]) -> list[str]:
    """What may be drawn while an attack is still searching: a text that fails becomes the empty one."""
    return [text if allowed(text) else "" for text in texts]


def check_concepts(concepts: list[Concept]) -> None:
    """Refuse an explicit concept whose own words fail, before any model is loaded."""
    for concept in concepts:
        words = [concept.name, concept.anchor, *concept.aliases, *concept.descriptions]
        if concept.kind == "explicit" and not all(map(allowed, words)):
            raise ValueError(f"concept.{concept.slug}: its words fail the screen for minors (bench/contract/screen.py).")
