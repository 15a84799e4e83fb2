"""MemoRa: what is redrawn, where mixtures stand, and an adapter that leaves base weights alone."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks import memora
from vestige.attacks._finetune import new_lora, with_lora
from vestige.attacks.memora import MemoRa, slerp
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original

SMALL = MemoRa(
    prompt="a photo of the {name}", pairs=2, between=3, steps=6, guidance=3.0, start_step=2, align="exact", source="target", rank=2,
    train_steps=3, batch=2, accumulation=1, lr=1e-2, weight_decay=0.0, flip=0.5, max_norm=1.0, mix=1.0,
)  # fmt: skip


@pytest.fixture
def victim(tiny, concept, sampler):
    return Victim(tiny, [concept()], Original(), sampler, None)


def drawn(attack, found, pipe, sampler):
    with attack.attach(pipe, found), torch.no_grad():
        return pipe.sample(pipe.encode(found.prompts.prompts), [1, 2], sampler)


def test_slerp_meets_its_ends_keeps_the_norm_and_survives_equal_latents():
    a, b = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    b = b * a.norm() / b.norm()
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)
    assert slerp(a, b, 0.3).norm().item() == pytest.approx(a.norm().item(), rel=1e-4)
    assert torch.allclose(slerp(a, a, 0.5), a)


def test_every_pair_gives_its_ends_and_what_lies_between(victim, concept, context):
    images = SMALL.redrawn(victim, concept(), context())
    assert images.shape == (2 * 4, 3, 16, 16) and images.dtype == torch.uint8
    assert not torch.equal(images[0], images[3]) and not torch.equal(images[:4], images[4:])


def test_alignment_decides_the_noise_level_of_the_mixtures(victim, concept, context, monkeypatch):
    levels = {}
    for align in ("exact", "official"):
        trajectory = [torch.full((4, 4, 8, 8), float(k)) for k in range(SMALL.steps + 1)]
        monkeypatch.setattr(memora, "inverted", lambda *args, trajectory=trajectory: trajectory)
        monkeypatch.setattr(memora, "slerp", lambda a, b, share, align=align: levels.__setitem__(align, a.mean().item()) or a)
        replace(SMALL, align=align).redrawn(victim, concept(), context())
    assert levels == {"exact": 4.0, "official": 3.0}, "step 2 of 6 is entered after 4 inverse steps; theirs is one cleaner"


def test_the_adapter_touches_attention_only_and_base_weights_stay(victim, prompts, context, sampler):
    before = victim.pipe.fingerprint()
    found = SMALL.attack(victim, prompts(2), context())
    assert victim.pipe.fingerprint() == before and found.meta["redrawn"] == 8
    assert all(".attn" in name and name.startswith("lora.") for name in found.tensors)
    with torch.no_grad():
        plain = victim.pipe.sample(victim.pipe.encode(prompts(2).prompts), [1, 2], sampler)
    adapted = drawn(SMALL, found, victim.pipe, sampler)
    assert not torch.allclose(adapted, plain, atol=1e-4)
    half = replace(SMALL, mix=0.5)
    assert torch.equal(drawn(replace(SMALL, mix=0.0), found, victim.pipe, sampler), plain)
    assert torch.allclose(drawn(replace(SMALL, mix=1.0 + 1e-7), found, victim.pipe, sampler), adapted, atol=1e-4)
    assert not torch.allclose(drawn(half, found, victim.pipe, sampler), adapted, atol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_a_filled_one_adds_its_product(tiny):
    lora = new_lora(tiny, ["unet"], 2, torch.Generator().manual_seed(0))
    name = next(n for n in lora if n.endswith("attn2.to_k.down"))[5:-5]
    layer, x = tiny.denoiser.get_submodule(name), torch.randn(1, 3, tiny.denoiser.get_submodule(name).in_features)
    plain = layer(x)
    with with_lora(tiny, lora):
        assert torch.equal(layer(x), plain)
    lora[f"lora.{name}.up"].data += 1
    with with_lora(tiny, lora):
        delta = lora[f"lora.{name}.up"].T @ lora[f"lora.{name}.down"]
        assert torch.allclose(layer(x), plain + x @ delta.T, atol=1e-5)
    assert len(lora) == 2 * 4 * sum(n.endswith(("attn1", "attn2")) for n, _ in tiny.denoiser.named_modules())


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="official, exact"):
        replace(SMALL, align="none")
    with pytest.raises(ValueError, match="start_step"):
        replace(SMALL, start_step=5)
