"""The chosen concepts: which are erased together, what each step may know of the others, and which names are held out.

`steps` says what is erased after what. A step is a set of concepts that are erased together; it knows the steps before it and
nothing of those that come later, so a step gives the same result whatever is appended.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from vestige.bench.contract.building import typed
from vestige.bench.contract.types import Concept

EACH = "each"  # steps=each: one concept after the other


def chosen_concepts(entries: dict[str, dict], held_out: bool) -> list[Concept]:
    """The chosen entries as one set that is erased in one step. Raises ValueError."""
    return whole(chosen_steps(entries, None, held_out), list(entries))


def chosen_steps(entries: dict[str, dict], steps: Any, held_out: bool) -> list[list[Concept]]:
    """The chosen concepts in the order of the steps, with the names that are held out (or none). Raises ValueError.

    steps: None (all at once), "each", or lists of slugs.
    """
    if not entries:
        raise ValueError("no concept is chosen. Choose one, for example concept=dog (see `vestige ls concepts`).")
    concepts = {slug: _concept(slug, entry) for slug, entry in entries.items()}
    concepts = {slug: with_held_out(c) if held_out else replace(c, held_out=None) for slug, c in concepts.items()}
    return in_order([[concepts[slug] for slug in step] for step in ordered(steps, list(concepts))])


def with_concepts_of_steps(overrides: list[str]) -> list[str]:
    """`steps=[[dog],[cat]]` alone chooses these concepts too: concept=[cat,dog], sorted, so that every order asks the same questions."""
    listed = [word for word in overrides if word.startswith("steps=[")]
    if not listed or any(word.partition("=")[0] == "concept" for word in overrides):
        return overrides
    named = sorted({slug for slug in re.split(r"[\[\],\s'\"]+", listed[-1].partition("=")[2]) if slug})
    return [*overrides, f"concept=[{','.join(named)}]"] if named else overrides


def ordered(steps: Any, chosen: list[str]) -> list[list[str]]:
    """The slugs of each step. Raises ValueError for steps that are not the chosen concepts, each once."""
    if steps is None:
        return [chosen]
    if steps == EACH:
        return [[slug] for slug in chosen]
    if not isinstance(steps, list) or not all(isinstance(step, list) for step in steps):
        raise ValueError(f"steps={steps!r} must be null (all concepts at once), each, or a list of lists such as steps=[[dog],[cat,frog]].")
    if not steps or not all(steps):
        raise ValueError(f"steps={_typed(steps)} holds an empty step. Give every step a concept, or leave steps out.")
    named = [slug for step in steps for slug in step]
    twice = sorted({slug for slug in named if named.count(slug) > 1})
    if twice:
        raise ValueError(f"steps={_typed(steps)} names {', '.join(twice)} more than once. A concept is erased in one step.")
    if set(named) != set(chosen):
        raise ValueError(
            f"steps={_typed(steps)} orders {', '.join(named)}, but concept= chooses {', '.join(chosen)}. "
            f"Name the same concepts in both: concept=[{','.join(named)}]."
        )
    return steps if len(steps) > 1 else [chosen]


def _typed(steps: list[list[str]]) -> str:
    return f"[{','.join('[' + ','.join(map(str, step)) + ']' for step in steps)}]"


def in_order(steps: list[list[Concept]]) -> list[list[Concept]]:
    """Each step's concepts as that step sees them: one set with all that was erased before, and nothing of later steps.

    A name that an earlier step was given is held out by no later one: what is scored as kept is given to no method.
    """
    so_far: list[Concept] = []
    given: set[str] = set()
    seen = []
    for step in steps:
        so_far += [replace(c, held_out=c.held_out and [name for name in c.held_out if name not in given]) for c in step]
        joint = as_one_set(so_far)
        given |= {name for c in joint for name in (*c.siblings, *c.others) if name not in (c.held_out or ())}
        seen.append(joint[-len(step) :])
    return seen


def whole(steps: list[list[Concept]], order: list[str]) -> list[Concept]:
    """What is erased after the last step, as one set in this order of slugs: what images, attacks and splits are about.

    The order of the steps does not enter: jobs that differ in it alone are asked the same questions.
    """
    by_slug = {concept.slug: concept for step in steps for concept in step}
    return as_one_set([by_slug[slug] for slug in order])


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
