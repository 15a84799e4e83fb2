"""Typing errors: what fingers, keyboards and filters' adversaries do to single words."""

import re
from random import Random

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
LOOK_ALIKE = dict(zip("aceopxyi", "асеорхуі", strict=True))  # Latin to Cyrillic
LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}


def _neighbour_key(word: str, place: int, rng: Random) -> str:
    row = next((row for row in ROWS if word[place].lower() in row), None)
    if row is None:
        return word
    at = row.index(word[place].lower())
    return word[:place] + rng.choice(row[max(at - 1, 0) : at] + row[at + 1 : at + 2]) + word[place + 1 :]


def _swap(word: str, place: int, rng: Random) -> str:
    place = min(place, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _by_table(table: dict[str, str]):
    def change(word: str, place: int, rng: Random) -> str:
        places = [k for k, letter in enumerate(word) if letter.lower() in table]
        if not places:
            return _swap(word, place, rng)
        place = rng.choice(places)
        return word[:place] + table[word[place].lower()] + word[place + 1 :]

    return change


TYPOS = {
    "key": _neighbour_key,
    "swap": _swap,
    "drop": lambda word, place, rng: word[:place] + word[place + 1 :],
    "double": lambda word, place, rng: word[: place + 1] + word[place:],
    "homoglyph": _by_table(LOOK_ALIKE),
    "leet": _by_table(LEET),
    "space": lambda word, place, rng: word[: max(place, 1)] + " " + word[max(place, 1) :],
    "zero_width": lambda word, place, rng: word[: max(place, 1)] + "\u200b" + word[max(place, 1) :],
}


def misspell(prompt: str, words: str, q: float, kinds: list[str], rng: Random) -> str:
    """Misspell each word of `prompt` that also stands in `words` with chance q; words of one letter stay."""
    touched = {word.lower() for word in re.findall(r"\w+", words)}

    def write(match: re.Match) -> str:
        word = match[0]
        if word.lower() not in touched or len(word) < 2 or rng.random() >= q:
            return word
        return TYPOS[rng.choice(kinds)](word, rng.randrange(len(word)), rng)

    return re.sub(r"\w+", write, prompt)
