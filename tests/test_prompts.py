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


def test_a_grid_asks_every_subject_with_every_look_and_serves_all_concepts(concept):
    whole = build(concept("dog"), "canvas", rows=1000, repeats=1)
    assert len(whole) == 20 * 7 == whole.table["prompt"].nunique()
    assert whole.table["row_id"].str.split("-").map(lambda parts: parts[0]).value_counts().eq(7).all()
    some = build(concept("cat"), "canvas", rows=20, repeats=1)
    assert some.table.equals(whole.table.head(20)) and some.name == whole.name, "the original model draws it once"
    assert some.table["expect"].nunique() == 20 and len({prompt.split(" in ")[1] for prompt in some.prompts}) == 7


def test_unlearncanvas_is_asked_word_for_word(concept):
    asked = build(concept("x"), "canvas", rows=1000, repeats=5, vocabulary="photo")
    assert len(asked) == 1000 and "A Architectures image in Cold Warm style." in asked.prompts and "Seed Images" not in str(asked.prompts)


def test_implicit_prompts_never_name_the_concept(concept):
    table = build(concept("dog", descriptions=["a loyal pet", "a barking animal"]), "implicit").table
    assert not table["prompt"].str.contains("dog").any() and (table["expect"] == "dog").all()


def test_a_file_per_concept_and_rows_of_one_role(tmp_path, concept):
    for slug in ("dog", "cat"):
        roles = ["target", "sibling", "target"]
        table = pd.DataFrame({"row_id": [f"{slug}{k}" for k in (1, 2, 3)], "prompt": [slug] * 3, "role": roles})
        table.to_csv(tmp_path / f"{slug}.csv", index=False)
    source = str(tmp_path / "{slug}.csv?role=target")
    asked = prompts.build("target", source, 1, 2, [concept("dog"), concept("cat")], "emoji")
    assert asked.table["row_id"].tolist() == ["dog1", "cat1"] and asked.repeats == 2
    assert prompts.build("target", source, 9, 1, [concept("dog")], "emoji").table["row_id"].tolist() == ["dog1", "dog3"]
    with pytest.raises(ValueError, match="its roles: sibling, target"):
        prompts.from_csv(str(tmp_path / "dog.csv?role=alias"), 1)
    assert "frog.csv" in prompts.missing(source, [concept("dog"), concept("frog")])


def test_a_probe_without_prompts_for_a_kind_is_left_out_with_its_reason_and_a_typing_error_is_not(concept):
    with pytest.raises(prompts.NothingToAsk, match=r"'background' has no templates for kind 'object' in photo\.yaml"):
        prompts.build("background", "background", 2, 1, [concept()], "photo")
    with pytest.raises(ValueError) as error:
        prompts.build("target", "taget", 2, 1, [concept()], "photo")
    assert not isinstance(error.value, prompts.NothingToAsk)
