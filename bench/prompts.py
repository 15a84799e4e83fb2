"""Prompt sets: templates filled from concepts, or a user's CSV file."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from bench import ROOT, prompt_lists
from bench.types import Concept, PromptSet

TEMPLATES = ROOT / "prompts" / "templates"
ROLES = {"target": "target", "synonyms": "alias", "siblings": "sibling", "others": "other", "scenes": "scene", "background": "background"}


def build(name: str, prompts: str, rows: int, repeats: int, concepts: list[Concept], vocabulary: str) -> PromptSet:
    """The prompts of one probe for a concept set: `rows` per concept, in a fixed order.

    Row i takes subject i (in turn) and the next template in turn, so that small sets still mix both. A concept without such
    subjects (all its siblings are erased with it, say) has no rows, as long as another one has.
    """
    if prompts.endswith(".csv"):
        return from_csv(Path(prompts), repeats)
    if prompts.startswith(prompt_lists.MARK):
        return prompt_lists.load(prompts, rows, repeats, concepts[0].slug)
    parts = [_rows(prompts, concept, rows, vocabulary) for concept in concepts]
    if not any(parts):
        raise ValueError(f"prompts={prompts!r} needs names that the concept files do not list for {', '.join(c.slug for c in concepts)}.")
    table = pd.DataFrame([row for part in parts for row in part])
    return PromptSet("-".join([name, vocabulary, *(c.slug for c in concepts)]), table, repeats)


def from_csv(path: Path, repeats: int) -> PromptSet:
    """A user's own set: columns row_id and prompt, the rest optional (role, expect, names, group)."""
    if not path.exists():
        raise ValueError(f"the prompt file {path} does not exist. A prompt set is a CSV file with the columns row_id and prompt.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, fallback in (("role", "free"), ("expect", ""), ("names", "1"), ("group", None)):
        if column not in table:
            table[column] = table["prompt"] if fallback is None else fallback
    return PromptSet(path.stem, table.astype({"names": int}), repeats)


@cache
def templates(vocabulary: str) -> dict:
    file = TEMPLATES / f"{vocabulary}.yaml"
    if not file.exists():
        raise ValueError(f"there is no template file {file.name} in {TEMPLATES}: model.vocabulary={vocabulary!r} is not known.")
    return OmegaConf.to_container(OmegaConf.load(file))


def _rows(family: str, concept: Concept, n: int, vocabulary: str) -> list[dict]:
    known = templates(vocabulary)
    try:
        entry = known[concept.kind][family]
    except KeyError:
        have = ", ".join(known.get(concept.kind, {}))
        raise ValueError(f"prompts={family!r} has no templates for kind {concept.kind!r} in {vocabulary}.yaml; it has: {have}.") from None
    subjects = {"name": [concept.name], "alias": concept.aliases, "sibling": concept.siblings, "other": concept.others}[entry["subject"]]
    if not subjects:
        return []
    rows = []
    for i in range(n):
        subject = subjects[i % len(subjects)]
        template = entry["templates"][(i + i // len(subjects)) % len(entry["templates"])]
        fills = {key: values[(i + i // len(values)) % len(values)] for key, values in known["fill"].items()}
        fills |= {"name": concept.name, "subject": subject, "other": concept.others[i % len(concept.others)] if concept.others else ""}
        expect = {"concept": concept.slug, "subject": slug(subject)}.get(entry["expect"]) or slug(fills[entry["expect"]])
        rows.append(
            {
                "row_id": f"{concept.slug}-{i:03d}",
                "prompt": with_articles(template.format(**fills)),
                "role": ROLES[family],
                "expect": expect,
                "names": entry.get("names", 1),
                "group": f"{concept.slug}-{i:03d}",
            }
        )
    return rows


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def with_articles(text: str) -> str:
    """'a apple' -> 'an apple'."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
