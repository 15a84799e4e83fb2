"""Templates and fills to sentences: every one once, in an order of which each beginning mixes templates and fills."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from math import gcd, prod

from bench.articles import with_articles

GOLDEN = 0.618034  # steps of this share of a circle spread evenly, however many are taken


def distinct(templates: list[str], fixed: dict[str, str], fills: dict[str, list[str]], start: int = 0) -> list[tuple[str, dict[str, str]]]:
    """(sentence, its fills) for all templates with all values of the fills they name; no sentence twice.

    The first pass meets every template, each with another value of its fills; later passes take the other values. `fixed` words
    stand in every template; a template that names a fill without values is left out. `start`: the template that comes first.
    """
    ways = [list(_mixed(template, fills, start + k)) for k, template in enumerate(templates)]
    ways = ways[start % len(ways) :] + ways[: start % len(ways)]
    made: dict[str, dict[str, str]] = {}
    for turn in range(max(map(len, ways))):
        for template, chosen in (way[turn] for way in ways if turn < len(way)):
            made.setdefault(filled(template, fixed | chosen), chosen)
    return list(made.items())


def filled(template: str, words: dict[str, str]) -> str:
    """The template with its words, 'a' made 'an' where it should be. A proper name ("Mickey Mouse", "the painter of light") has no
    article: one is taken off where the template has one before it."""
    for key, word in words.items():
        if _is_proper(word):
            template = re.sub(rf"\ba (?=\{{{key}\}})", "", template)
    return with_articles(template.format(**words))


def _mixed(template: str, fills: dict[str, list[str]], start: int) -> Iterator[tuple[str, dict[str, str]]]:
    """All fills of one template, those that follow each other differing in as much as they can."""
    keys = [key for _, key, _, _ in string.Formatter().parse(template) if key in fills]
    keys = list(dict.fromkeys(keys))
    n = prod(len(fills[key]) for key in keys)
    stride = next((s for s in range(max(1, round(GOLDEN * n)), n + 1) if gcd(s, n) == 1), 1)
    for k in range(n):
        place, chosen = (start + k * stride) % n, {}
        for key in reversed(keys):
            place, which = divmod(place, len(fills[key]))
            chosen[key] = fills[key][which]
        yield template, chosen


def _is_proper(word: str) -> bool:
    """'Mickey Mouse' or 'the painter of light', not 'French horn'."""
    return word.startswith(("the ", "a ", "an ")) or "'s " in word or (word[:1].isupper() and not word.split(" ")[-1][:1].islower())
