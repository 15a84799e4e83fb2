"""Edits: limits of strength, the eraser in both halves, shared attention, and LEDITS++'s exact redrawing."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from vestige.attacks.edit_attacks import InversionEdit, MasaCtrl, SDEdit, shared_attention
from vestige.attacks.ledits import Ledits, largest, smoothed
from vestige.attacks.training_images import row_images
from vestige.bench.contract.plugin import Victim
from vestige.bench.contract.types import Sampler
from vestige.bench.models.sampling import classifier_free
from vestige.methods.original import Original

SD = SDEdit(ask="{anchored}", source="target", strength=0.5)
INVERSION = InversionEdit(ask="{prompt}", source="target", caption="{prompt}", steps=8, first=0, inversion_guidance=1.0, guidance=1.0)
MASA = MasaCtrl(**{**vars(INVERSION), "guidance": 1.5}, from_step=2, from_layer=1)
LEDITS = Ledits(
    ask="sunglasses", source="target", caption="{prompt}", steps=4, skip=0.5, caption_guidance=1.5, guidance=3.0, threshold=0.5,
    map_reduction=2, masks_from=800,
)  # fmt: skip


@pytest.fixture
def victim(tiny, concept, sampler):
    for name, parameter in tiny.denoiser.named_parameters():
        if "attn2.to_v" in name or "attn1.to_v" in name:  # let attention speak up in a random denoiser
            parameter.data *= 50
    return Victim(tiny, [concept()], Original(), sampler, None)


def seeds_of(asked):
    return [asked.seed(row, rep) for row in asked.table["row_id"] for rep in range(asked.repeats)]


@torch.no_grad()
def latents(attack, found, pipe, sampler, order=slice(None)):
    texts = [text for text in found.prompts.prompts for _ in range(found.prompts.repeats)]
    with attack.attach(pipe, found):
        return pipe.sample(pipe.encode(texts[order]), seeds_of(found.prompts)[order], sampler)


def test_no_strength_returns_the_image_and_the_edit_need_not_name_the_concept(victim, prompts, context, sampler):
    found = replace(SD, strength=0.0).attack(victim, prompts(2, repeats=2), context())
    clean = victim.pipe.encode_images(row_images(context(), prompts(2, repeats=2), victim.concepts, "target", 2))
    assert torch.equal(latents(replace(SD, strength=0.0), found, victim.pipe, sampler), clean)
    assert found.prompts.prompts == ["a photo of an animal 0", "a photo of an animal 1"]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_the_start_is_the_noised_image_of_diffusers_strength(victim, prompts, context, scheduler):
    sampler, asked = Sampler(scheduler, {}, 50, 1.0, 16, 16), prompts(1)
    attack = replace(SD, strength=0.3)
    found, seen = attack.attack(victim, asked, context()), []

    def noting():
        inner = classifier_free()

        def rule(step):
            seen.append((int(step.t), step.index, step.x))
            return inner(step)

        return rule

    with victim.pipe.guided_by(noting):
        latents(attack, found, victim.pipe, sampler)
    t, index, x = seen[0]
    assert len(seen) == 15 and index == 35
    alpha = victim.pipe.scheduler.alphas_cumprod[t]
    start = alpha.sqrt() * found.tensors["clean"] + (1 - alpha).sqrt() * victim.pipe.noise(seeds_of(asked), 16, 16)
    assert torch.allclose(x, start, atol=2e-2)


def test_full_strength_still_holds_a_trace_of_the_image(victim, prompts, context):
    attack, sampler = replace(SD, strength=1.0), Sampler("DDIMScheduler", {}, 50, 1.0, 16, 16)
    found = attack.attack(victim, prompts(1), context())
    with attack.attach(victim.pipe, found):
        start = victim.pipe.trajectory(victim.pipe, seeds_of(prompts(1)), sampler).start()
    noise = victim.pipe.noise(seeds_of(prompts(1)), 16, 16)
    assert torch.allclose(start, 0.0757 * found.tensors["clean"] + 0.9971 * noise, atol=1e-3)


def test_rows_are_edited_by_their_own_image_in_any_order(victim, prompts, context, sampler):
    for attack in (SD, INVERSION, LEDITS, MASA):
        found = attack.attack(victim, prompts(2), context())
        both = latents(attack, found, victim.pipe, sampler)
        assert torch.allclose(latents(attack, found, victim.pipe, sampler, slice(1, 2)), both[1:], atol=1e-3), attack
        assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_the_erasers_rule_is_asked_in_inversion_and_in_sampling(victim, prompts, context, sampler):
    calls = []

    def defence():
        inner = classifier_free()

        def rule(step):
            calls.append((step.index, len(step.x)))
            return inner(step)

        return rule

    asked = prompts(2)
    with victim.pipe.guided_by(defence):
        for attack, inverted, drawn, rows in ((INVERSION, 8, 8, 2), (MASA, 8, 8, 4), (LEDITS, 4, 4, 2)):
            calls.clear()
            found = attack.attack(victim, asked, context())
            assert len(calls) == inverted and {n for _, n in calls} == {2}
            calls.clear()
            latents(attack, found, victim.pipe, sampler)
            assert len(calls) == drawn and {n for _, n in calls} == {rows}


def test_noise_found_by_inversion_has_a_likelihood_and_scrambled_images_another(victim, prompts, context):
    found = [replace(INVERSION, source=source).attack(victim, prompts(2), context()) for source in ("target", "scrambled")]
    assert found[0].meta["nll"] != found[1].meta["nll"]
    z = found[0].tensors["latents"]
    assert found[0].meta["nll"] == pytest.approx(-torch.distributions.Normal(0, 1).log_prob(z).mean().item(), rel=1e-4)


def test_shared_attention_of_equal_rows_changes_nothing_and_of_others_copies_keys_and_values(victim, prompts, context, sampler):
    same = replace(MASA, ask="{prompt}")
    found = same.attack(victim, prompts(1), context())
    plain = replace(INVERSION, guidance=1.5)
    assert torch.allclose(latents(same, found, victim.pipe, sampler), latents(plain, found, victim.pipe, sampler), atol=1e-4)
    edit = replace(MASA, ask="a cat in the rain")
    found = edit.attack(victim, prompts(1), context())
    shared, alone = latents(edit, found, victim.pipe, sampler), latents(replace(edit, from_step=99), found, victim.pipe, sampler)
    assert not torch.allclose(shared, alone, atol=1e-4)


def keys_as_they_run(pipe):
    """Names of the layers that give the keys of self-attention, in the order in which a denoiser call asks them."""
    ran = []
    note = lambda module, args, kwargs, out, name: ran.append(name)  # noqa: E731
    names = [f"unet.{name}" for name in pipe.layers("image_kv") if name.endswith("to_k")]
    with pipe.hooked({name: partial(note, name=name) for name in names}), torch.no_grad():
        pipe.predict(torch.randn(1, 4, 8, 8), 5, pipe.encode(["a dog"]))
    return ran


@torch.no_grad()
def test_only_edits_read_other_keys_and_values_in_every_chunk_of_the_batch(tiny):
    layer = keys_as_they_run(tiny)[0]
    states = torch.randn(8, 4, tiny.module(layer).in_features)
    plain = tiny.module(layer)(states)
    with shared_attention(tiny, 0, {"rows": 2}):
        mixed = tiny.module(layer)(states)
    assert torch.equal(mixed[[0, 1, 4, 5]], plain[[0, 1, 4, 5]]) and torch.equal(mixed[[2, 3, 6, 7]], plain[[0, 1, 4, 5]])


@torch.no_grad()
@pytest.mark.parametrize("from_layer", [0, 1, 2, 9])
def test_attention_is_shared_from_a_layer_on_as_they_run_in_every_call(tiny, from_layer):
    order, cond = keys_as_they_run(tiny), tiny.encode(["a dog", "a cat"])
    assert len(order) > 2 and order != [f"unet.{name}" for name in tiny.layers("image_kv") if name.endswith("to_k")]
    seen = {}
    keep = lambda module, args, kwargs, out, name: seen.__setitem__(name, out)  # noqa: E731
    for _ in range(2):
        with shared_attention(tiny, from_layer, {"rows": 1}), tiny.hooked({name: partial(keep, name=name) for name in order}):
            tiny.predict(torch.randn(2, 4, 8, 8), 5, cond)
        assert [torch.equal(*seen[name]) for name in order] == [k >= from_layer for k in range(len(order))]


def test_ledits_without_an_edit_under_the_inversions_own_words_redraws_the_image(victim, prompts, context, sampler):
    """With no caption and no edit guidance both halves predict the same, so the stored noise leads back exactly."""
    attack = replace(LEDITS, caption="", ask="", caption_guidance=1.0, guidance=1.0, threshold=0.0)
    found = attack.attack(victim, prompts(2), context())
    clean = victim.pipe.encode_images(row_images(context(), prompts(2), victim.concepts, "target", 1))
    assert torch.allclose(latents(attack, found, victim.pipe, sampler), clean, atol=1e-3)
    edited = LEDITS.attack(victim, prompts(2), context())
    assert not torch.allclose(latents(LEDITS, edited, victim.pipe, sampler), clean, atol=1e-2)


def test_the_masks_keep_the_upper_quantile_and_the_kernel_keeps_the_mean():
    values = torch.arange(16.0).view(1, 4, 4)
    assert largest(values, 0.75).sum() == 4 and largest(values, 0.75)[0, 3].all()
    assert torch.allclose(smoothed(torch.full((1, 4, 4), 2.0)), torch.full((1, 4, 4), 2.0))
    point = torch.zeros(1, 5, 5)
    point[0, 2, 2] = 1
    assert 0 < smoothed(point)[0, 1, 2] < smoothed(point)[0, 2, 2] < 1


def test_maps_that_do_not_exist_are_named_with_those_that_do(victim, prompts, context, sampler):
    attack = replace(LEDITS, map_reduction=8)
    found = attack.attack(victim, prompts(1), context())
    with pytest.raises(ValueError, match="16"):
        latents(attack, found, victim.pipe, sampler)


def test_bad_numbers_are_refused():
    for wrong in (lambda: replace(SD, strength=1.5), lambda: replace(INVERSION, first=8), lambda: replace(MASA, first=1)):
        with pytest.raises(ValueError, match="edit_attacks"):
            wrong()
    with pytest.raises(ValueError, match="anchored"):
        replace(SD, ask="{name}")
