"""Concept Ablation: its pairs of prompts, its loss and mask, the cut at the begin token, and what its teacher is."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.models.diffusion import frozen_copy
from vestige.bench.models.text import Encoder
from vestige.bench.run.contract_checks import build, quick
from vestige.methods.concept_ablation import ConceptAblation, begin_token_cut, masked_error, scaled

STYLE = ["{caption}, in the style of {name}", "{name} inspired painting, {caption}", "in {name}'s style, {caption}"]


def ablation(**over) -> ConceptAblation:
    small = {"iterations": 4, "batch": 2, "lr": 1e-2, "images": 4, "material_steps": 2, "augment": "none", "captions": ["a {anchor}"]}
    return replace(build("method", "concept_ablation"), **{**small, **over})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_object_prompts_swap_the_anchor_for_the_concept(concept):
    pairs = ablation(captions=["a photo of a {anchor}", "a category of {anchor}"]).pairs(concept("owl", anchor="cat"))
    assert [pair.caption for pair in pairs] == ["a photo of a cat", "a category of cat"]
    assert [pair.targets[0] for pair in pairs] == ["a photo of an owl", "a category of owl"]


def test_style_prompts_come_in_equal_shares_and_half_of_them_say_the_name_twice(concept):
    method = ablation(targets=STYLE, doubled=0.5, anchor="painting", captions=["a {anchor} of a {other}"])
    pair = method.pairs(concept("monet", kind="style", others=["boat", "house"]))[1]
    assert pair.caption == "a painting of a house"
    draw = generator()
    drawn = Counter(method.target_of(pair, draw) for _ in range(6000))
    twice = sum(n for text, n in drawn.items() if "monet monet" in text)
    assert abs(twice / 6000 - 0.5) < 0.02
    for template in ("in the style of", "inspired painting", "in monet's style", "in monet monet's style"):
        share = sum(n for text, n in drawn.items() if template in text) / 6000
        assert abs(share - (1 / 6 if "monet" in template else 1 / 3)) < 0.02


def test_the_same_words_on_both_sides_cost_nothing(tiny, concept, context):
    method = ablation(targets=["{caption}"])
    pairs = method.pairs(concept())
    images = torch.randint(256, (4, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    assert method.step_loss(tiny, pairs, images, None, generator()).item() == 0
    assert ablation().step_loss(tiny, ablation().pairs(concept()), images, None, generator()).item() > 1e-6


def test_the_mask_limits_the_error_and_a_full_mask_gives_four_times_the_mean():
    a, b = torch.randn(2, 3, 4, 8, 8, generator=generator())
    full = torch.ones(3, 1, 8, 8)
    assert torch.allclose(masked_error(a, b, full), 4 * (a - b).square().mean())
    half = full.clone()
    half[..., :4] = 0
    wrong = a.clone()
    wrong[..., :4] += 100
    assert torch.allclose(masked_error(wrong, b, half), masked_error(a, b, half))


def test_shrunk_images_lie_on_mid_grey_masked_inside_their_frame_and_named():
    """compvis/src/finetune_data.py: of three draws two shrink (six in ten of these leave the image whole) and one enlarges."""
    image, leads, draw = torch.rand(3, 64, 64, generator=generator()) * 0.2 + 0.8, Counter(), generator()
    for _ in range(1000):
        shown, mask, lead = scaled(image, 8, draw)
        leads[lead] += 1
        assert shown.shape == image.shape and mask.shape == (1, 8, 8)
        seen = (shown > 0.75).all(0)
        if lead in ("a far away ", "very small "):
            assert 64**2 / 9 * 0.9 < seen.sum() < 64**2 * 0.6**2
            assert (shown[:, ~seen] == 0.5).all(), "0 in [-1, 1], as the VAE reads it"
            assert (torch.nn.functional.avg_pool2d(seen[None].float(), 8)[mask > 0] == 1).all()
        else:
            assert mask.all() and seen.all() and torch.equal(shown, image) == (lead == "")
    assert abs(leads[""] / 1000 - 0.4) < 0.05 and abs(leads["zoomed in "] + leads["close up "] - 1000 / 3) < 50
    assert min(leads["a far away "], leads["very small "]) > 90


def test_the_vae_reads_the_grey_around_a_shrunk_image_as_zero(tiny, concept, monkeypatch):
    pixels = []
    monkeypatch.setattr(tiny.vae, "encode", lambda x, encode=tiny.vae.encode: pixels.append(x) or encode(x))
    method = ablation(augment="scale", batch=12, flip=0.0)
    images = torch.full((4, 3, 16, 16), 255, dtype=torch.uint8)
    _, _, _, prompts = method.batch_of(tiny, method.pairs(concept()), images, generator())
    shrunk = [("far away" in text or "very small" in text) for text in prompts]
    assert any(shrunk) and not all(shrunk)
    for each, small in zip(pixels[0], shrunk, strict=True):
        assert set(each.mul(1000).round().unique().tolist()) == ({0.0, 1000.0} if small else {1000.0})


def test_the_begin_token_gives_no_gradient_to_keys_and_values(tiny):
    hidden = tiny.encode(["a dog"]).hidden.detach().requires_grad_(True)
    cond = replace(tiny.encode(["a dog"]), hidden=hidden)
    x = torch.randn(1, 4, 8, 8, generator=generator())
    with torch.no_grad():
        plain = tiny.predict(x, torch.tensor(100), cond)
    with begin_token_cut(tiny):
        out = tiny.predict(x, torch.tensor(100), cond)
        out.square().sum().backward()
    assert torch.allclose(out.detach(), plain, atol=1e-6)
    assert hidden.grad[:, 0].abs().max() == 0 and hidden.grad[:, 1:].abs().max() > 0


def test_without_a_begin_token_nothing_is_cut(tiny, monkeypatch):
    monkeypatch.setattr(Encoder, "begins", 0)
    hidden = tiny.encode(["a dog"]).hidden.detach().requires_grad_(True)
    with begin_token_cut(tiny):
        tiny.predict(
            torch.randn(1, 4, 8, 8, generator=generator()), torch.tensor(100), replace(tiny.null(1), hidden=hidden)
        ).sum().backward()
    assert hidden.grad[:, 0].abs().max() > 0


def test_training_brings_the_concept_to_the_anchor(tiny, concept, context):
    x0 = torch.randn(4, 4, 8, 8, generator=generator())
    at = tiny.corruption(x0, generator(1))
    x, t = tiny.process.add_noise(x0, at.noise, at.level), at.level
    c, anchor = tiny.encode(["a dog"] * 4), tiny.encode(["an animal"] * 4)
    frozen = frozen_copy(tiny.denoiser)

    def gap():
        with torch.no_grad():
            return (tiny.predict(x, t, c) - tiny.predict(x, t, anchor, frozen)).square().mean().item()

    before = gap()
    erasure = ablation(iterations=60, lr=1e-3, batch=4, teacher="frozen").erase(tiny, [concept()], context())
    assert gap() < 0.5 * before
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in erasure.tensors)


def test_the_official_teacher_drifts_and_the_frozen_one_does_not(tiny, concept, context):
    def tensors(teacher):
        with tiny.preserved():
            return ablation(teacher=teacher).erase(tiny, [concept()], context()).tensors

    current, frozen = tensors("current"), tensors("frozen")
    assert any(not torch.equal(current[name], frozen[name]) for name in current)


def test_the_prior_term_and_the_noise_target_change_the_training(tiny, concept, context):
    def tensors(**over):
        with tiny.preserved():
            return ablation(**over).erase(tiny, [concept()], context()).tensors

    plain = tensors()
    for over in ({"prior_weight": 1.0}, {"loss": "noise"}, {"augment": "scale"}, {"cut_begin_token": False}):
        other = tensors(**over)
        assert any(not torch.equal(plain[name], other[name]) for name in plain), over


def test_the_emoji_settings_use_a_sibling_as_anchor(concept):
    method = quick(build("method", "concept_ablation", model="emoji"))
    assert method.pairs(concept())[0].caption == "a cat"
    assert "siblings" in method.supports(tiny_spec(), [concept(siblings=[])])


@pytest.mark.parametrize("over", [{"train": "all"}, {"loss": "l1"}, {"teacher": "ema"}, {"augment": "crop"}, {"captions": []}])
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        ablation(**over)
