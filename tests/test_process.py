"""The noise process: levels as training draws them, and steps equal to those of diffusers' schedulers."""

from itertools import pairwise

import pytest
import torch

from vestige.bench.models import tiny
from vestige.bench.models.process import RectifiedFlow, VariancePreserving

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
PROCESSES = {
    "epsilon": VariancePreserving(ALPHAS, "epsilon"),
    "v_prediction": VariancePreserving(ALPHAS, "v_prediction"),
    "flow": RectifiedFlow(shift=3.0),
}


def normals(n: int, rows: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 4, 8, 8, generator=generator) for _ in range(n)]


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_target_implies_the_image_and_the_noise_it_was_made_of(process):
    x0, noise = normals(2)
    level = process.random_level(5, torch.Generator().manual_seed(1))
    x = process.add_noise(x0, noise, level)
    clean, implied = process.clean_and_noise(process.target(x0, noise, level), x, level)
    assert torch.allclose(clean, x0, atol=1e-4) and torch.allclose(implied, noise, atol=1e-4)


@pytest.mark.parametrize("shift, steps", [(1.0, 5), (3.0, 28)])
def test_ddim_in_levels_is_eulers_step_on_a_flow(shift, steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler, process = FlowMatchEulerDiscreteScheduler(shift=shift), RectifiedFlow(shift)
    scheduler.set_timesteps(steps)
    x, output = normals(2)
    levels = [*scheduler.timesteps, torch.tensor(0.0)]
    for level, to in pairwise(levels):
        wanted = scheduler.step(output, level, x).prev_sample
        assert torch.allclose(process.step(output, x, level, to), wanted, rtol=0, atol=1e-6)
        x = wanted


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_step_is_that_of_the_ddim_scheduler(prediction):
    from diffusers import DDIMScheduler

    settings = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": prediction}
    scheduler = DDIMScheduler(**(tiny.SCHEDULE | settings))
    scheduler.set_timesteps(10)
    process, (x0, noise) = VariancePreserving.of(scheduler), normals(2)
    levels = process.grid(10)
    assert levels[:-1].tolist() == scheduler.timesteps.tolist()
    for level, to in pairwise(levels):
        x = process.add_noise(x0, noise, level)
        output = process.target(x0, noise, level) + 0.1 * noise
        wanted = scheduler.step(output, level, x, eta=0.0).prev_sample
        assert torch.allclose(process.step(output, x, level, to), wanted, rtol=0, atol=1e-6)


def test_training_levels_of_a_flow_are_logit_normal_and_shifted():
    levels = RectifiedFlow(shift=3.0).random_level(20_000, torch.Generator().manual_seed(0)) / 1000
    plain = levels / (3 - 2 * levels)  # the shift undone
    logits = torch.logit(plain.double())
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03
    assert abs((levels < RectifiedFlow(3.0).level_at(0.25) / 1000).float().mean() - 0.25) < 0.01


def test_training_levels_of_a_diffusion_are_uniform():
    process = PROCESSES["epsilon"]
    levels = process.random_level(20_000, torch.Generator().manual_seed(0))
    assert (levels.min(), levels.max()) == (0, 999) and abs(levels.double().mean() - 499.5) < 6
    assert abs((levels < process.level_at(0.25)).float().mean() - 0.25) < 0.01
