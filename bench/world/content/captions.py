"""Captions of the emoji world: short English that names what an image shows, sometimes its style and background."""

import numpy as np

from vestige.bench.prompts.articles import with_article
from vestige.bench.world.content import catalog
from vestige.bench.world.content.drawing import Spec

STYLE_SHARE, BACKGROUND_SHARE, ALIAS_SHARE = 0.6, 0.5, 0.2


def caption(spec: Spec, seed: int) -> str:
    """One random caption of the image; the same seed gives the same words."""
    rng = np.random.default_rng(seed)
    names = [_word(catalog.find(slug), rng) for slug in spec.objects]
    style = _word(catalog.find(spec.style), rng) if rng.random() < STYLE_SHARE else ""
    text = _scene(names, style, rng) if len(names) == 2 else _single(names[0], style, rng)
    if rng.random() < BACKGROUND_SHARE:
        text += f" on a {spec.background} background"
    return text


def every_word() -> list[str]:
    """One sentence per name and synonym, so that the tokenizer has seen them all."""
    items: list[catalog.Object | catalog.Style] = [*catalog.objects(), *catalog.styles()]
    return [f"{name} style" for item in items for name in (item.name, *item.aliases)]


def _word(item, rng: np.random.Generator) -> str:
    words = item.aliases if rng.random() < ALIAS_SHARE and item.aliases else (item.name,)
    return words[rng.integers(len(words))]


def _single(name: str, style: str, rng: np.random.Generator) -> str:
    lead = ("", "a picture of ", "an emoji of ")[rng.choice(3, p=(0.7, 0.2, 0.1))]
    if not style:
        return lead + with_article(name)
    if rng.random() < 0.5:
        return lead + with_article(f"{style} {name}")
    return f"{lead}{with_article(name)} in {style} style"


def _scene(names: list[str], style: str, rng: np.random.Generator) -> str:
    text = f"{with_article(names[0])} and {with_article(names[1])}"
    return f"{text} in {style} style" if style else text
