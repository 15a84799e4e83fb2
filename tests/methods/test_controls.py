"""Controls that erase nothing: other noise, and the thing painted over."""

import dataclasses

import torch
from conftest import tiny_spec

from vestige.bench.contract.types import Erasure
from vestige.methods.another_seed import AnotherSeed
from vestige.methods.painted_over import PaintedOver


def test_another_seed_draws_something_else_and_again_the_same(tiny, sampler):
    before = tiny(["a dog"] * 2, [1, 2], sampler).pixels
    with AnotherSeed(1).attach(tiny, Erasure({})) as pipe:
        once, again = (pipe(["a dog"] * 2, [1, 2], sampler).pixels for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, before) and not torch.equal(once[0], once[1])
    assert torch.equal(tiny(["a dog"] * 2, [1, 2], sampler).pixels, before)


def test_what_the_judge_does_not_know_is_not_painted_over(concept):
    emoji = dataclasses.replace(tiny_spec(), domain="emoji")
    assert PaintedOver("emoji_b", 0.15).supports(emoji, [concept("dog")]) is None
    assert "judge='emoji_b' has no label for 'dragon'" in PaintedOver("emoji_b", 0.15).supports(emoji, [concept("dragon")])


def test_the_thing_is_painted_over_where_the_judge_sees_it(monkeypatch, tiny, concept):
    from vestige.bench import judges

    drawn = torch.full((2, 3, 16, 16), 0.8)
    drawn[:, :, 5:10, 5:10] = 0.1

    class Judge:
        def present(self, images, expect):
            return torch.tensor([True, False])

    monkeypatch.setattr(judges, "load", lambda name: Judge())
    method = PaintedOver("emoji_b", 0.15)
    erasure = method.erase(tiny, [concept("dog")], None)
    with method.attach(tiny, erasure) as pipe:
        (apply,) = pipe.filters
        shown, withheld = apply(drawn)
    assert (shown[0] - 0.8).abs().max() < 0.01 and torch.equal(shown[1], drawn[1]) and withheld == [False, False]


def test_photographs_are_refused_with_what_to_do():
    assert "model=emoji" in PaintedOver("emoji_b", 0.15).supports(tiny_spec(), [])
