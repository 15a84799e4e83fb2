"""Prompt sets: templates filled from concepts, a CSV file, or a published list."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from bench import ROOT, prompt_lists
from bench.types import Concept, PromptSet

TEMPLATES = ROOT / "prompts" / "templates"
ROLES = {
    **{"target": "target", "synonyms": "alias", "siblings": "sibling", "others": "other", "scenes": "scene", "background": "background"},
    **{"implicit": "target", "multilingual": "alias"},
}
SLUG = "{slug}"  # in a source: one file or list per concept


def build(name: str, prompts: str, rows: int, repeats: int, concepts: list[Concept], vocabulary: str) -> PromptSet:
    """The prompts of one probe for a concept set: `rows` per concept, in a fixed order.

    Row i takes subject i (in turn) and the next template in turn, so that small sets still mix both. A concept without such
    subjects (all its siblings are erased with it, say) has no rows, as long as another one has.
    """
    if SLUG in prompts:
        each = [build(name, prompts.replace(SLUG, c.slug), rows, repeats, [c], vocabulary) for c in concepts]
        return PromptSet("-".join(one.name for one in each), pd.concat([one.table for one in each], ignore_index=True), repeats)
    if ".csv" in prompts:
        return from_csv(prompts, repeats).head(rows)
    if prompts.startswith(prompt_lists.MARK):
        return prompt_lists.load(prompts, rows, repeats, concepts[0].slug)
    if prompts in templates(vocabulary).get("grid", {}):
        return PromptSet(f"{prompts}-{vocabulary}", _grid(templates(vocabulary), prompts, rows), repeats)
    parts = [_rows(prompts, concept, rows, vocabulary) for concept in concepts]
    if not any(parts):
        raise ValueError(f"prompts={prompts!r} needs names that the concept files do not list for {', '.join(c.slug for c in concepts)}.")
    table = pd.DataFrame([row for part in parts for row in part])
    return PromptSet("-".join([name, vocabulary, *(c.slug for c in concepts)]), table, repeats)


def from_csv(source: Path | str, repeats: int) -> PromptSet:
    """A set of one's own: columns row_id and prompt, the rest optional (role, expect, names, group, seed).

    `<file>.csv?role=target` takes the rows of one role. A relative path counts from where the user stands, then from the project.
    """
    file, _, role = str(source).partition("?role=")
    path = Path(file) if Path(file).exists() else ROOT / file
    if not path.exists():
        raise ValueError(f"the prompt file {path} does not exist. A prompt set is a CSV file with the columns row_id and prompt.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column, fallback in (("role", "free"), ("expect", ""), ("names", "1"), ("group", None)):
        if column not in table:
            table[column] = table["prompt"] if fallback is None else fallback
    if role:
        if role not in set(table["role"]):
            raise ValueError(f"{path} has no row of role {role!r}; its roles: {', '.join(sorted(set(table['role'])))}.")
        table = table[table["role"] == role].reset_index(drop=True)
    return PromptSet("-".join([path.stem, role] if role else [path.stem]), table.astype({"names": int}), repeats)


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
    own = {"name": [concept.name], "alias": concept.aliases, "sibling": concept.siblings, "other": concept.others}
    subjects = (own | {"description": concept.descriptions})[entry["subject"]]
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


def _grid(known: dict, family: str, n: int) -> pd.DataFrame:
    """Every subject with every look once, in an order of which each beginning mixes both. Ids name the cell, not a concept: one
    grid serves all concepts, so the original model draws it once."""
    entry, rows = known["grid"][family], []
    subjects, looks = known["fill"][entry["subject"]], known["fill"][entry["look"]]
    for i in range(min(n, len(subjects) * len(looks))):
        subject, look = subjects[i % len(subjects)], looks[(i // len(subjects) + i % len(subjects)) % len(looks)]
        cell, text = f"{slug(subject)}-{slug(look)}", with_articles(entry["template"].format(subject=subject, look=look))
        rows.append({"row_id": cell, "prompt": text, "role": "free", "expect": slug(subject), "names": 1, "group": cell})
    return pd.DataFrame(rows)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def with_articles(text: str) -> str:
    """'a apple' -> 'an apple'."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
