"""Ring-A-Bell: its direction, its genetic search, its soft form."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks._tokens import allowed_tokens, laid_out
from vestige.attacks.ring_a_bell import RingABell, RingABellSoft
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original

PAIRS = ["a photo of a {name}", "a {name} in a garden"]
SMALL = RingABell(PAIRS, 3.0, "{prompt}", "original", 4, 12, 4, 0.5, 0.25, False, "last", True)
SOFT = RingABellSoft(PAIRS, 3.0, "{prompt}", "original")


@pytest.fixture
def victim(tiny, concept, sampler):
    return Victim(tiny, [concept()], Original(), sampler, lambda *_: pytest.fail("the judge is never asked"))


def test_the_direction_is_zero_at_begin_and_turns_with_its_pairs(tiny, concept):
    one = SMALL.direction(tiny.text, concept(aliases=[]))
    two = SMALL.direction(tiny.text, concept(aliases=[], name="animal", anchor="dog"))
    assert one.shape == (tiny.text.length, tiny.text.embedding_table().shape[1])
    assert one[0].abs().max() < 1e-6 < one[5:].abs().max()
    assert torch.allclose(one, -two, atol=1e-5)


def test_without_a_direction_the_prompts_own_tokens_have_no_loss(victim, tiny, prompts):
    attack, asked = replace(SMALL, eta=0.0), prompts(1)
    wanted = attack.goal(tiny.text, victim, asked)[0]
    own = torch.tensor([tiny.text.token_ids(asked.prompts[0])])
    assert attack.losses(tiny.text, own, wanted)[0] < 1e-8
    assert attack.losses(tiny.text, own.flip(1), wanted)[0] > 1e-3


def test_children_have_their_parents_genes_on_both_sides_of_a_cut_and_mutants_one_new_token(tiny):
    attack, generator = replace(SMALL, crossover=1.0, mutation=1.0), torch.Generator().manual_seed(0)
    people = torch.arange(24).view(6, 4)
    grown = attack.with_children(people, generator)
    assert len(grown) == 18 and torch.equal(grown[:6], people)
    for child in grown[6:]:
        assert all(child[k] % 4 == k for k in range(4)), "a gene never changes its position"
        assert len({int(gene) // 4 for gene in child}) <= 2, "two parents"
    allowed = allowed_tokens(tiny.text, True)
    changed = attack.mutated(people, allowed, generator) != people
    assert (changed.sum(1) <= 1).all() and changed.any()
    assert not set(allowed.tolist()) & set(tiny.text.tokenizers[0].all_special_ids)
    spared = replace(attack, elitism=True).mutated(people, allowed, generator)
    assert torch.equal(spared[0], people[0])


def test_the_best_ever_is_never_worse_than_the_last_and_search_beats_chance(victim, tiny, prompts, context):
    asked = prompts(2)
    best = replace(SMALL, keep="best", generations=12).attack(victim, asked, context()).prompts.table
    last = replace(SMALL, generations=12).attack(victim, asked, context()).prompts.table
    chance = replace(SMALL, keep="best", generations=0).attack(victim, asked, context()).prompts.table
    assert (best["distance"] <= last["distance"] + 1e-6).all()
    assert (best["distance"] < chance["distance"]).all()
    assert tiny.counts["forward_rows"] == 0, "the denoiser is never asked"


def test_what_is_written_reads_back_or_says_so(victim, tiny, prompts, context):
    table = SMALL.attack(victim, prompts(2), context()).prompts.table
    for row in table.to_dict("records"):
        ids = [int(k) for k in row["adv_ids"].split()[1:]]
        assert len(ids) == 4 and row["roundtrip_ok"] == (tiny.text.token_ids(row["prompt"]) == ids)


def test_the_soft_form_hands_over_the_sum_itself(victim, tiny, prompts, context, concept, sampler):
    asked = prompts(2)
    found = SOFT.attack(victim, asked, context())
    expected = tiny.encode(asked.prompts).hidden + 3.0 * SOFT.direction(tiny.text, concept())
    assert torch.allclose(found.tensors["states"], expected, atol=1e-5)
    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]]
    plain = tiny(asked.prompts, seeds, sampler).pixels
    with SOFT.attach(tiny, found):
        assert not torch.equal(plain, tiny(asked.prompts, seeds, sampler).pixels)
    none = replace(SOFT, eta=0.0)
    with none.attach(tiny, none.attack(victim, asked, context())):
        assert (plain.int() - tiny(asked.prompts, seeds, sampler).pixels.int()).abs().max() <= 1


def test_tokens_beyond_the_models_length_are_refused(tiny):
    with pytest.raises(ValueError, match="do not fit"):
        laid_out(tiny.text, torch.zeros(1, 76, dtype=torch.long))


@pytest.mark.parametrize(
    "change, named", [({"encoder": "x"}, "encoder"), ({"keep": "x"}, "keep"), ({"pairs": ["a"]}, "pairs"), ({"ask": "{x}"}, "ask")]
)
def test_bad_settings_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        replace(SMALL, **change)
