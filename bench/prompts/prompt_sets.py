"""Prompt sets: templates filled from concepts, a CSV file, or a published list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import pandas as pd

from vestige.bench.contract.building import read_yaml
from vestige.bench.contract.types import Concept, PromptSet, sentence_group
from vestige.bench.places import PACKAGE, found
from vestige.bench.prompts import published_lists, sentences
from vestige.bench.prompts.articles import with_articles

TEMPLATES = PACKAGE / "prompts" / "templates"
ROLES = {
    **{"target": "target", "synonyms": "alias", "siblings": "sibling", "others": "other", "scenes": "scene", "background": "background"},
    **{"implicit": "target", "multilingual": "alias", "adversarial": "target"},
}
SLUG = "{slug}"  # in a source: one file or list per concept


class NothingToAsk(ValueError):
    """A split that exists, but not for this kind of concept on this model: it is left out, with this sentence as the reason."""


def build(name: str, prompts: str, rows: int, repeats: int, concepts: list[Concept], prompt_style: str) -> PromptSet:
    """The prompts of one split for a concept set: `rows` per concept, in a fixed order; of a pooled family `rows` in all.

    Each row of a family is another sentence: rows take the subjects in turn, and each subject's sentences in an order that mixes
    templates and fills, so that small sets mix all three. More rows than there are sentences are refused (ValueError); families
    marked `cross`, whose papers ask one sentence under many seeds, go on from the start, and rows of one sentence share a group. Of
    files, lists and grids `rows` is the most that is taken. What one concept of a set asks no other one asks again. A concept
    without such subjects (all its siblings are erased with it, say) has no rows, as long as another one has.
    """
    if SLUG in prompts:
        each = [build(name, one, rows, repeats, [c], prompt_style) for one, c in zip(_sources(prompts, concepts), concepts, strict=True)]
        return PromptSet("-".join(one.name for one in each), pd.concat([one.table for one in each], ignore_index=True), repeats)
    if ".csv" in prompts:
        return from_csv(prompts, repeats).head(rows)
    if published_lists.is_list(prompts):
        return published_lists.load(prompts, rows, repeats, concepts[0].slug)
    if prompts in templates(prompt_style).get("grid", {}):
        return PromptSet(f"{prompts}-{prompt_style}", _grid(templates(prompt_style), prompts, rows), repeats)
    pooled = _family(prompts, concepts[0].kind, prompt_style).get("pooled", False)
    asked = [concepts] if pooled else [[concept] for concept in concepts]
    taken: set[str] = set()
    parts = [_rows(name, prompts, some, rows, prompt_style, taken) for some in asked]
    if not any(parts):
        slugs = ", ".join(c.slug for c in concepts)
        raise NothingToAsk(f"prompts={prompts!r} needs names that the concept files do not list for {slugs}, or do not hold out.")
    table = pd.DataFrame([row for part in parts for row in part])
    # Pooled rows do not depend on what is erased, so neither do their seeds.
    words = [name, prompt_style, prompts] if pooled else [name, prompt_style, *(c.slug for c in concepts)]
    return PromptSet("-".join(words), table, repeats)


def missing(prompts: str, concepts: list[Concept]) -> str | None:
    """Why a file or list cannot be read here and what to do about it, in a sentence, or None (also for a family of templates)."""
    for source in _sources(prompts, concepts):
        if ".csv" in source and not _path(source).exists():
            return f"the prompt file {_path(source)} does not exist. A prompt set is a CSV file with the columns row_id and prompt."
        if unsupported_reason := published_lists.missing(source):
            return unsupported_reason
    return None


def rows_of(prompts: str, concepts: list[Concept], rows: int) -> int:
    """How many of at most `rows` prompts per concept the lists have that are not here, as their manifest says."""
    sources = _sources(prompts, concepts)
    return sum(min(rows, published_lists.rows_of(source)) if published_lists.is_list(source) else rows for source in sources)


def _sources(prompts: str, concepts: list[Concept]) -> list[str]:
    return [prompts.replace(SLUG, concept.slug) for concept in concepts] if SLUG in prompts else [prompts]


def _path(source: str) -> Path:
    """A relative path counts from the current folder; else what is shipped under that name."""
    return found(source.partition("?role=")[0])


def from_csv(source: Path | str, repeats: int) -> PromptSet:
    """A set of one's own: columns row_id and prompt, the rest optional (role, expect, names, group, seed).

    `<file>.csv?role=target` takes the rows of one role. Without a column group, rows of one sentence are one group.
    """
    if unsupported_reason := missing(str(source), []):
        raise ValueError(unsupported_reason)
    path, role = _path(str(source)), str(source).partition("?role=")[2]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, fallback in (("role", "free"), ("expect", ""), ("names", "1"), ("group", None)):
        if column not in table:
            table[column] = table["prompt"].map(sentence_group) if fallback is None else fallback
    if role:
        if role not in set(table["role"]):
            raise ValueError(f"{path} has no row of role {role!r}; its roles: {', '.join(sorted(set(table['role'])))}.")
        table = table[table["role"] == role].reset_index(drop=True)
    return PromptSet("-".join([path.stem, role] if role else [path.stem]), table.astype({"names": int}), repeats)


@cache
def templates(prompt_style: str, folder: Path = TEMPLATES) -> dict:
    file = folder / f"{prompt_style}.yaml"
    if not file.exists():
        raise ValueError(f"there is no template file {file.name} in {folder}: model.prompt_style={prompt_style!r} is not known.")
    return read_yaml(file)


def _family(family: str, kind: str, prompt_style: str) -> dict:
    known = templates(prompt_style).get(kind, {})
    if family not in known:
        sentence = f"prompts={family!r} has no templates for kind {kind!r} in {prompt_style}.yaml; it has: {', '.join(known)}."
        elsewhere = any(family in kinds for file in TEMPLATES.glob("*.yaml") for kinds in templates(file.stem).values())
        raise NothingToAsk(sentence) if elsewhere else ValueError(sentence)
    return known[family]


def _rows(split: str, family: str, concepts: list[Concept], n: int | None, prompt_style: str, taken: set[str]) -> list[dict]:
    """The rows about one concept, or of a pooled family about all that are erased together; n is None: as many as there are.

    taken: sentences that another concept of the set asks already, to which these are added.
    """
    known, entry, concept = templates(prompt_style), _family(family, concepts[0].kind, prompt_style), concepts[0]
    subjects = _subjects(entry, concepts, known.get("lists", {}))
    if not subjects:
        return []
    ways = _crossed if entry.get("cross") else _all_sentences
    rows: list[dict] = []
    there_are = 0
    for turn, subject, written, fills, seed in ways(entry, known["fill"] | {"other": concept.others}, concept.name, subjects):
        there_are += 1
        if written in taken and not entry.get("cross"):
            continue
        taken.add(written)
        expect = {"concept": concept.slug, "subject": slug(subject)}.get(entry["expect"]) or slug(fills[entry["expect"]])
        rows.append(
            {
                "row_id": f"{slug(subject)}-{turn:03d}" if entry.get("pooled") else f"{concept.slug}-{len(rows):03d}",
                "prompt": written,
                "role": entry.get("role") or ROLES[family],
                "expect": expect,
                "names": entry.get("names", 1),
                "group": sentence_group(written),
                **({"seed": seed} if seed is not None else {}),
            }
        )
        if len(rows) == n:
            return rows
    if n is None or there_are >= n:  # a set whose concepts share their siblings or others may have fewer left
        return rows
    raise ValueError(
        f"split.{split}.rows={n} is too many: prompts={family!r} has {there_are} different sentences for {concept.slug} in "
        f"{prompt_style}.yaml. Set split.{split}.rows={there_are}; split.{split}.repeats draws more images of each."
    )


Way = tuple[int, str, str, dict[str, str], int | None]  # the turn of the subject, the subject, the sentence, its fills, its seed


def _all_sentences(entry: dict, fills: dict[str, list[str]], name: str, subjects: list[str]) -> Iterator[Way]:
    """Every sentence once, subjects in turn."""

    def about(place: int, subject: str) -> Iterator[Way]:
        made = sentences.distinct(entry["templates"], {"name": name, "subject": subject}, fills, place)
        return ((turn, subject, written, chosen, None) for turn, (written, chosen) in enumerate(made))

    seen = set()
    for way in sentences.in_turn([about(place, subject) for place, subject in enumerate(subjects)]):
        if way[2] not in seen:
            seen.add(way[2])
            yield way


def _crossed(entry: dict, fills: dict[str, list[str]], name: str, subjects: list[str]) -> Iterator[Way]:
    """Every template with every subject in len(subjects) * len(templates) rows, then again, without end."""
    wordings = entry["templates"]
    for i in count():
        turn, place = divmod(i, len(subjects))
        which = (turn + place) % len(wordings)
        chosen = {key: values[(i + i // len(values)) % len(values)] if values else "" for key, values in fills.items()}
        words = chosen | {"name": name, "subject": subjects[place]}
        written = wordings[which].format(**words) if entry.get("verbatim") else sentences.filled(wordings[which], words)
        later = which + len(wordings) * (turn // len(wordings)) if entry.get("seeds_in_turn") else 0
        yield turn, subjects[place], written, chosen, entry["seed"] + later if "seed" in entry else None


def _subjects(entry: dict, concepts: list[Concept], lists: dict[str, list[str]]) -> list[str]:
    """The words that go into {subject}: of the concepts' files, or a list of the template file without what is erased.

    Of siblings and unrelated things only the held-out names, which no method was given, unless the family asks for the `whole` list.
    """
    which = entry["subject"]
    if which in lists:
        gone = {word.lower() for concept in concepts for word in (concept.name, *concept.aliases)}
        return [word for word in lists[which] if word.lower() not in gone]
    kept = (lambda c, names: names) if entry.get("whole") else Concept.asked_of
    of = {"name": lambda c: [c.name], "alias": lambda c: c.aliases, "description": lambda c: c.descriptions}
    of |= {"sibling": lambda c: kept(c, c.siblings), "other": lambda c: kept(c, c.others)}
    return list(dict.fromkeys(word for concept in concepts for word in of[which](concept)))


def _grid(known: dict, family: str, n: int) -> pd.DataFrame:
    """Every subject with every look once, in an order of which each beginning mixes both. Ids name the cell, not a concept: one
    grid serves all concepts, so the original model draws it once."""
    entry, rows = known["grid"][family], []
    subjects, looks = known["lists"][entry["subject"]], known["lists"][entry["look"]]
    for i in range(min(n, len(subjects) * len(looks))):
        subject, look = subjects[i % len(subjects)], looks[(i // len(subjects) + i % len(subjects)) % len(looks)]
        cell, text = f"{slug(subject)}-{slug(look)}", entry["template"].format(subject=subject, look=look)
        text = text if entry.get("verbatim") else with_articles(text)
        rows.append({"row_id": cell, "prompt": text, "role": "free", "expect": slug(subject), "names": 1, "group": sentence_group(text)})
    return pd.DataFrame(rows)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def kept_names(asked: PromptSet) -> set[str]:
    """Slugs of the things that a set asks for and that must stay: no method may be told to preserve them."""
    kept = asked.table[asked.table["role"].isin(["sibling", "other", "scene", "free"])]
    return {slug(thing) for expect in kept["expect"].unique() for thing in expect.split(";")} - {""}
