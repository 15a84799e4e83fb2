"""Sampling and encoding equal those of diffusers' own pipelines, on tiny models; SDXL in half precision draws no black images."""

import dataclasses

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.models import loading
from vestige.bench.models.families import family as family_of
from vestige.bench.models.pipe import Pipe

PROMPTS, SEEDS = ["a photo of a cat", "a dog"], [1, 2]
FAMILIES = ["sd1", "sd2", "sdxl", "sdxl, the empty prompt encoded"]


def loaded(family: str) -> Pipe:
    """In float32; `force_zeros_for_empty_prompt` stands in the settings of the published pipeline."""
    name, _, encoded = family.partition(", ")
    pipe = loading.load(tiny_spec(name))
    if encoded:
        pipe.settings = {"force_zeros_for_empty_prompt": False}
    return pipe


def theirs(pipe: Pipe):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    encoders = [pipe.parts[part] for part in pipe.family.encoders]
    if pipe.spec.family == "sdxl":
        built = StableDiffusionXLPipeline(
            pipe.vae, *encoders, *pipe.text.tokenizers, pipe.denoiser, pipe.scheduler, **pipe.settings, add_watermarker=False
        )
    else:
        tokenizer = pipe.text.tokenizers[0]
        built = StableDiffusionPipeline(
            pipe.vae, *encoders, tokenizer, pipe.denoiser, pipe.scheduler, None, None, requires_safety_checker=False
        )
    built.set_progress_bar_config(disable=True)
    return built


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_equal_those_of_diffusers(family, sampler):
    pipe = loaded(family)
    size = {"height": 16, "width": 16, "output_type": "pt"}
    wanted = theirs(pipe)(PROMPTS, num_inference_steps=2, guidance_scale=3.0, latents=pipe.noise(SEEDS, 16, 16), **size).images
    ours = pipe.decode(pipe.sample(pipe.encode(PROMPTS), SEEDS, sampler))
    assert torch.allclose(ours, wanted, atol=1e-4) and wanted.std() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_encodings_equal_those_of_diffusers(family):
    """Also the padding: that of Stable Diffusion 2 and of SDXL's second tokenizer is not the end token."""
    pipe = loaded(family)
    cond, null = pipe.encode(PROMPTS), pipe.null(2)
    answer = theirs(pipe).encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    ours = (cond.hidden, null.hidden) if cond.pooled is None else (cond.hidden, null.hidden, cond.pooled, null.pooled)
    assert len(answer) == len(ours) and all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, answer, strict=True))


@torch.no_grad()
def test_what_the_empty_prompt_of_sdxl_is_changes_images(sampler):
    zeros, encoded = (loaded(family)(PROMPTS, SEEDS, sampler).pixels for family in FAMILIES[2:])
    assert not torch.equal(zeros, encoded)


@pytest.fixture
def overflowing(monkeypatch):
    """A function that loads tiny SDXL in float16, whose VAE has activations beyond the range of float16, as the published one."""

    def load(force_upcast: bool) -> Pipe:
        tiny = family_of("sdxl").tiny

        def made(seed: int = 0):
            parts, *rest = tiny(seed)
            with torch.no_grad():
                parts["vae"].decoder.conv_in.weight.mul_(1e5)
            parts["vae"].register_to_config(force_upcast=force_upcast)
            return parts, *rest

        monkeypatch.setattr(family_of("sdxl"), "tiny", made)
        pipe = loading.load(dataclasses.replace(tiny_spec("sdxl"), dtype="float16"))
        monkeypatch.undo()
        return pipe

    return load


def test_sdxl_in_half_precision_decodes_in_full_where_its_vae_asks_for_that(overflowing, sampler):
    pipe = overflowing(force_upcast=True)
    drawn = pipe(PROMPTS, SEEDS, sampler)
    assert pipe.dtype == torch.float16 and pipe.vae.dtype == torch.float32
    assert drawn.status == ["ok", "ok"] and drawn.pixels.float().std() > 1
    assert pipe.encode_images(drawn.pixels).dtype == torch.float16, "the denoiser reads its own precision"


def test_without_that_setting_such_images_are_black_and_said_to_be(overflowing, sampler):
    drawn = overflowing(force_upcast=False)(PROMPTS, SEEDS, sampler)
    assert drawn.status == ["nan", "nan"] and not drawn.pixels.any()
