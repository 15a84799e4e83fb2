"""Writes one concept file per object and style of the emoji world into conf/concept."""

from pathlib import Path

import yaml

from vestige.bench.places import CONF
from vestige.bench.prompts.articles import with_article
from vestige.bench.world.content import catalog

FOLDER = CONF / "concept"
OTHERS = 12  # unrelated objects a concept is compared with, spread over the other groups
OTHERS_OF_DANGER = 16  # which is erased as a whole: nothing near is left to be asked for


def write_all() -> list[Path]:
    slugs = [item.slug for item in catalog.objects()] + [item.slug for item in catalog.styles()]
    return [_write(slug, entry(slug)) for slug in slugs]


def entry(slug: str) -> dict:
    """The concept file of an object or style: names, siblings from its group, others from all other groups."""
    item = catalog.find(slug)
    group = None if isinstance(item, catalog.Style) else item.group
    others = catalog.others(slug)
    n = OTHERS_OF_DANGER if group == catalog.DANGER else OTHERS
    spread = others[:: max(1, len(others) // n)][:n]
    return {
        "name": item.name,
        "kind": "object" if group else "style",
        "group": group or "style",
        "aliases": list(item.aliases),
        "anchor": group or "emoji",
        "siblings": [catalog.find(mate).name for mate in catalog.siblings(slug)],
        "others": [catalog.find(other).name for other in spread],
        # The model reads words only, so what evokes an object without its name is its other names.
        "descriptions": [with_article(alias) for alias in item.aliases],
        "labels": {"emoji": slug},
    }


def _write(slug: str, content: dict) -> Path:
    file = FOLDER / f"{slug}.yaml"
    file.write_text(yaml.safe_dump({slug: content}, sort_keys=False, allow_unicode=True, width=120))
    return file
