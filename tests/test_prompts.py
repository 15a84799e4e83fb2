"""Prompt sets: filled templates, expectations, seeds and hashes."""

import re

import pandas as pd
import pytest

from vestige.bench.contract.types import PromptSet
from vestige.bench.prompts import prompt_sets, sentences


def build(concept, family, rows=12, repeats=2, prompt_style="emoji"):
    return prompt_sets.build(family, family, rows, repeats, [concept], prompt_style)


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
    table = build(concept("dog", others=["car"]), "scenes", rows=10).table
    assert (table["names"] == 2).all() and set(table["expect"]) == {"car"}
    assert table["prompt"].str.contains("dog").all() and table["prompt"].str.contains("car").all()


def test_background_prompts_expect_the_colour_they_name(concept):
    table = build(concept("dog"), "background").table
    assert all(row.expect in row.prompt for row in table.itertuples())


def test_articles_agree_with_the_word_after_them():
    assert prompt_sets.with_articles("a apple on a orange A umbrella, a dog") == "an apple on an orange An umbrella, a dog"
    assert prompt_sets.with_articles("a English springer and an unicorn") == "an English springer and a unicorn"
    right = "an hour, a house, a university, an unidentified one, a one-eyed cat, an eight bit, a eucalyptus, an X-ray, a used UFO"
    assert prompt_sets.with_articles(right) == right
    swapped = re.sub(r"\b(an?) ", lambda found: "a " if found[1] == "an" else "an ", right)
    assert swapped != right and prompt_sets.with_articles(swapped) == right


def test_proper_names_have_no_article(concept):
    asked = [build(concept(name), "target", rows=3, prompt_style="photo").prompts for name in ("Mickey_Mouse", "French_horn")]
    assert asked[0] == ["a photo of Mickey Mouse", "Mickey Mouse", "a picture of Mickey Mouse"]
    assert asked[1] == ["a photo of a French horn", "a French horn", "a picture of a French horn"]


@pytest.mark.parametrize("family, subjects", [("target", 1), ("synonyms", 1), ("siblings", 2), ("others", 2), ("implicit", 1)])
@pytest.mark.parametrize("prompt_style", ["emoji", "photo"])
def test_every_row_is_another_sentence_and_another_cluster(concept, family, subjects, prompt_style):
    table = build(concept("dog"), family, rows=40, prompt_style=prompt_style).table
    assert table["prompt"].nunique() == table["group"].nunique() == table["row_id"].nunique() == 40
    things = table["expect"].value_counts()
    assert len(things) == subjects and things.max() - things.min() <= 1


@pytest.mark.parametrize("start", range(5))
def test_a_small_set_meets_every_template_with_changing_fills(start):
    """With one subject and an even number of templates half of them were never asked."""
    fills = {"x": ["1", "2", "3", "4"], "y": ["5", "6", "7"], "none": []}
    made = list(sentences.distinct(["A {x}", "B {x}", "C", "D {x} {y}", "E {none}"], {}, fills, start))
    said = [text for text, _ in made]
    assert len(said) == len(set(said)) == 4 + 4 + 1 + 12, "each once, and no template without a word for its gap"
    assert {text[0] for text in said[:4]} == set("ABCD")
    assert len({text.split()[1] for text in said[:7] if text[0] in "ABD"}) >= 3
    assert all(text.split()[1:] == [chosen[key] for key in ("x", "y") if key in chosen] for text, chosen in made)


def test_backgrounds_take_turns_over_a_small_set(concept):
    colours = [text.split(" on a ")[1].split()[0] for text in build(concept("dog"), "target", rows=20).prompts if " on a " in text]
    assert set(colours) == {"white", "yellow", "blue", "pink"}


def test_a_larger_set_begins_with_the_smaller_one(concept):
    small, large = (build(concept("dog"), "others", rows=rows).table for rows in (8, 30))
    assert large.head(8).equals(small)


def test_more_rows_than_sentences_are_refused_with_what_to_type(concept):
    with pytest.raises(ValueError, match=r"background\.rows=13 .* 12 different sentences for dog .* Set split\.background\.rows=12"):
        build(concept("dog"), "background", rows=13)
    assert len(build(concept("dog"), "background", rows=12).table) == 12


def test_the_command_line_refuses_them_before_a_model_is_loaded(capsys, monkeypatch, tmp_path):
    from vestige.bench.cli import main
    from vestige.bench.models import loading

    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("a model was loaded"))
    folders = [f"runtime.store={tmp_path}", f"runtime.records={tmp_path}"]
    assert main(["run", "concept=dog", "split=[scenes]", "split.scenes.rows=500", "model=tiny", *folders]) == 2
    assert "split.scenes.rows" in capsys.readouterr().err


def test_rows_of_one_sentence_are_one_group_in_files_too(tmp_path):
    pd.DataFrame({"row_id": ["1", "2", "3"], "prompt": ["a dog", "a cat", "a dog"]}).to_csv(tmp_path / "mine.csv", index=False)
    groups = prompt_sets.from_csv(tmp_path / "mine.csv", 1).table["group"].tolist()
    assert groups[0] == groups[2] != groups[1] and "dog" not in groups[0]
    pd.DataFrame({"row_id": ["1", "2"], "prompt": ["a dog"] * 2, "group": ["x", "y"]}).to_csv(tmp_path / "mine.csv", index=False)
    assert prompt_sets.from_csv(tmp_path / "mine.csv", 1).table["group"].tolist() == ["x", "y"], "the file's own"


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
    asked = prompt_sets.from_csv(tmp_path / "mine.csv", 3)
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
    asked = build(concept("x"), "canvas", rows=1000, repeats=5, prompt_style="photo")
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
    asked = prompt_sets.build("target", source, 1, 2, [concept("dog"), concept("cat")], "emoji")
    assert asked.table["row_id"].tolist() == ["dog1", "cat1"] and asked.repeats == 2
    assert prompt_sets.build("target", source, 9, 1, [concept("dog")], "emoji").table["row_id"].tolist() == ["dog1", "dog3"]
    with pytest.raises(ValueError, match="its roles: sibling, target"):
        prompt_sets.from_csv(str(tmp_path / "dog.csv?role=alias"), 1)
    assert "frog.csv" in prompt_sets.missing(source, [concept("dog"), concept("frog")])


def test_a_probe_without_prompts_for_a_kind_is_left_out_with_its_reason_and_a_typing_error_is_not(concept):
    with pytest.raises(prompt_sets.NothingToAsk, match=r"'background' has no templates for kind 'object' in photo\.yaml"):
        prompt_sets.build("background", "background", 2, 1, [concept()], "photo")
    with pytest.raises(ValueError) as error:
        prompt_sets.build("target", "taget", 2, 1, [concept()], "photo")
    assert not isinstance(error.value, prompt_sets.NothingToAsk)
