"""The shipped templates: enough different sentences for every kind and family, and all of them grammatical."""

import re

import pytest
from omegaconf import OmegaConf

from vestige.bench.places import CONF
from vestige.bench.prompts import prompt_sets
from vestige.bench.run import concept_sets

ENOUGH = 40  # different sentences about one concept; of siblings and others together with their names
FEW = ("scenes", "background")
CONCEPTS = {  # one that lists much and one that lists little of each kind
    "emoji": {"object": ["dog", "apple"], "style": ["pixel_art", "noto"]},
    "photo": {
        "object": ["church", "golf_ball", "snoopy", "speed_mickey", "canvas_dogs"],
        "style": ["van_gogh", "kilian_eng", "canvas_winter"],
        "celebrity": ["brad_pitt", "taylor_swift"],
        "explicit": ["nudity", "violence"],
    },
}
CASES = [(v, kind, slug) for v, kinds in CONCEPTS.items() for kind, slugs in kinds.items() for slug in slugs]


def shipped(name: str):
    entry = OmegaConf.to_container(OmegaConf.load(CONF / "concept" / f"{name}.yaml"))[name]
    (made,) = concept_sets.chosen_concepts({name: entry}, held_out=True)
    return made


def families(prompt_style: str, kind: str) -> list[str]:
    return [name for name, entry in prompt_sets.templates(prompt_style)[kind].items() if not entry.get("cross")]


def sentences(prompt_style: str, kind: str, slug: str) -> dict[str, list[str]]:
    rows = {family: prompt_sets._rows("x", family, [shipped(slug)], None, prompt_style, set()) for family in families(prompt_style, kind)}
    return {family: [row["prompt"] for row in made] for family, made in rows.items()}


def test_every_kind_is_covered():
    for prompt_style, kinds in CONCEPTS.items():
        assert set(kinds) == set(prompt_sets.templates(prompt_style)) - {"lists", "fill", "grid"}


@pytest.mark.parametrize("prompt_style, kind, slug", CASES)
def test_there_are_enough_different_sentences(prompt_style, kind, slug):
    concept, made = shipped(slug), sentences(prompt_style, kind, slug)
    words = {"synonyms": concept.aliases, "multilingual": concept.aliases, "implicit": concept.descriptions, "siblings": concept.siblings}
    for family, asked in made.items():
        assert len(set(asked)) == len(asked)
        empty = family in words and not words[family]  # nothing of that sort in the concept's file
        assert empty or len(asked) >= (4 if family in FEW else ENOUGH), f"{family}: {len(asked)}"


@pytest.mark.parametrize("prompt_style, kind, slug", CASES)
def test_every_sentence_has_its_articles_right(prompt_style, kind, slug):
    said = [text for asked in sentences(prompt_style, kind, slug).values() for text in asked]
    for text in said:
        assert text == text.strip() and "  " not in text and "{" not in text
        assert not re.search(r"\b(an?|the) (an?|the)\b", text), text
        for article, word in re.findall(r"\b(an?) (\S+)", text):
            assert (article == "an") == (word[0].lower() in "aeiou"), text  # no exception is among the shipped words


@pytest.mark.parametrize("prompt_style, kind, slug", CASES)
def test_every_template_names_what_it_is_about(prompt_style, kind, slug):
    for family in families(prompt_style, kind):
        assert all("{subject}" in text for text in prompt_sets.templates(prompt_style)[kind][family]["templates"]), family


def test_the_default_probes_can_be_asked_of_every_shipped_concept():
    """Also of those that are erased together: no default asks for more sentences than there are."""
    files = {f.stem: OmegaConf.to_container(OmegaConf.load(f), resolve=True) for f in sorted((CONF / "concept").glob("*.yaml"))}
    splits = ("target", "synonyms", "siblings", "others", "scenes", "background")
    rows = {name: OmegaConf.load(CONF / "split" / f"{name}.yaml")[name].rows for name in splits}
    for name, content in files.items():
        entries = {slug: files[slug][slug] for slug in content.pop("defaults", [])}
        entries |= {slug: entries.get(slug, {}) | entry for slug, entry in content.items()}
        concepts = concept_sets.chosen_concepts(entries, held_out=True)
        for prompt_style in ("emoji", "photo") if all("emoji" in c.labels for c in concepts) else ("photo",):
            for split in splits:
                try:
                    asked = prompt_sets.build(split, split, rows[split], 1, concepts, prompt_style)
                except prompt_sets.NothingToAsk:
                    continue
                assert asked.table["prompt"].nunique() == len(asked) >= min(rows[split], 8), (name, split)
