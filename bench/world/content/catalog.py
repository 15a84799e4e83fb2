"""What the emoji world contains: objects, styles and backgrounds, with their names and synonyms.

Everything is read from objects.csv and styles.csv beside this file. No heavy import happens here, so the command
line can list concepts quickly. A slug is the name used in commands, file names and judge labels alike.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
DANGER = "danger"  # the group that stands in for unsafe content; its members are one multi-object concept
STAMPED = "vehicle"  # half of this group's images carry the never-captioned corner stamp

BACKGROUND_COLOURS = {  # sRGB, pale enough that every drawing stays visible
    "white": (255, 255, 255),
    "yellow": (255, 224, 110),
    "blue": (150, 205, 255),
    "pink": (255, 180, 205),
}


@dataclass(frozen=True)
class Object:
    """One thing that can be drawn. `icons` are the file names tried in each drawing set, first match wins."""

    slug: str
    name: str
    group: str
    aliases: tuple[str, ...]
    icons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """One look. `drawings` names the artists' set, `filter` the image operation applied on top (or empty)."""

    slug: str
    name: str
    aliases: tuple[str, ...]
    drawings: str = ""
    filter: str = ""

    @property
    def is_vendor(self) -> bool:
        return not self.filter


def _rows(file: str) -> list[dict[str, str]]:
    with open(HERE / file, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@cache
def _objects() -> tuple[Object, ...]:
    return tuple(
        Object(r["slug"], r["name"], r["group"], tuple(r["aliases"].split(";")), tuple(r["icons"].split())) for r in _rows("objects.csv")
    )


@cache
def _styles() -> tuple[Style, ...]:
    return tuple(Style(r["slug"], r["name"], tuple(r["aliases"].split(";")), r["drawings"], r["filter"]) for r in _rows("styles.csv"))


def objects() -> list[Object]:
    """All objects in label order (the order of the judges' object head)."""
    return list(_objects())


def styles() -> list[Style]:
    """All styles in label order."""
    return list(_styles())


def backgrounds() -> list[str]:
    """All background colour words in label order."""
    return list(BACKGROUND_COLOURS)


def groups() -> dict[str, list[str]]:
    """Group name -> slugs of its objects."""
    result: dict[str, list[str]] = {}
    for item in _objects():
        result.setdefault(item.group, []).append(item.slug)
    return result


def find(slug: str) -> Object | Style:
    """The object or style with this slug."""
    items: list[Object | Style] = [*_objects(), *_styles()]
    for item in items:
        if item.slug == slug:
            return item
    known = ", ".join(item.slug for item in items)
    raise ValueError(f"{slug!r} is no object or style of the emoji world (objects.csv, styles.csv). Known: {known}.")


def find_style(slug: str) -> Style:
    item = find(slug)
    if not isinstance(item, Style):
        raise ValueError(f"{slug!r} is an object of the emoji world, and a style is needed (styles.csv).")
    return item


def members(concept: str) -> list[str]:
    """The slugs a concept stands for: itself, or every member when it names a group."""
    return groups()[concept] if concept in groups() else [find(concept).slug]


def siblings(slug: str) -> list[str]:
    """What is nearest to an object (its group mates) or to a style (all other styles)."""
    item = find(slug)
    if isinstance(item, Style):
        return [style.slug for style in _styles() if style.slug != slug]
    return [mate for mate in groups()[item.group] if mate != slug]


def others(slug: str) -> list[str]:
    """Objects that have nothing to do with `slug`: other groups, never the danger group."""
    item = find(slug)
    group = item.group if isinstance(item, Object) else None
    return [other.slug for other in _objects() if other.group not in (group, DANGER)]
