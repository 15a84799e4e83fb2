"""The chosen concepts as one set, and which names are held out."""

from __future__ import annotations

from dataclasses import replace

from vestige.bench.contract.building import typed
from vestige.bench.contract.types import Concept


def chosen_concepts(entries: dict[str, dict], held_out: bool) -> list[Concept]:
    """The chosen entries as one set, with the names that are held out (or none). Raises ValueError."""
    if not entries:
        raise ValueError("no concept is chosen. Choose one, for example concept=dog (see `vestige ls concepts`).")
    concepts = [_concept(slug, entry) for slug, entry in entries.items()]
    return as_one_set([with_held_out(c) if held_out else replace(c, held_out=None) for c in concepts])


def split_in_words(concepts: list[Concept], given: list[Concept] | None = None, most: int = 1000) -> list[str]:
    """Two lines: the names that methods are given, and those that are only asked for; at most so many of each."""
    given = [c.without(set(c.held_out or ())) for c in concepts] if given is None else given
    handed = list(dict.fromkeys(name for c in given for name in (*c.siblings, *c.others)))
    asked = list(dict.fromkeys(name for c in concepts for name in c.asked_of([*c.siblings, *c.others])))
    told = [("given to methods", handed), ("held out for evaluation", [name for name in asked if name not in handed])]
    shown = [", ".join([*names[:most], *(["..."] if len(names) > most else [])]) or "none" for _, names in told]
    return [f"  {what} ({len(names)}): {some}" for (what, names), some in zip(told, shown, strict=True)]


def _concept(slug: str, content: dict) -> Concept:
    """OmegaConf types lists item by item: twenty seconds for a set of a hundred celebrities, so lists of words are set aside."""
    words = {key: value for key, value in content.items() if isinstance(value, list) and all(isinstance(word, str) for word in value)}
    return replace(typed({"slug": slug, **content, **{key: [] for key in words}}, Concept, f"concept.{slug}"), **words)


def with_held_out(concept: Concept) -> Concept:
    """The names that splits ask for and no method is given: those the file lists under held_out, else every second sibling and
    every second unrelated thing. Raises ValueError for a name that is neither."""
    known = [*concept.siblings, *concept.others]
    if concept.held_out is None:
        return replace(concept, held_out=[*concept.siblings[1::2], *concept.others[1::2]])
    for name in concept.held_out:
        if name not in known:
            raise ValueError(
                f"concept.{concept.slug}.held_out names {name!r}, which is not among its siblings and others: {', '.join(known)}. "
                "Add it there, or take it off held_out."
            )
    return concept


def as_one_set(concepts: list[Concept]) -> list[Concept]:
    """What is erased together is no concept's sibling or unrelated thing, and what is a sibling of one is unrelated to none.

    So no method preserves, or maps a concept to, what another concept of the set erases, and no split asks for it. A name that is
    held out by one is held out by all.
    """
    hidden = {name for concept in concepts for name in concept.held_out or ()}
    near = {name.lower() for concept in concepts for name in concept.siblings}
    parted = []
    for concept in concepts:
        gone = {name.lower() for other in concepts if other is not concept for name in (other.name, *other.aliases)}
        siblings = [name for name in concept.siblings if name.lower() not in gone]
        others = [name for name in concept.others if name.lower() not in gone | near]
        held_out = None if concept.held_out is None else [name for name in (*siblings, *others) if name in hidden]
        parted.append(replace(concept, siblings=siblings, others=others, held_out=held_out))
    return parted
