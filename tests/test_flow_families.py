"""Stable Diffusion 3 and Flux: as the pipelines of diffusers draw, with weights by their role, and through one noise process."""

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.models import diffusion, loading, tiny
from vestige.bench.models.families import family
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.process import RectifiedFlow, VariancePreserving

PROMPTS, SEEDS = ["a photo of a cat", "a dog"], [1, 2]
FLOWS = ("sd3", "flux")
EULER = Sampler("FlowMatchEulerDiscreteScheduler", {}, 3, 3.0, 16, 16, embedded_guidance=2.5)


@pytest.fixture(scope="module")
def loaded():
    """Tiny pipes, shared by tests that change nothing of them."""
    return {name: loading.load(tiny_spec(name)) for name in FLOWS}


@pytest.fixture(params=FLOWS)
def pipe(request, loaded):
    return loaded[request.param]


def rebuilt(name: str, without: tuple[str, ...] = (), **settings) -> Pipe:
    """The tiny pipe of a family without some parts and with other settings of its transformer."""
    parts, tokenizers, scheduler, _ = family(name).tiny()
    if settings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts["transformer"] = type(parts["transformer"]).from_config({**parts["transformer"].config, **settings})
    encoders = [part for part in family(name).encoders if part not in without]
    kept = {part: module.eval().requires_grad_(False) for part, module in parts.items() if part not in without}
    return Pipe(tiny_spec(name), kept, tokenizers[: len(encoders)], scheduler)


def pipeline_of(pipe: Pipe):
    """The genuine pipeline of diffusers, of the same parts."""
    import diffusers

    kind = {"sd3": diffusers.StableDiffusion3Pipeline, "flux": diffusers.FluxPipeline}[pipe.spec.family]
    known = pipe.family
    texts = dict.fromkeys((*known.encoders, *known.tokenizers)) | dict(zip(known.tokenizers, pipe.text.tokenizers, strict=False))
    made = kind(**(texts | pipe.parts), scheduler=pipe.scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def drawn_by_diffusers(pipe: Pipe, sampler: Sampler, guidance: float):
    noise, t5 = pipe.noise(SEEDS, sampler.height, sampler.width), 32
    size = {"height": sampler.height, "width": sampler.width, "num_inference_steps": sampler.steps, "output_type": "pt"}
    theirs = pipeline_of(pipe)
    if pipe.spec.family == "sd3":
        t5 = 32 if "text_encoder_3" in pipe.parts else 256
        return theirs(PROMPTS, guidance_scale=guidance, latents=noise, max_sequence_length=t5, **size).images
    n, c, h, w = noise.shape
    noise = theirs._pack_latents(noise, n, c, h, w)
    told = {"true_cfg_scale": guidance, "negative_prompt": [""] * n, "guidance_scale": sampler.embedded_guidance}
    return theirs(PROMPTS, latents=noise, max_sequence_length=t5, **told, **size).images


def drawn(pipe: Pipe, sampler: Sampler):
    with torch.no_grad():
        return pipe.decode(pipe.sample(pipe.encode(PROMPTS), SEEDS, sampler))


# Sampling and encoding


CASES = {
    "sd3": ("sd3", {}),
    "sd3-without-t5": ("sd3", {"without": ("text_encoder_3",)}),
    "sd3-one-attention": ("sd3", {"dual_attention_layers": (), "qk_norm": None}),
    "flux-told-a-scale": ("flux", {}),
    "flux-told-none": ("flux", {"guidance_embeds": False}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guidance, size", [(3.0, (16, 16)), (1.0, (24, 16))])
def test_images_equal_those_of_diffusers(case, guidance, size):
    name, other = CASES[case]
    pipe = rebuilt(name, **other)
    sampler = Sampler("FlowMatchEulerDiscreteScheduler", {}, 3, guidance, *size, embedded_guidance=2.5)
    assert torch.allclose(drawn(pipe, sampler), drawn_by_diffusers(pipe, sampler, guidance), atol=1e-4)
