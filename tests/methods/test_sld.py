"""SLD: its arithmetic on one number, its limits, and images equal to diffusers' own class."""

import warnings
from dataclasses import replace

import pytest
import torch

from vestige.bench.contract.types import Sampler
from vestige.bench.run.contract_checks import build
from vestige.methods.sld import SLD

PRESETS = {"sld": "MEDIUM", "sld_weak_diffusers": "WEAK", "sld_strong": "STRONG", "sld_max": "MAX"}


def preset(name: str, **over) -> SLD:
    return replace(build("method", name), **over)


def drawn(pipe, method, sampler, concept, context):
    erasure = method.erase(pipe, [concept()], context())
    with method.attach(pipe, erasure):
        return pipe(["a photo of a dog"] * 2, [1, 2], sampler).pixels


def test_one_number_by_hand():
    """Card: e_p - e_S = -0.0005 and e_S - e_0 = 0.2 give strength 0.5, gamma 0.1 and momentum 0.06."""
    e_null, e_safety = torch.tensor([0.0]), torch.tensor([0.2])
    gamma, momentum = preset("sld").steering(e_null, e_safety - 0.0005, e_safety, torch.zeros(1))
    assert torch.allclose(gamma, torch.tensor([0.1]), atol=1e-4) and torch.allclose(momentum, torch.tensor([0.06]), atol=1e-4)
    gamma, momentum = preset("sld").steering(e_null, e_safety - 0.0005, e_safety, momentum)
    assert torch.allclose(gamma, torch.tensor([0.118]), atol=1e-4)  # 0.1 + 0.3 * 0.06


def test_without_gate_and_with_unlimited_strength_it_is_composed_guidance():
    e_null, e_cond, e_safety = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    open_gate = preset("sld", threshold=1e9, scale=1e9, momentum_scale=0.0)
    gamma, _ = open_gate.steering(e_null, e_cond, e_safety, torch.zeros(50))
    assert torch.allclose((e_cond - e_null) - gamma, e_cond - e_safety, atol=1e-6)
    shut = preset("sld", threshold=-1e9, momentum_scale=0.0)
    assert shut.steering(e_null, e_cond, e_safety, torch.zeros(50))[0].abs().max() == 0


def test_the_empty_safety_text_and_an_endless_warmup_give_the_plain_image(tiny, concept, context, sampler):
    plain = tiny(["a photo of a dog"] * 2, [1, 2], sampler).pixels
    assert torch.equal(drawn(tiny, preset("sld_max", text=""), sampler, concept, context), plain)
    assert torch.equal(drawn(tiny, preset("sld_weak", warmup_schedule=None), sampler, concept, context), plain)
    assert not torch.equal(drawn(tiny, preset("sld_max"), sampler, concept, context), plain)


@pytest.mark.parametrize("steps, first", [(50, 10), (20, 4), (25, 5)])
def test_warmup_scales_with_the_schedule(steps, first):
    assert preset("sld").warmup_calls(steps) == first
    assert preset("sld", warmup_schedule=None).warmup_calls(steps) == 10


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "scheduler, arguments, steps, calls", [("DDIMScheduler", {}, 18, 18), ("PNDMScheduler", {"skip_prk_steps": True}, 50, 51)]
)
def test_images_equal_those_of_diffusers(tiny, concept, context, name, scheduler, arguments, steps, calls):
    """PNDM, the scheduler that Stable Diffusion 1 ships, calls once more than it was asked for; warm-up counts what was asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import StableDiffusionPipelineSafe
        from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig
    sampler = Sampler(scheduler, arguments, steps, 5.0, 16, 16)
    parts = {"vae": tiny.vae, "unet": tiny.denoiser, "text_encoder": tiny.parts["text_encoder"], "tokenizer": tiny.text.tokenizers[0]}
    theirs = StableDiffusionPipelineSafe(
        **parts, scheduler=tiny.scheduler_for(sampler), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.safety_concept = "dog"
    settings = getattr(SafetyConfig, PRESETS[name])
    shared = {"num_inference_steps": steps, "guidance_scale": 5.0, "height": 16, "width": 16, "output_type": "np"}
    wanted = theirs(["a photo of a dog"], latents=tiny.noise([7], 16, 16), **shared, **settings).images[0]
    assert len(theirs.scheduler.timesteps) == calls
    method = preset(name, warmup_schedule=50 if steps == 50 else None)
    with torch.no_grad(), method.attach(tiny, method.erase(tiny, [concept()], context())):
        ours = tiny.decode(tiny.sample(tiny.encode(["a photo of a dog"]), [7], sampler))[0].permute(1, 2, 0)
    plain = tiny.decode(tiny.sample(tiny.encode(["a photo of a dog"]), [7], sampler))[0].permute(1, 2, 0).detach()
    assert (ours - torch.from_numpy(wanted)).abs().max() < 2e-5
    assert name == "sld_weak_diffusers" or (plain - ours).abs().max() > 1e-4
