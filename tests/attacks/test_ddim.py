"""DDIM by hand: equal to diffusers, finite where theirs is not, and undone by its inversion."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from vestige.attacks._ddim import asked_for, from_latents, inverted, noisy_step
from vestige.attacks._rows import ByImage, ByRow, check_ask, worded
from vestige.bench.models.process import RectifiedFlow, VariancePreserving

GRID = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 1}


def scheduler(steps: int, **config) -> DDIMScheduler:
    made = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **GRID, **config)
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_equals_diffusers(prediction, eta):
    ours, g = scheduler(20, prediction_type=prediction), torch.Generator().manual_seed(0)
    x, out, z = (torch.randn(2, 4, 8, 8, generator=g) for _ in range(3))
    process = VariancePreserving.of(ours)
    for t, to in pairwise(process.grid(20)):
        mean, sigma = noisy_step(process, out, x, t, to, eta)
        theirs = ours.step(out, t, x, eta=eta, variance_noise=z).prev_sample
        assert torch.allclose(mean + sigma * z, theirs, atol=1e-5)


@pytest.mark.parametrize("steps", [20, 50])
def test_more_noise_than_the_model_was_made_for_stays_finite_where_diffusers_does_not(steps):
    ours, stock_failed = scheduler(steps), False
    process = VariancePreserving.of(ours)
    x = out = torch.ones(1, 1, 2, 2)
    for eta in (1.0, 1.17, 1.34, 1.51, 1.68, 1.85):
        for t, to in pairwise(process.grid(steps)):
            mean, sigma = noisy_step(process, out, x, t, to, eta)
            assert torch.isfinite(mean).all() and torch.isfinite(sigma)
            stock_failed |= bool(ours.step(out, t, x, eta=eta, variance_noise=x).prev_sample.isnan().any())
    assert stock_failed


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_on_a_flow_the_step_keeps_the_amount_of_noise_that_its_level_has(eta):
    process, g = RectifiedFlow(shift=3.0), torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 4, 8, 8, generator=g)
    for level, to in pairwise(process.grid(5)):
        mean, deviation = noisy_step(process, noise - x0, process.add_noise(x0, noise, level), level, to, eta)
        left = to.double() / 1000  # noise at the cleaner level
        kept = (left**2 - deviation.double() ** 2).clamp(min=0).sqrt()
        assert torch.allclose(mean.double(), (1 - left) * x0 + kept * noise, atol=1e-5)
        assert (deviation > 0).all() == (eta > 0 and left > 0)
    fresh = noisy_step(process, noise - x0, noise, torch.tensor(1000.0), torch.tensor(600.0), 1.0)[1]
    assert fresh.item() == pytest.approx(0.6), "pure noise tells nothing: all of it is drawn anew"


def psnr(a, b):
    return 10 * torch.log10((b.max() - b.min()) ** 2 / (a - b).square().mean()).item()


@pytest.mark.parametrize("flow", [False, True])
@torch.no_grad()
def test_sampling_from_inverted_latents_returns_the_image_and_with_another_model_less_so(tiny, sampler, flow):
    sampler = asked_for(sampler, 50, 1.0)
    if flow:
        tiny.process = RectifiedFlow()
    x_0 = torch.nn.functional.interpolate(torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1)), (8, 8), mode="bilinear")
    tiny.denoiser.conv_out.weight.data *= 0.3  # a random denoiser is rough: a smooth one makes small steps
    cond = tiny.encode(["a dog", "a cat"])
    path = inverted(tiny, x_0, cond, sampler)
    assert len(path) == 51 and torch.equal(path[0], x_0)

    def back(first):
        with tiny.sampled_by(from_latents(lambda seeds: path[50 - first], sampler, first)):
            return psnr(tiny.sample(cond, [1, 2], sampler), x_0)

    same = back(0)
    assert same > 25 and back(30) > 25
    for parameter in tiny.denoiser.parameters():
        parameter.data *= 1.3
    assert back(0) < same - 3


@torch.no_grad()
def test_inversion_and_sampling_meet_at_every_step(tiny, sampler):
    """Entry k belongs before step `steps - k`: its noise level is that step's."""
    sampler, levels = asked_for(sampler, 10, 1.0), []
    tiny.denoiser.conv_out.weight.data.zero_()
    tiny.denoiser.conv_out.bias.data.zero_()
    path = inverted(tiny, torch.ones(1, 4, 8, 8), tiny.encode([""]), sampler)
    stock = scheduler(10)
    for k in range(1, 11):  # a denoiser that predicts no noise scales x_0 by the root of alpha_bar
        alpha = stock.alphas_cumprod[stock.timesteps[10 - k]] / stock.alphas_cumprod[0]
        levels.append(torch.allclose(path[k], alpha.sqrt().expand_as(path[k]), atol=1e-5))
    assert all(levels)


def test_inversion_is_part_of_a_sampling_run_to_adapters_that_follow_the_steps(tiny, sampler):
    seen = []
    with tiny.before_denoiser(lambda call: seen.append((call.step, call.steps))):
        inverted(tiny, torch.ones(1, 4, 8, 8), tiny.encode([""]), asked_for(sampler, 3, 1.0))
    assert seen == [(2, 3), (1, 3), (0, 3)]


def test_values_are_found_by_the_seeds_of_rows_and_repetitions(prompts):
    asked = prompts(3, repeats=2)
    seeds = [asked.seed("0002", 1), asked.seed("0000", 0)]
    assert ByImage(asked, torch.arange(6))(seeds).tolist() == [5, 0]
    assert ByRow(asked, torch.arange(3))(seeds).tolist() == [2, 0]
    with pytest.raises(ValueError, match="other prompts"):
        ByRow(asked, torch.arange(3))([7])
    with pytest.raises(ValueError, match="6 images"):
        ByImage(asked, torch.arange(3))


def test_an_edit_may_quote_the_prompt_with_or_without_the_concept(prompts, concept):
    assert worded("{anchored}, sunglasses", prompts(1), [concept()]) == ["a photo of an animal 0, sunglasses"]
    assert worded("{prompt}", prompts(1), [concept()]) == ["a photo of a dog 0"]
    with pytest.raises(ValueError, match="anchored"):
        check_ask("attack.x.ask", "{concept}")
