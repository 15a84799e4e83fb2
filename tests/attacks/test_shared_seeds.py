"""Protocols whose rows share seeds: every attack that holds something for each image finds it by row, not by seed."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks._rows import ByImage, ByRow
from vestige.attacks.random_seeds import RandomSeeds
from vestige.bench.contract.plugin import Victim
from vestige.bench.prompts.prompt_sets import build as build_prompts
from vestige.bench.run.contract_checks import build, quick
from vestige.bench.run.generate import draw
from vestige.methods.original import Original

HOLDING = [  # attacks with an entry per row or image
    "random_seeds",
    "noise_probes",
    "noise_probes_completion",
    "noise_probes_inpaint",
    "noise_probes_inversion",
    "edit_attacks",
    "edit_attacks_inversion",
    "edit_attacks_ledits",
    "edit_attacks_masactrl",
    "concept_arithmetics",
    "dori_embedding",
]


@pytest.fixture
def shared(prompts):
    """Two rows of different words from the same two seeds, and the second repetition of one is the first of no other."""
    asked = prompts(2, repeats=2)
    return replace(asked, table=asked.table.assign(prompt=["a photo of a dog", "a dog in the snow"], seed=5))


def test_entries_are_found_by_row_and_repetition(shared):
    held = ByImage(shared, torch.arange(4))
    assert held([("0001", 1), ("0000", 0), ("0001", 0)]).tolist() == [3, 0, 2]
    assert ByRow(shared, torch.tensor([10, 20]))([("0001", 0), ("0000", 1)]).tolist() == [20, 10]
    with pytest.raises(ValueError, match="a seed that several of its rows share"):
        held([5])


def test_a_seed_of_one_image_alone_still_finds_it(prompts):
    asked = prompts(2)
    assert ByImage(asked, torch.tensor([3, 4]))([asked.seed("0001", 0)]).tolist() == [4]


@pytest.mark.parametrize("name", HOLDING)
def test_attacks_run_to_the_end(name, tiny, concept, shared, sampler, context, tmp_path):
    attack = quick(build("attack", name))
    victim = Victim(tiny, [concept()], Original(), sampler, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
    found = attack.attack(victim, shared, context())
    with attack.attach(tiny, found):
        images = draw(tiny, found.prompts, sampler, tmp_path / "images", 4).pixels()
    assert len(images) == 4 and not torch.equal(images[0], images[2]), "two rows, two images"


def test_each_row_keeps_the_seed_that_succeeded_for_it(tiny, concept, shared, sampler, context, tmp_path):
    """The second row succeeds at its second try, the first never: only the second is drawn from another seed."""
    calls = []

    def judge(pixels, expect):
        calls.append(pixels)
        return torch.tensor([False, len(calls) == 2][: len(pixels)])

    attack, asked = RandomSeeds(2), replace(shared, repeats=1)
    found = attack.attack(Victim(tiny, [concept()], Original(), sampler, judge), asked, context())
    assert found.prompts.table["found_at"].tolist() == [-1, 2]
    with attack.attach(tiny, found):
        images = draw(tiny, asked, sampler, tmp_path / "images", 2).pixels()
    assert torch.equal(images[0], calls[0][0]) and torch.equal(images[1], calls[1][1])


@pytest.mark.parametrize("family, kind", [("mace_celebrity_target", "celebrity"), ("speed_instance_target", "object")])
def test_protocols_that_share_seeds_are_drawn_row_by_row(family, kind, tiny, concept, sampler, context, tmp_path):
    asked = build_prompts("target", family, 2, 2, [concept(kind=kind), concept("cat", kind=kind)], "photo")
    images = [(row, rep) for row in asked.table["row_id"] for rep in range(2)]
    assert len({asked.seed(*image) for image in images}) < len(images), "the protocol asks its prompts from the same seeds"
    assert ByImage(asked, torch.arange(len(images)))(images).tolist() == list(range(len(images)))
    victim = Victim(tiny, [concept()], Original(), sampler, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
    for attack in (quick(build("attack", name)) for name in ("concept_arithmetics", "random_seeds", "edit_attacks_inversion")):
        found = attack.attack(victim, asked, context())
        with attack.attach(tiny, found):
            assert len(draw(tiny, found.prompts, sampler, tmp_path / type(attack).__name__, 4)) == len(images)
