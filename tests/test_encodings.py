"""Encoded prompts are kept across models of equal weights, and never after the weights or the way to read them changed."""

import pytest
import torch

from vestige.bench.models import encodings, loading
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.encodings import Encodings


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    fresh = Encodings()
    monkeypatch.setattr("vestige.bench.models.text.KEPT", fresh)
    return fresh


@torch.no_grad()
def test_a_second_model_of_the_same_weights_encodes_nothing_anew(tiny, kept):
    first = tiny.encode(["a dog", "a cat"])
    again = loading.load(tiny.spec).encode(["a dog", "a cat"])
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
    hits = kept.hits
    assert torch.equal(tiny.encode(["a dog"]).hidden, before) and kept.hits == hits + 1, "the old weights are known again"


def through_data(tiny, layer):
    tiny.parameter(f"text_encoder.{layer}.self_attn.q_proj.weight").data.zero_()


def in_place(tiny, layer):
    tiny.parameter(f"text_encoder.{layer}.self_attn.q_proj.weight").mul_(1.5)


def one_number(tiny, layer):
    tiny.parameter(f"text_encoder.{layer}.mlp.fc1.weight").data[3, 5] += 1.0


def words_swapped(tiny, layer):
    """The sum of all weights stays what it was."""
    table = tiny.text.embedding_table()
    dog, cat = (tiny.text.token_ids(word)[0] for word in ("dog", "cat"))
    table.data[[dog, cat]] = table.data[[cat, dog]]


def another_tensor(tiny, layer):
    module = tiny.module(f"text_encoder.{layer}.self_attn.q_proj")
    module.weight.data = torch.zeros_like(module.weight)


def another_module(tiny, layer):
    old = tiny.module(f"text_encoder.{layer}.self_attn.q_proj")
    new = torch.nn.Linear(old.in_features, old.out_features).requires_grad_(False)
    tiny.module(f"text_encoder.{layer}.self_attn").q_proj = new


def another_class(tiny, layer):
    """The same parameters, read otherwise."""

    class Silent(torch.nn.Linear):
        def forward(self, x):
            return 0 * super().forward(x)

    tiny.module(f"text_encoder.{layer}.self_attn.v_proj").__class__ = Silent


def another_forward(tiny, layer):
    module = tiny.module(f"text_encoder.{layer}.mlp")
    module.forward = lambda x: 0 * x


EDITS = (through_data, in_place, one_number, words_swapped, another_tensor, another_module, another_class, another_forward)


@pytest.mark.parametrize("edit", EDITS)
@torch.no_grad()
def test_no_way_to_change_the_encoder_goes_unseen(tiny, edit):
    before = tiny.encode(["a dog"]).hidden
    name = next(n for n, _ in tiny.named_parameters() if n.endswith("layers.0.self_attn.q_proj.weight"))
    edit(tiny, name.removeprefix("text_encoder.").removesuffix(".self_attn.q_proj.weight"))
    after = tiny.encode(["a dog"]).hidden
    assert torch.equal(after, tiny.text._run([tiny.text.ids(["a dog"])], None).hidden), "answered from memory"
    assert not torch.equal(after, before), "the edit changes what is encoded"


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


def of_40_bytes() -> Conditioning:
    ids = torch.zeros(1, 1, dtype=torch.int64)
    return Conditioning(torch.zeros(1, 1, 6), ids, None, ids)


def test_the_oldest_batches_go_when_memory_is_full():
    few = Encodings(limit=100)
    for k in range(3):
        few.get(k, lambda: of_40_bytes())
    few.get(2, lambda: pytest.fail("the newest must still be there"))
    assert list(few.kept) == [1, 2] and encodings.size(of_40_bytes()) == 40
