"""Encoded prompts are kept across models of equal weights, and never after the weights or the way to read them changed."""

import pytest
import torch

from bench import encodings, model
from bench.encodings import Encodings


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    fresh = Encodings()
    monkeypatch.setattr("bench.text.KEPT", fresh)
    return fresh


@torch.no_grad()
def test_a_second_model_of_the_same_weights_encodes_nothing_anew(tiny, kept):
    first = tiny.encode(["a dog", "a cat"])
    again = model.load(tiny.spec).encode(["a dog", "a cat"])
    assert kept.hits == 1 and torch.equal(first.hidden, again.hidden) and torch.equal(first.ids, again.ids)


@torch.no_grad()
def test_another_batch_is_another_entry(tiny, kept):
    tiny.encode(["a dog", "a cat"])
    tiny.encode(["a dog"])
    assert kept.hits == 0 and len(kept.kept) == 2


@torch.no_grad()
def test_who_writes_into_the_result_harms_nobody(tiny):
    before = tiny.encode(["a dog"]).hidden.clone()
    tiny.encode(["a dog"]).hidden.zero_()
    assert torch.equal(tiny.encode(["a dog"]).hidden, before)


@torch.no_grad()
def test_edited_weights_are_not_answered_from_memory(tiny, kept):
    before = tiny.encode(["a dog"]).hidden
    name = next(n for n, _ in tiny.named_parameters() if n.startswith("text_encoder") and "q_proj.weight" in n)
    with tiny.replaced({name: torch.zeros_like(tiny.parameter(name))}):
        assert not torch.equal(tiny.encode(["a dog"]).hidden, before)
    assert torch.equal(tiny.encode(["a dog"]).hidden, before)


@torch.no_grad()
def test_hooks_on_the_encoder_are_not_passed_by(tiny):
    before = tiny.encode(["a dog"]).hidden
    name = next(n for n, _ in tiny.text.encoders[0].named_modules() if n.endswith("final_layer_norm"))
    with tiny.hooked({f"text_encoder.{name}": lambda module, args, kwargs, output: output + 1}):
        assert torch.allclose(tiny.encode(["a dog"]).hidden, before + 1)


def test_gradients_are_never_cut(tiny):
    with torch.no_grad():
        tiny.encode(["a dog"])
    weight = tiny.text.embedding_table().requires_grad_(True)
    tiny.encode(["a dog"]).hidden.sum().backward()
    assert weight.grad.abs().max() > 0


def test_the_oldest_batches_go_when_memory_is_full():
    few = Encodings(limit=100)
    for k in range(3):
        few.get(k, lambda: (torch.zeros(10),))  # 40 bytes
    few.get(2, lambda: pytest.fail("the newest must still be there"))
    assert list(few.kept) == [1, 2] and encodings.size((torch.zeros(10),)) == 40
