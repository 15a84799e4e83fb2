"""Prompts thought out step by step: what each class may say, what the original model's answers leave, and that nobody else is asked."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.attacks.step_by_step import CLASSES, FOLDER, StepByStep, templates
from vestige.bench.contract import screen
from vestige.bench.contract.plugin import Victim
from vestige.bench.world.training import concepts as world
from vestige.methods.original import Original

SMALL = StepByStep(classes=list(CLASSES), prompt_style="photo", per_class=10, aliases="direct", frozen=None, seeds=1, keep=0.6)
ALL = lambda pixels, expect: torch.ones(len(pixels), dtype=torch.bool)  # noqa: E731


@pytest.fixture
def run(tiny, concept, prompts, sampler, context):
    def go(n=6, judge=ALL, concepts=None, asked=None, **over):
        attack = replace(SMALL, **{"per_class": 2, **over})
        return attack.attack(Victim(tiny, concepts or [concept()], Original(), sampler, judge), asked or prompts(n), context())

    return go


@pytest.mark.parametrize("prompt_style", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_every_kind_has_ten_different_harmless_templates_of_each_class(prompt_style):
    for kind, classes in templates(prompt_style).items():
        if kind == "fill":
            continue
        assert list(classes) == list(CLASSES)
        for name, some in classes.items():
            assert len(set(some)) == len(some) == 10, (kind, name)
            assert all("{name}" in t for t in some) == (name == "direct")
            assert name == "indirect" or not any("{alias}" in t for t in some)
            assert all(screen.allowed(t) for t in some)


@pytest.mark.parametrize("slug", ["dog", "ice_cream", "light_bulb", "pixel_art", "lineart"])
def test_indirect_and_implied_never_name_a_concept_of_the_emoji_world(slug, concept):
    told = concept(slug, **world.entry(slug))
    for aliases, banned in (("direct", [told.name, *told.aliases]), ("indirect", [told.name])):
        made = replace(SMALL, aliases=aliases, prompt_style="emoji").candidates(told)
        assert [sum(c.kind == kind for c in made) for kind in CLASSES] == [10, 10, 10], "balanced before the filter"
        for candidate in (c for c in made if c.kind != "direct" and not c.refused):
            words = banned if candidate.kind == "indirect" else [told.name, *told.aliases]
            assert not any(word.lower() in candidate.text.lower() for word in words)
        assert all(told.name in c.text for c in made if c.kind == "direct")
        assert any(not c.refused for c in made if c.kind == "indirect")
        if aliases == "direct":
            assert any(c.refused == "names the concept" for c in made) or not told.aliases or told.aliases == [""]


def test_tokens_of_the_name_stand_in_no_indirect_prompt(tiny, concept):
    name = [tiny.text.token_ids(word) for word in ("dog", "puppy")]
    made = [c for c in SMALL.candidates(concept()) if not c.refused]
    for candidate in made:
        ids = tiny.text.token_ids(candidate.text)
        holds = any(ids[k : k + len(word)] == word for word in name for k in range(len(ids)))
        assert holds == (candidate.kind == "direct"), candidate.text


def test_rows_take_the_classes_in_turn_and_keep_their_ids(run, prompts):
    found = run(7)
    assert found.prompts.table["kind"].tolist() == [*CLASSES, *CLASSES, "direct"]
    assert found.prompts.table[["row_id", "expect"]].equals(prompts(7).table[["row_id", "expect"]])
    assert found.prompts.prompts[0] == "a dog in a glass case of a museum" and found.prompts.prompts[1] == "a loyal pet that barks"
    assert found.meta["prompts"]["dog"]["before"] == found.meta["prompts"]["dog"]["kept"] == dict.fromkeys(CLASSES, 2)


def test_only_prompts_that_the_original_answers_often_enough_stay(run):
    def judge(pixels, expect):
        return torch.tensor([k % 5 < (3, 2, 5, 0, 0, 0)[k // 5] for k in range(len(pixels))])

    found = run(4, judge=judge, seeds=5)
    assert found.meta["prompts"]["dog"]["kept"] == {"direct": 1, "indirect": 1, "implied": 0}
    assert found.prompts.table["kind"].tolist() == ["direct", "indirect"] * 2
    assert found.prompts.table["original_rate"].tolist() == pytest.approx([0.6, 1.0] * 2)


def test_with_nothing_left_the_rows_are_asked_as_they_are(run, prompts):
    found = run(2, judge=lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
    assert found.prompts.prompts == prompts(2).prompts and set(found.prompts.table["kind"]) == {"unchanged"}
    other = run(2, asked=prompts(2, "car"))
    assert other.prompts.prompts == prompts(2, "car").prompts and other.meta["prompts"] == {}


def test_the_erased_model_is_never_asked_and_the_list_serves_all_methods(run, tiny):
    run(3)
    assert tiny.counts == {"forward_rows": 0, "images": 0}
    assert SMALL.transfers()


def test_what_cannot_be_asked_is_recorded_with_its_reason(run, concept):
    bare = concept(descriptions=["a puppy that barks"], siblings=["cat"])
    refused = run(1, concepts=[bare], per_class=10).meta["prompts"]["dog"]["refused"]
    reasons = {reason for _, _, reason in refused}
    assert reasons == {"names the concept", "the concept file has no sibling2"}


def test_a_frozen_list_takes_the_templates_place_and_its_content_is_part_of_the_key(run, tmp_path, concept):
    file = tmp_path / "mine.json"
    texts = {kind: [f"{kind} pet", "a hot dog"] for kind in CLASSES}
    file.write_text(json.dumps({"model": "some model", "prompts": {"dog": texts}}))
    found = run(3, frozen=str(file))
    assert found.prompts.prompts == ["direct pet", "indirect pet", "implied pet"]
    assert [text for _, text, _ in found.meta["prompts"]["dog"]["refused"]] == ["a hot dog"] * 2
    mine = replace(SMALL, frozen=str(file))
    before = mine.inputs()
    file.write_text(json.dumps({"model": "some other model", "prompts": {"dog": texts}}))
    assert mine.inputs() != before and SMALL.inputs() == {}
    broken = {"dog": {"prompts": {}}, "model": {"prompts": {"dog": texts}}, "direct": {"model": "m", "prompts": {"dog": {}}}}
    for named, content in broken.items():
        file.write_text(json.dumps(content))
        assert named in mine.supports(tiny_spec(), [concept()], Original())
    file.write_text(json.dumps({"model": "m", "prompts": {"dog": {**texts, "implied": "a dog"}}}))
    assert "list of texts" in mine.supports(tiny_spec(), [concept()], Original())
    assert "no such file" in replace(SMALL, frozen="/nowhere.json").supports(tiny_spec(), [concept()], Original())


def test_explicit_concepts_are_refused_and_unknown_classes_named(concept):
    assert "published lists" in SMALL.supports(tiny_spec(), [concept(kind="explicit")], Original())
    assert "poems.yaml" in replace(SMALL, prompt_style="poems").supports(tiny_spec(), [concept()], Original())
    with pytest.raises(ValueError, match="direct, indirect, implied"):
        replace(SMALL, classes=["rhyme"])
