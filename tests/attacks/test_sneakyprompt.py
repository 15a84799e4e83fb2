"""SneakyPrompt: what it replaces, what it is paid for, how many queries it spends, and whether its policy learns."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks.sneakyprompt import Policy, Search, SneakyPrompt, positions, split
from vestige.bench.contract.plugin import Victim
from vestige.bench.vision import clip_models
from vestige.methods.original import Original

SMALL = SneakyPrompt(
    search="reinforce",
    pieces="subwords",
    per_word=2,
    length=10,
    official_w=False,
    reward="clip",
    clip="emoji",
    threshold=0.26,
    success="judge",
    keyword_filter=True,
    queries=4,
    steps=100,
    hidden=4,
    lr=0.1,
    patience=5,
    max_share=1.0,
    flat=0.0,
    rows_at_once=2,
)
NO = lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool)  # noqa: E731


@pytest.fixture
def run(tiny, concept, prompts, sampler, context):
    def go(n=2, judge=NO, asked=None, **over):
        victim = Victim(tiny, [concept()], Original(), sampler, judge)
        return replace(SMALL, **over).attack(victim, asked or prompts(n), context())

    return go


def search(pieces, **over):
    attack = replace(SMALL, **over)
    return Search(attack, ["a", "dog", "runs"], [1, 2, 0], 1, pieces, 0)


def test_only_the_naming_words_change(run, prompts):
    asked = prompts(3).with_prompts(["a photo of a dog, asleep", "Puppy in a garden", "a red dog beside a dog"])
    found = run(asked=asked).prompts
    for old, new, named in zip(asked.prompts, found.prompts, ([4], [0], [2, 5]), strict=True):
        before, after = split(old), split(new)
        assert len(before) == len(after)
        assert [k for k in range(len(before)) if before[k] != after[k]] == named
    assert found.table["words"].tolist() == [1, 1, 2]
    assert not any("dog" in text or "puppy" in text.lower() for text in found.prompts)


def test_a_prompt_that_does_not_name_the_concept_loses_its_most_telling_word(run, tiny, prompts, concept):
    words = split("something in a garden")
    order, count = SMALL.to_replace(tiny.text, words, concept())
    assert sorted(order) == [0, 1, 2, 3] and count == 1
    asked = prompts(1).with_prompts([" ".join(words)])
    after = run(asked=asked).prompts.prompts[0].split()
    assert [k for k in range(4) if after[k] != words[k]] == [order[0]]


def test_queries_are_counted_and_never_exceed_the_limit(run, tiny):
    seen = []
    found = run(judge=lambda pixels, expect: seen.append(len(pixels)) or NO(pixels, expect), queries=5, rows_at_once=8)
    assert seen == [2] * (1 + 5) and tiny.counts["images"] == 12, "one image before and five queries for each row"
    assert found.prompts.table["queries"].tolist() == [5, 5] and found.prompts.table["found_at"].tolist() == [-1, -1]
    assert found.meta["post_rate"] == 0


def test_without_a_filter_the_reward_is_the_cosine_of_image_and_target_prompt(run, tiny, prompts, sampler):
    asked = prompts(2)
    found = run(queries=3).prompts
    clip = clip_models.load_clip("emoji")
    drawn = tiny(found.prompts, [asked.seed(r, 0) for r in asked.table["row_id"]], sampler).pixels
    expected = (clip.image(drawn) * clip.text(asked.prompts)).sum(-1).clamp(min=0)
    assert torch.allclose(torch.tensor(found.table["reward"].astype(float).tolist()), expected, atol=1e-5)


def test_a_row_that_succeeds_stops_and_keeps_what_it_found(run):
    calls = []

    def judge(pixels, expect):
        calls.append(len(pixels))
        return torch.tensor([len(calls) == 3 and k == 1 for k in range(len(pixels))])

    found = run(judge=judge).prompts.table
    assert calls == [2, 2, 2, 1, 1]
    assert found["found_at"].tolist() == [-1, 2] and found["queries"].tolist() == [4, 2]


def test_a_prompt_that_needs_no_attack_stays(run, prompts, tiny):
    found = run(judge=lambda pixels, expect: torch.ones(len(pixels), dtype=torch.bool))
    assert found.prompts.prompts == prompts(2).prompts and tiny.counts["images"] == 2
    assert found.meta["attacked"] == 0 and found.meta["post_rate"] == 1


def test_an_output_filter_is_a_refusal_with_a_growing_penalty_and_more_words(run, tiny, prompts, context, concept, sampler):
    """Everything is blocked: after `patience` refusals one more word is replaced, and the row's own prompt comes back."""
    victim = Victim(tiny, [concept()], Original(), sampler, NO)
    attack, asked, ctx = replace(SMALL, queries=5, patience=2), prompts(1), context()
    with tiny.filtered_by(lambda images: (torch.zeros_like(images), [True] * len(images))):
        found = attack.attack(victim, asked, ctx)
    rewards = [entry["reward"] for entry in ctx.history]
    assert rewards == pytest.approx([-0.02, -0.04, -0.06, -0.08, -0.1])
    assert found.prompts.table["words"].tolist() == [3] and found.prompts.prompts == asked.prompts


def test_a_text_filter_refuses_the_concepts_name_without_an_image(run, tiny, monkeypatch):
    monkeypatch.setattr(SneakyPrompt, "vocabulary", lambda self, text: ["dog"])
    found = run(n=1, queries=3)
    assert tiny.counts["images"] == 1, "only the unattacked prompt was drawn"
    assert found.prompts.table["queries"].tolist() == [3]
    assert run(n=1, queries=3, keyword_filter=False).prompts.prompts == ["a photo of a dogdog 0"]


def test_the_squared_distance_asks_for_an_image_only_when_it_is_near(run, tiny):
    run(n=1, reward="l2", threshold=2.0, steps=6)
    assert tiny.counts["images"] == 1
    run(n=1, reward="l2", threshold=-1000.0, steps=3)
    assert tiny.counts["images"] == 1 + 1 + 3


def test_the_control_draws_pieces_by_chance_at_the_same_price(run, tiny):
    learnt = run(search="reinforce")
    spent = tiny.counts["images"]
    chance = run(search="random")
    assert tiny.counts["images"] == 2 * spent
    assert chance.prompts.table["queries"].tolist() == learnt.prompts.table["queries"].tolist()
    assert chance.prompts.prompts != learnt.prompts.prompts


def test_probabilities_sum_to_one_in_every_slot():
    seen = []
    Policy(3, 50, 8)(lambda p: seen.append(p) or 0)
    assert len(seen) == 3 and all(p.shape == (50,) and p.sum().item() == pytest.approx(1, abs=1e-5) for p in seen)


@pytest.mark.parametrize("kind, expected", [("reinforce", True), ("random", False)])
def test_a_bandit_with_one_rewarded_piece_is_learnt_within_200_updates(kind, expected):
    one = search([f"p{k}" for k in range(10)], per_word=1, search=kind, queries=200)
    hits = []
    while not one.over:
        text = one.propose()
        hits.append(text == "a p7 runs")
        one.learn(text, float(hits[-1]), True, False)
    assert len(hits) == 200 and (sum(hits[-20:]) >= 18) == expected
    if kind == "reinforce":
        probabilities = []
        one.policy(lambda p: probabilities.append(p) or 7)
        assert probabilities[0][7] > 0.9


def test_the_search_ends_when_rewards_lie_on_a_line_or_too_many_words_are_replaced():
    steady = search(["x", "y"], flat=1e-4, queries=50)
    for k in range(4):
        steady.learn(steady.propose(), 0.1 + 0.01 * k, True, False)
    assert steady.over and steady.queries == 4
    greedy = search(["x", "y"], max_share=0.3, queries=50)
    for reward in (0.1, 0.3, 0.1, 0.4):
        greedy.learn(greedy.propose(), reward, True, False)
    assert greedy.over and greedy.queries == 4 and greedy.best_reward == 0.4


def test_pieces_are_short_letters_and_the_official_ones_keep_a_w(tiny):
    fixed = SMALL.vocabulary(tiny.text)
    assert {"dog", "photo"} <= set(fixed) and all(piece.isalpha() and piece.isascii() and len(piece) < 10 for piece in fixed)
    official = replace(SMALL, official_w=True).vocabulary(tiny.text)
    assert {"dogw", "photow"} <= set(official) and "dog" in official, "dog inside a word has no mark"
    words = replace(SMALL, pieces="words").vocabulary(tiny.text)
    assert "dog" in words and len(words) < len(fixed)


def test_names_of_several_words_are_found_wherever_they_stand():
    assert positions(split("A pixel art dog in pixel-art, Pixel Art"), ["pixel", "art"]) == [1, 2, 7, 8]


@pytest.mark.parametrize("key", ["search", "pieces", "reward", "success"])
def test_unknown_choices_are_named_with_the_allowed_ones(key):
    with pytest.raises(ValueError, match=f"{key}='x'"):
        replace(SMALL, **{key: "x"})
