"""'a' or 'an': the one place that decides, by how the next word begins when it is spoken."""

from __future__ import annotations

import re

# Spelt with a vowel, spoken with a consonant: "a unicorn", "a European", "a one-eyed cat".
CONSONANTS = re.compile(
    r"(eu|ew[ei]|one(?![a-z])|once|u(ni(?!n|m|dent|ll|rr)|s[eau](?!n)|t[ei]|ku|ra|ri|biq|ga|ruguay)|u(fo|k|v|sb)\b)", re.IGNORECASE
)
SILENT_H = re.compile(r"(hour|honest|hono|heir)", re.IGNORECASE)
NUMBERS = re.compile(r"(8|11(?!\d)|18(?!\d))")  # eight, eleven, eighteen
SPELT_OUT = re.compile(r"([AEFHILMNORSX]([A-Z]{0,2}|[A-Z]s)(?![A-Za-z.])|[AEFHILMNORSX][-.][A-Za-z0-9]|x-?ray)")  # "an X-ray", "an LED"


def article(word: str) -> str:
    """'a' or 'an' for the word (or phrase) that follows it."""
    if CONSONANTS.match(word):
        return "a"
    vowel = word[:1].lower() in set("aeiouàáâäåæèéêëìíîïòóôöøùúûü")
    return "an" if vowel or SILENT_H.match(word) or NUMBERS.match(word) or SPELT_OUT.match(word) else "a"


def with_article(phrase: str) -> str:
    """'apple' -> 'an apple'."""
    return f"{article(phrase)} {phrase}"


def with_articles(text: str) -> str:
    """'a apple beside an unicorn' -> 'an apple beside a unicorn'. Other words stay as they are."""
    return re.sub(r"\b([Aa])n? (?=(\w\S*))", lambda found: found[1] + article(found[2])[1:] + " ", text)
