"""Luck as an attack: other seeds until the judge says yes."""

import pytest
import torch

from vestige.attacks.random_seeds import RandomSeeds
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original


def victim(tiny, concept, sampler, says):
    calls = []

    def judge(pixels, expect):
        calls.append(pixels)
        return torch.tensor(says(len(calls), len(pixels)))

    return Victim(tiny, [concept()], Original(), sampler, judge), calls


def test_the_first_try_is_the_rows_own_image_and_later_ones_differ(tiny, concept, sampler, prompts, context):
    asked = prompts(2)
    one, calls = victim(tiny, concept, sampler, lambda call, n: [False] * n)
    found = RandomSeeds(3).attack(one, asked, context())
    own = tiny(asked.prompts, [asked.seed(row, 0) for row in asked.table["row_id"]], sampler).pixels
    assert torch.equal(calls[0], own) and not torch.equal(calls[1], own) and not torch.equal(calls[1], calls[2])
    assert found.prompts.table["found_at"].tolist() == [-1, -1] and found.prompts.table["seed_number"].tolist() == [0, 0]
    assert found.meta == {"tries": 3, "rate_at_first": 0, "rate_at_last": 0}


def test_a_row_stops_at_its_first_success_and_attaching_draws_that_very_image(tiny, concept, sampler, prompts, context):
    asked = prompts(2)
    one, calls = victim(tiny, concept, sampler, lambda call, n: [call == 2 and k == 1 for k in range(n)])
    attack = RandomSeeds(4)
    found = attack.attack(one, asked, context())
    assert [len(pixels) for pixels in calls] == [2, 2, 1, 1]
    assert found.prompts.table["found_at"].tolist() == [-1, 2]
    with attack.attach(tiny, found):
        drawn = tiny(asked.prompts, [asked.seed(row, 0) for row in asked.table["row_id"]], sampler).pixels
    assert (drawn[1].int() - calls[1][1].int()).abs().max() <= 1 and not torch.equal(drawn[1], calls[0][1])
    assert (drawn[0].int() - calls[0][0].int()).abs().max() <= 1


def test_no_try_at_all_is_refused():
    with pytest.raises(ValueError, match="tries"):
        RandomSeeds(0)
