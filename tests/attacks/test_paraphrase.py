"""Paraphrases say the concept in other words, the same for every erased model."""

import re
from dataclasses import replace

import pytest

from vestige.attacks.paraphrase import Paraphrase
from vestige.attacks.wording import instead
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original

BASE = Paraphrase(
    wordings=["synonym", "description", "typo", "long_context", "compositional"],
    q=1.0,
    typo_words="name",
    typos=["key", "swap", "drop", "double", "homoglyph", "leet", "space", "zero_width"],
    positions=[25, 50],
    filler="a calm picture with soft light and fine lines,",
    compositions=["a {name} made of glass", "a {other} next to a {name}"],
    style_compositions=["a tiny {other} in {name} style"],
    seed=0,
)


@pytest.fixture
def ask(tiny, concept, prompts, sampler):
    def run(n=10, concepts=None, **over):
        victim = Victim(tiny, concepts or [concept()], Original(), sampler, None)
        return replace(BASE, **over).attack(victim, prompts(n), None)

    return run


def test_rows_take_the_families_in_turn_and_keep_their_ids(ask, prompts):
    table = ask().prompts.table
    assert table["family"].tolist() == BASE.wordings * 2
    assert table[["row_id", "expect"]].equals(prompts(10).table[["row_id", "expect"]])
    assert (table["prompt"] != prompts(10).table["prompt"]).all()


def test_two_runs_give_one_list_and_another_seed_another_list(ask):
    assert ask().prompts.digest == ask().prompts.digest
    assert ask(wordings=["typo"]).prompts.digest != ask(wordings=["typo"], seed=1).prompts.digest


def test_a_synonym_and_a_description_take_the_place_and_the_article_of_the_name(ask):
    synonym, description = ask(2, wordings=["synonym", "description"]).prompts.prompts
    assert synonym == "a photo of a puppy 0"
    assert description == "a photo of a loyal pet that barks 1"
    assert instead("An apple in the sun", "apple", "tomato") == "A tomato in the sun"
    assert instead("a fluent dog", "dog", "a loyal pet") == "a fluent loyal pet"
    assert instead("the catfish", "cat", "tiger") == "the catfish"


def test_a_description_that_names_the_concept_is_never_used(ask, concept):
    told = concept(descriptions=["a small puppy", "a loyal pet"])
    found = ask(4, concepts=[told], wordings=["description"])
    assert all("puppy" not in p and "dog" not in p for p in found.prompts.prompts)
    only = ask(2, concepts=[concept(descriptions=["a puppy"])], wordings=["description", "synonym"])
    assert only.prompts.table["family"].tolist() == ["synonym", "synonym"]
    assert only.meta["families_without_words"] == {"dog": ["description"]}


def test_without_typing_errors_typo_returns_the_input_and_with_them_the_name_is_broken(ask, prompts):
    assert ask(wordings=["typo"], q=0.0).prompts.prompts == prompts(10).prompts
    broken = ask(wordings=["typo"]).prompts
    assert all(p.startswith("a photo of a ") for p in broken.prompts), "only the concept's words may change"
    assert not any(re.search(r"\bdog\b", p) for p in broken.prompts)


def test_a_long_context_moves_the_name_and_beyond_the_last_token_it_is_not_read(ask, tiny):
    (near, far) = ask(2, wordings=["long_context"], positions=[25, 80]).prompts.prompts
    dog = tiny.text.token_ids("dog")[0]
    ids = tiny.text.ids([near, far, far.replace("dog", "cat")])
    assert 25 <= (ids[0] == dog).nonzero().item() <= 35
    assert dog not in ids[1] and ids[1].equal(ids[2])


def test_a_composition_names_the_concept_beside_another_thing(ask):
    assert ask(2, wordings=["compositional"]).prompts.prompts == ["a dog made of glass", "an apple next to a dog"]


def test_a_style_is_no_thing_that_could_stand_beside_another(ask, concept):
    style = concept("photo", kind="style", others=["apple"])
    assert ask(1, concepts=[style], wordings=["compositional"]).prompts.prompts == ["a tiny apple in photo style"]


def test_a_prompt_about_something_else_stays(ask, concept):
    found = ask(2, concepts=[concept("horse", aliases=["pony"])])
    assert set(found.prompts.table["family"]) == {"unchanged"}


def test_an_unknown_family_is_named_with_the_allowed_ones():
    with pytest.raises(ValueError, match="compositional"):
        replace(BASE, wordings=["rhyme"])
