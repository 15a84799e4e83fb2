"""Prompting4Debugging: its layouts, its projection, its loss and what it keeps."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vestige.attacks._tokens import allowed_tokens
from vestige.attacks.p4d import P4D, ideal_set
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original

SMALL = P4D("n", 3, 3, 2, 1, 0.5, 0.1, "fixed", None, "clip_emoji", True, True, 8)


@pytest.fixture
def victim(tiny, concept, sampler):
    return Victim(tiny, [concept()], Original(), sampler, lambda *_: pytest.fail("P4D never asks the judge"))


def test_form_k_puts_a_free_token_before_every_three_of_the_prompt(tiny):
    prompt = "a photo of a dog and cat"
    fixed = tiny.text.token_ids(prompt)
    assert len(fixed) == 7
    made = replace(SMALL, layout="k").template(tiny.text, [prompt, "a red dog"])
    row, free = made.ids[0, 1:11].tolist(), made.free[0, 1:11]
    assert free.nonzero().flatten().tolist() == [0, 4, 8]
    assert [token for token, is_free in zip(row, free, strict=True) if not is_free] == fixed
    assert made.free[1].sum() == 3 // 3 + 1 and made.sizes == [10, 5]
    ended = made.ids[torch.arange(2), torch.tensor(made.sizes) + 1]
    assert (ended == tiny.text.tokenizers[0].eos_token_id).all()


def test_projection_of_a_vocabulary_row_is_its_token_and_fixed_positions_never_change(tiny):
    attack, text = replace(SMALL, layout="k"), tiny.text
    made, allowed = attack.template(text, ["a photo of a dog"]), allowed_tokens(tiny.text, True)
    table = text.embedding_table().detach()
    wanted = torch.randint(len(allowed), made.ids.shape, generator=torch.Generator().manual_seed(0))
    tokens = attack.projected(table[allowed[wanted]] * 3, F.normalize(table[allowed], dim=-1), allowed, made)
    assert torch.equal(tokens[made.free], allowed[wanted][made.free])
    assert torch.equal(tokens[~made.free], made.ids[~made.free])


def test_the_prompt_itself_has_no_loss_against_an_unchanged_model_and_other_words_have(victim, tiny):
    prompt = "a photo of a dog"
    ids = tiny.text.ids([prompt])
    x_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    target = tiny.predict(x_t, t, tiny.encode([prompt])).detach()
    table = tiny.text.embedding_table()
    assert SMALL.losses(victim, x_t, t, ids, table[ids], target).item() < 1e-10
    other = tiny.text.ids(["a photo of a cat"])
    assert SMALL.losses(victim, x_t, t, other, table[other], target).item() > 1e-8


def test_steps_change_free_tokens_only_and_the_best_image_is_kept(victim, tiny, prompts, context):
    asked = prompts(2)
    found = replace(SMALL, layout="k", steps=6, lr=5.0).attack(victim, asked, context())
    start = replace(SMALL, layout="k", steps=0).attack(victim, asked, context())
    fixed = [tiny.text.token_ids(p) for p in asked.prompts]
    for row, own in zip(found.prompts.table["adv_ids"], fixed, strict=True):
        ids = [int(k) for k in row.split()[1:]]
        assert [k for place, k in enumerate(ids) if place % 4] == own
    assert (found.prompts.table["likeness"] >= start.prompts.table["likeness"]).all()
    assert set(start.prompts.table["found_step"]) == {0}
    assert tiny.counts["images"] == 2 * 7 + 2, "one image per row and evaluation"


def test_the_search_moves_away_from_its_random_start(victim, tiny, prompts, context, monkeypatch):
    seen = []
    inner = P4D.keep_best

    def spy(self, victim, asked, places, tokens, *rest):
        seen.append(tokens.clone())
        return inner(self, victim, asked, places, tokens, *rest)

    monkeypatch.setattr(P4D, "keep_best", spy)
    replace(SMALL, steps=8, lr=5.0).attack(victim, prompts(1), context())
    assert not torch.equal(seen[0], seen[-1])


def test_the_paper_shows_the_vae_an_image_without_its_scaling(victim, prompts, context):
    """Both forms run and differ: the target latents differ."""
    one = replace(SMALL, steps=6, lr=5.0, vae_range="official").attack(victim, prompts(1), context())
    two = replace(SMALL, steps=6, lr=5.0, vae_range="fixed").attack(victim, prompts(1), context())
    assert one.meta["gradient_steps"] == two.meta["gradient_steps"] == 6


def test_prompts_are_sorted_as_the_paper_sorts_them():
    assert ideal_set([True, True, False, False], [False, True, True, False]) == ["ideal", "bad", "weird", "safe"]


@pytest.mark.parametrize("change, named", [({"layout": "m"}, "layout"), ({"vae_range": "x"}, "vae_range"), ({"free": 0}, "free")])
def test_bad_settings_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        replace(SMALL, **change)
