"""Templates and fills to sentences: each sentence once. The first n sentences always mix templates and fills."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from itertools import islice
from math import gcd, prod

from vestige.bench.prompts.articles import with_articles

GOLDEN = 0.618034  # steps of this share of a circle spread evenly, however many are taken


Sentence = tuple[str, dict[str, str]]  # as it is asked, and the fills it was made with


def distinct(templates: list[str], fixed: dict[str, str], fills: dict[str, list[str]], start: int = 0) -> Iterator[Sentence]:
    """All templates with all values of the fills they name; no sentence twice.

    The first pass meets every template, each with another value of its fills; later passes take the other values. `fixed` words
    stand in every template; a template that names a fill without values is left out. `start`: the template that comes first.
    """
    ways = [_mixed(template, fills, start + k) for k, template in enumerate(templates)]
    seen = set()
    for template, chosen in in_turn(ways[start % len(ways) :] + ways[: start % len(ways)]):
        written = filled(template, fixed | chosen)
        if written not in seen:
            seen.add(written)
            yield written, chosen


def in_turn(sources: list[Iterator]) -> Iterator:
    """One of each, then the next of each, as long as any has some."""
    while sources:
        alive = []
        for source in sources:
            for item in islice(source, 1):
                alive.append(source)
                yield item
        sources = alive


def filled(template: str, words: dict[str, str]) -> str:
    """The template with its words, 'a' made 'an' where it should be. A proper name ("Mickey Mouse", "the painter of light") has no
    article: one is taken off where the template has one before it."""
    for key, word in words.items():
        if _is_proper(word):
            template = re.sub(rf"\ba (?=\{{{key}\}})", "", template)
    return with_articles(template.format(**words))


def _mixed(template: str, fills: dict[str, list[str]], start: int) -> Iterator[Sentence]:
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
