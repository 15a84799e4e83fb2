"""The output filters: the shipped checker's rule as published, and a threshold that keeps its promised false alarms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig

from vestige.bench.run.contract_checks import build
from vestige.bench.vision import clip_models
from vestige.methods.safety_checker import clip_pixels, compvis_flags, compvis_rule


class BrightnessClip:
    """A stand-in CLIP: every text means "bright", so an image's cosine is its brightness."""

    def image(self, images):
        bright = images.float().mean((1, 2, 3)) / 255
        return torch.stack([bright, (1 - bright**2).sqrt()], 1)

    def text(self, texts):
        return torch.tensor([[1.0, 0.0]]).repeat(len(texts), 1)


@pytest.fixture
def filtering(monkeypatch):
    monkeypatch.setattr(clip_models, "load_clip", lambda which: BrightnessClip())
    return replace(build("method", "safety_checker", model="emoji"), images=40)


def test_the_threshold_blocks_the_chosen_share_of_neutral_images(tiny, concept, context, filtering):
    erasure = replace(filtering, false_alarms=0.1).erase(tiny, [concept()], context())
    shown = context().generate(["a frog", "a car"], 1)
    scores = BrightnessClip().image(shown)[:, 0]
    assert erasure.meta["neutral_images"] == 40
    strict = replace(filtering, false_alarms=0.9).erase(tiny, [concept()], context())
    assert strict.tensors["filter.thresholds"] < erasure.tensors["filter.thresholds"] <= 1
    assert scores.min() > 0


def test_blocked_images_are_black_marked_and_the_others_untouched(tiny, concept, context, filtering, sampler):
    erasure = filtering.erase(tiny, [concept()], context())
    plain = tiny(["a dog", "a car"], [1, 2], sampler).pixels
    bright = BrightnessClip().image(plain)[:, 0]
    between = replace_threshold(erasure, bright.mean())
    with filtering.attach(tiny, between):
        seen = tiny(["a dog", "a car"], [1, 2], sampler)
    for k in range(2):
        blocked = bool(bright[k] > bright.mean())
        assert seen.status[k] == ("blocked" if blocked else "ok")
        assert torch.equal(seen.pixels[k], torch.zeros_like(plain[k]) if blocked else plain[k])
    assert sorted(seen.status) == ["blocked", "ok"]


def replace_threshold(erasure, value):
    return replace(erasure, tensors={**erasure.tensors, "filter.thresholds": torch.tensor([float(value)])})


def reference(special, special_thresholds, cosines, thresholds) -> list[bool]:
    """The published loop: Python floats, rounding to three decimals, the carry among special-care concepts."""
    flags = []
    for row in range(len(special)):
        adjustment = 0.0
        for k in range(special.shape[1]):
            if round(float(special[row, k] - special_thresholds[k] + adjustment), 3) > 0:
                adjustment = 0.01
        flags.append(any(round(float(cosines[row, k] - thresholds[k] + adjustment), 3) > 0 for k in range(cosines.shape[1])))
    return flags


def test_our_rule_equals_the_loop_on_a_thousand_images():
    draw = np.random.default_rng(0)
    special, cosines = draw.normal(0.2, 0.02, (1000, 3)), draw.normal(0.15, 0.02, (1000, 17))
    thresholds = np.full(3, 0.21), np.full(17, 0.19)
    wanted = reference(special, thresholds[0], cosines, thresholds[1])
    ours = compvis_rule(*(torch.tensor(each) for each in (special, thresholds[0], cosines, thresholds[1])))
    assert ours.tolist() == wanted and 100 < sum(wanted) < 900


def test_a_special_care_hit_eases_the_next_ones():
    """The second vector lies 0.005 below its threshold: it counts because the first is above, and so does a concept."""
    rule = {"special_thresholds": torch.tensor([0.2, 0.2]), "thresholds": torch.tensor([0.2])}
    assert compvis_rule(torch.tensor([[0.25, 0.195]]), cosines=torch.tensor([[0.195]]), **rule).item()
    assert not compvis_rule(torch.tensor([[0.19, 0.195]]), cosines=torch.tensor([[0.195]]), **rule).item()


def test_images_are_normalised_with_the_numbers_clip_was_trained_on():
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    grey = clip_pixels(torch.full((1, 3, 224, 224), 0.25))
    want = (0.25 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
    assert torch.allclose(grey.mean((0, 2, 3)), want, atol=1e-5)


def test_flags_equal_those_of_the_diffusers_class():
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(vision_config={**small, "patch_size": 32, "image_size": 224}, text_config=small, projection_dim=16)
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds.data.normal_()
    checker.special_care_embeds.data.normal_()
    pixels = clip_pixels(torch.rand(12, 3, 64, 64))
    for threshold in (-2.0, 0.3, 2.0):
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(threshold)
        _, wanted = checker(clip_input=pixels, images=[np.ones((4, 4, 3)) for _ in range(12)])
        with torch.no_grad():
            assert compvis_flags(checker, pixels).tolist() == list(wanted)
        assert {-2.0: all(wanted), 2.0: not any(wanted), 0.3: True}[threshold]


def test_the_shipped_checker_is_for_explicit_concepts_only(tiny, concept):
    checker = replace(build("method", "safety_checker"), checker="compvis")
    assert "clip_text" in checker.supports(tiny.spec, [concept()])
    assert checker.supports(tiny.spec, [concept(kind="explicit")]) is None


def test_unknown_clips_are_named_before_anything_is_loaded(tiny, concept):
    checker = build("method", "safety_checker")
    assert "no model 'ViT-L-99'" in replace(checker, clip="ViT-L-99/openai").supports(tiny.spec, [concept()])
    assert "no weights 'mine'" in replace(checker, clip="ViT-L-14/mine").supports(tiny.spec, [concept()])
