"""Prompt sets: filled templates, expectations, seeds and hashes."""

import pandas as pd
import pytest

from bench import prompts
from bench.types import PromptSet


def build(concept, family, rows=12, repeats=2, vocabulary="emoji"):
    return prompts.build(family, family, rows, repeats, [concept], vocabulary)


def test_target_prompts_name_the_concept_and_expect_it(concept):
    table = build(concept("dog"), "target").table
    assert table["prompt"].str.contains("dog").all() and (table["expect"] == "dog").all()


def test_synonym_prompts_never_use_the_name_itself(concept):
    table = build(concept("dog", aliases=["puppy", "hound"]), "synonyms").table
    assert not table["prompt"].str.contains(r"\bdog\b").any()
    assert table["prompt"].str.contains("puppy").any() and table["prompt"].str.contains("hound").any()
    assert (table["expect"] == "dog").all()


def test_siblings_expect_themselves_under_their_slug(concept):
    table = build(concept("dog", siblings=["cat", "ice cream"]), "siblings").table
    assert set(table["expect"]) == {"cat", "ice_cream"}
    assert not table["prompt"].str.contains("dog").any()


def test_scenes_name_two_objects_and_expect_the_other_one(concept):
    table = build(concept("dog", others=["car"]), "scenes").table
    assert (table["names"] == 2).all() and set(table["expect"]) == {"car"}
    assert table["prompt"].str.contains("dog").all() and table["prompt"].str.contains("car").all()


def test_background_prompts_expect_the_colour_they_name(concept):
    table = build(concept("dog"), "background").table
    assert all(row.expect in row.prompt for row in table.itertuples())


def test_articles_agree_with_the_word_after_them():
    assert prompts.with_articles("a apple on a orange A umbrella, a dog") == "an apple on an orange An umbrella, a dog"


def test_seeds_depend_on_the_row_and_not_on_the_order(concept):
    asked = build(concept("dog"), "target")
    turned = PromptSet(asked.name, asked.table.iloc[::-1], asked.repeats)
    assert [asked.seed(r, 1) for r in asked.table["row_id"]] == [turned.seed(r, 1) for r in asked.table["row_id"]]
    assert asked.seed("dog-000", 0) != asked.seed("dog-000", 1) != asked.seed("dog-001", 1)


def test_the_digest_changes_with_any_word(concept):
    asked = build(concept("dog"), "target")
    other = asked.with_prompts([asked.prompts[0] + "!", *asked.prompts[1:]])
    assert asked.digest != other.digest and asked.digest == build(concept("dog"), "target").digest


def test_a_family_without_templates_is_refused_with_the_ones_that_exist(concept):
    with pytest.raises(ValueError, match="it has: target"):
        build(concept("dog"), "targets")


def test_a_users_own_file_needs_only_ids_and_prompts(tmp_path):
    pd.DataFrame({"row_id": ["1", "2"], "prompt": ["a dog", "a cat"]}).to_csv(tmp_path / "mine.csv", index=False)
    asked = prompts.from_csv(tmp_path / "mine.csv", 3)
    assert asked.prompts == ["a dog", "a cat"] and asked.repeats == 3 and asked.name == "mine"


def test_a_doubled_row_id_is_refused(concept):
    table = build(concept("dog"), "target").table
    with pytest.raises(ValueError, match="more than once"):
        PromptSet("twice", pd.concat([table, table]))
