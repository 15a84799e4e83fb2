"""The negative prompt: equal to the plain model where it must be, and truly used where it is asked for."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.models.loading import load
from vestige.bench.models.sampling import Step
from vestige.methods.negative_prompt import NegativePrompt, first_beyond_limit


def drawn(pipe, method, erasure, sampler, prompt="a photo of a cat"):
    with method.attach(pipe, erasure):
        return pipe([prompt] * 2, [1, 2], sampler).pixels


def method(text="{name}", start=0.0, end=1.0) -> NegativePrompt:
    return NegativePrompt(text, start, end)


@pytest.fixture
def four_steps(sampler):
    return replace(sampler, steps=4)


@pytest.fixture
def erasure(tiny, concept, context):
    return method().erase(tiny, [concept()], context())


@pytest.fixture
def plain(tiny, four_steps):
    return tiny(["a photo of a cat"] * 2, [1, 2], four_steps).pixels


def test_an_empty_negative_text_gives_the_plain_image(tiny, concept, context, four_steps, plain):
    empty = method(text="")
    assert torch.equal(drawn(tiny, empty, empty.erase(tiny, [concept()], context()), four_steps), plain)


def test_a_negative_text_changes_images_and_without_guidance_none(tiny, erasure, four_steps, plain):
    assert not torch.equal(drawn(tiny, method(), erasure, four_steps), plain)
    unguided = replace(four_steps, guidance=1.0)
    assert torch.equal(drawn(tiny, method(), erasure, unguided), tiny(["a photo of a cat"] * 2, [1, 2], unguided).pixels)


def test_it_starts_and_ends_where_told(tiny, erasure, four_steps, plain):
    assert torch.equal(drawn(tiny, method(start=1.0), erasure, four_steps), plain)
    assert torch.equal(drawn(tiny, method(start=0.0, end=0.0), erasure, four_steps), plain)
    late = drawn(tiny, method(start=0.5), erasure, four_steps)
    assert not torch.equal(late, plain) and not torch.equal(late, drawn(tiny, method(), erasure, four_steps))


def test_a_prompt_equal_to_the_negative_text_cancels_guidance(tiny, erasure):
    cond = tiny.encode(["dog"])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), method().attach(tiny, erasure):
        for scale in (2.0, 9.0):
            e = tiny.guidance()(Step(tiny, x, torch.tensor(500), 0, 4, cond, tiny.null(1), scale))
            assert torch.allclose(e, tiny.predict(x, torch.tensor(500), cond), atol=1e-5)


def test_texts_beyond_the_models_reach_are_named(tiny, concept, context):
    many = [concept(slug=f"thing_{k}", name=f"thing number {k}") for k in range(40)]
    with pytest.warns(UserWarning, match="'thing number 17' and all after it"):
        erasure = method().erase(tiny, many, context())
    assert erasure.meta["concepts_lost"] == 23


def test_a_text_that_one_of_two_encoders_reads_to_the_end_is_not_lost(monkeypatch):
    xl, long = load(tiny_spec("sdxl")), ["word " * 100]
    assert first_beyond_limit(xl, long) == 0
    monkeypatch.setattr(xl.text.readers[1], "length", 256)
    assert first_beyond_limit(xl, long) is None


def test_shares_outside_zero_and_one_are_refused():
    with pytest.raises(ValueError, match=r"method\.start=0\.6 and method\.end=0\.5"):
        method(start=0.6, end=0.5)
