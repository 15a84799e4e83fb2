"""Where a prompt names a concept, and the same prompt with other words in that place."""

import re

from vestige.bench.contract.types import Concept

ARTICLE = r"(?:(?P<article>\b(?:a|an|the)) )?"


def concept_of(row: dict, concepts: list[Concept]) -> Concept | None:
    """The erased concept a prompt row asks for: named in the prompt, else expected by the judge, else None."""
    named = [concept for concept in concepts if named_as(row["prompt"], concept)]
    expected = [concept for concept in concepts if concept.slug == row["expect"]]
    both = [concept for concept in named if concept in expected]
    return next(iter([*both, *named, *expected]), None)


def named_as(prompt: str, concept: Concept) -> str | None:
    """The name or alias, longest first, that stands in the prompt as whole words."""
    words = sorted([concept.name, *concept.aliases], key=len, reverse=True)
    return next((word for word in words if _place(word).search(prompt)), None)


def contains_any(text: str, words: list[str]) -> bool:
    """Whether one of the words occurs, also inside a longer word ("cat" in "catfish")."""
    return any(word.lower() in text.lower() for word in words)


def instead(prompt: str, word: str, phrase: str) -> str:
    """The prompt with `phrase` in place of every `word`, under a matching article.

    "a fluent dog" + "a loyal pet" -> "a fluent loyal pet"; "a dog" + "a loyal pet" -> "a loyal pet"; "an apple" + "tomato" -> "a tomato".
    """
    bare = re.sub(r"^(?:an?|the) ", "", phrase)

    def write(match: re.Match) -> str:
        article = match["article"]
        if article is None:
            return bare
        if article.lower() == "the" or phrase != bare:
            return f"{article} {bare}" if article.lower() == "the" else _capital_like(article, phrase)
        return _capital_like(article, f"an {bare}" if bare[:1].lower() in tuple("aeiou") else f"a {bare}")

    return re.sub(ARTICLE + _place(word).pattern, write, prompt, flags=re.IGNORECASE)


def _place(word: str) -> re.Pattern:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _capital_like(article: str, text: str) -> str:
    return text[0].upper() + text[1:] if article[0].isupper() else text
