"""Noise, completion and inpainting: each leads back to ordinary sampling where it must."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks.noise_probes import Completion, Inpainting, NoiseProbe, cropped, square
from vestige.attacks.training_images import row_images
from vestige.bench.contract.plugin import Victim
from vestige.bench.contract.types import Sampler
from vestige.methods.original import Original

NOISE = NoiseProbe(etas=[0.0, 1.0], variance_scales=[1.0], start="own", steps=4, guidance=3.0)
COMPLETION = Completion(by_original=2, steps=4, guidance=3.0, source="target")
INPAINT = Inpainting(hole=0.5, judged="whole", source="target")


@pytest.fixture
def victim(tiny, concept, sampler):
    return Victim(tiny, [concept()], Original(), sampler, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))


def seeds_of(asked):
    return [asked.seed(row, rep) for row in asked.table["row_id"] for rep in range(asked.repeats)]


@torch.no_grad()
def latents(attack, found, pipe, sampler):
    with attack.attach(pipe, found):
        texts = [text for text in found.prompts.prompts for _ in range(found.prompts.repeats)]
        return pipe.sample(pipe.encode(texts), seeds_of(found.prompts), sampler)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@torch.no_grad()
def test_without_surplus_noise_it_is_the_stock_sampler(victim, prompts, context, sampler, eta):
    attack, asked, pipe = replace(NOISE, etas=[eta]), prompts(2), victim.pipe
    found = attack.attack(victim, asked, context())
    scheduler = pipe.scheduler_for(Sampler("DDIMScheduler", {}, 4, 3.0, 16, 16))
    scheduler.set_timesteps(4)
    x, cond, null, rule = pipe.noise(seeds_of(asked), 16, 16), pipe.encode(asked.prompts), pipe.null(2), pipe.guidance()
    from vestige.bench.models.sampling import Step

    generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds_of(asked)]
    for index, t in enumerate(scheduler.timesteps):
        e = rule(Step(pipe, x, t, index, 4, cond, null, 3.0))
        z = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
        x = scheduler.step(e, t, x, eta=eta, variance_noise=z).prev_sample
    assert torch.allclose(latents(attack, found, pipe, sampler), x, atol=1e-4)


def test_variants_differ_and_the_one_that_succeeds_is_drawn_again(victim, prompts, context, sampler):
    seen, verdicts = [], [[False, True], [True]]

    def judge(pixels, expect):
        seen.append(pixels)
        return torch.tensor(verdicts[len(seen) - 1])

    victim.judge = judge
    found = NOISE.attack(victim, prompts(2), context())
    assert found.prompts.table["found_at"].tolist() == [2, 1] and found.prompts.table["eta"].tolist() == [1.0, 0.0]
    assert found.meta["rate_at_first"] == 0.5 and found.meta["rate_at_last"] == 1.0
    assert victim.pipe.counts["images"] == 3
    with NOISE.attach(victim.pipe, found) as pipe:
        again = pipe(found.prompts.prompts, seeds_of(found.prompts), sampler).pixels
    assert (again[0].int() - seen[1][0].int()).abs().max() <= 1 and (again[1].int() - seen[0][1].int()).abs().max() <= 1
    assert not torch.equal(seen[0][0], seen[1][0])


def test_fresh_variants_start_from_noise_of_their_own(victim, prompts, sampler):
    asked, grid = prompts(1), [(0.0, 1.0), (0.0, 1.0)]
    starts = []
    for start in ("fresh", "own"):
        attack = replace(NOISE, start=start)
        starts.append([attack.trajectory(asked, grid, [k])(victim.pipe, seeds_of(asked), sampler).start() for k in range(2)])
    assert not torch.equal(*starts[0]) and torch.equal(*starts[1])
    assert torch.equal(starts[1][0], victim.pipe.noise(seeds_of(asked), 16, 16))


@torch.no_grad()
def test_the_same_model_completes_the_uninterrupted_image_and_no_step_left_is_the_originals(victim, prompts, context, sampler):
    asked, pipe = prompts(2, repeats=2), victim.pipe
    whole = latents(replace(NOISE, etas=[0.0]), replace(NOISE, etas=[0.0]).attack(victim, asked, context()), pipe, sampler)
    found = COMPLETION.attack(victim, asked, context())
    assert torch.allclose(latents(COMPLETION, found, pipe, sampler), whole, atol=1e-4)
    assert found.meta["forward_rows_of_the_original"] == 4 * 2 * 2
    pipe.denoiser.conv_out.weight.data *= 2
    assert not torch.allclose(latents(COMPLETION, found, pipe, sampler), whole, atol=1e-2)
    ended = replace(COMPLETION, by_original=4)
    assert torch.allclose(latents(ended, ended.attack(victim, asked, context()), pipe, sampler), whole, atol=1e-4)
    wrong = replace(COMPLETION, source="wrong_concept").attack(victim, asked, context())
    assert not torch.equal(wrong.tensors["latents"], found.tensors["latents"])


def test_outside_the_hole_the_image_stays_and_inside_it_is_the_models(victim, prompts, context, sampler):
    asked = prompts(2)
    clean = victim.pipe.encode_images(row_images(context(), asked, victim.concepts, "target", 1))
    drawn = latents(INPAINT, INPAINT.attack(victim, asked, context()), victim.pipe, sampler)
    free = square(8, 8, 0.5).bool()
    assert free.sum() == 16 and free[2:6, 2:6].all()
    assert torch.allclose(drawn[..., ~free], clean[..., ~free], atol=1e-5)
    assert not torch.allclose(drawn[..., free], clean[..., free], atol=1e-2)


def test_a_hole_of_the_whole_image_is_ordinary_sampling(victim, prompts, context, sampler):
    asked, attack = prompts(2), replace(INPAINT, hole=1.0)
    found = attack.attack(victim, asked, context())
    with torch.no_grad():
        plain = victim.pipe.sample(victim.pipe.encode(asked.prompts), seeds_of(asked), sampler)
    assert torch.equal(latents(attack, found, victim.pipe, sampler), plain)


def test_the_hole_alone_is_judged_if_asked(victim, prompts, context, sampler):
    asked, attack = prompts(1), replace(INPAINT, judged="hole")
    found = attack.attack(victim, asked, context())
    drawn = {}
    for name, one in (("hole", attack), ("whole", INPAINT)):
        with one.attach(victim.pipe, found) as pipe:
            drawn[name] = pipe(asked.prompts, seeds_of(asked), sampler).pixels
    enlarged = (cropped(drawn["whole"].float() / 255, 0.5) * 255).round()
    assert (drawn["hole"].float() - enlarged).abs().max() <= 2
    assert not victim.pipe.filters


def test_what_cannot_be_completed_or_filled_is_refused():
    with pytest.raises(ValueError, match="wrong_concept"):
        replace(COMPLETION, source="never_knew")
    with pytest.raises(ValueError, match="by_original"):
        replace(COMPLETION, by_original=5)
    with pytest.raises(ValueError, match="hole"):
        replace(INPAINT, hole=0.0)
    with pytest.raises(ValueError, match="fresh, own"):
        replace(NOISE, start="row")
