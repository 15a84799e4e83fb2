"""The search for text states: only they learn, with fresh noise every step, and they are what the model is told."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks.dori_embedding import DoriEmbedding
from vestige.attacks.training_images import row_images
from vestige.bench.contract.plugin import Victim
from vestige.bench.models.sampling import classifier_free
from vestige.methods.original import Original

SMALL = DoriEmbedding(start="prompt", steps=3, batch=2, lr=0.1, norm_limit=None, source="target", adaptive=True, rows_at_once=8)


@pytest.fixture
def victim(tiny, concept, sampler):
    for name, parameter in tiny.denoiser.named_parameters():
        if "attn2.to_v" in name:  # a random denoiser hardly hears its text
            parameter.data *= 50
    return Victim(tiny, [concept()], Original(), sampler, None)


def test_only_the_states_change_rows_do_not_see_each_other_and_seeds_repeat(victim, prompts, context):
    before = victim.pipe.fingerprint()
    together = SMALL.attack(victim, prompts(2), context()).tensors["states"]
    alone = replace(SMALL, rows_at_once=1).attack(victim, prompts(2), context()).tensors["states"]
    assert victim.pipe.fingerprint() == before and all(p.grad is None for _, p in victim.pipe.named_parameters())
    assert torch.allclose(together, alone, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert torch.equal(together, SMALL.attack(victim, prompts(2), context()).tensors["states"])


def test_the_first_loss_at_the_true_prompt_is_the_denoising_loss_of_that_prompt(victim, prompts, context):
    pipe, asked, ctx = victim.pipe, prompts(1), context()
    x0 = pipe.encode_images(row_images(ctx, asked, victim.concepts, "target", 1))
    g = SMALL.generator(asked, 0, ctx)
    noise, t = torch.randn((2, *x0.shape[1:]), generator=g), torch.randint(1000, (2,), generator=g)
    with torch.no_grad():
        out = pipe.predict(pipe.process.add_noise(x0.expand(2, -1, -1, -1), noise, t), t, pipe.encode(asked.prompts * 2))
    noted = context()
    SMALL.attack(victim, asked, noted)
    assert noted.history[0]["loss"] == pytest.approx((out - noise).square().mean().item(), rel=1e-5)


def test_every_step_draws_noise_and_timesteps_anew(victim, prompts, context, monkeypatch):
    seen = []
    predict = type(victim.pipe).predict

    def noting(self, x, t, cond, module=None):
        if torch.is_grad_enabled():
            seen.append((x.detach().clone(), t.clone()))
        return predict(self, x, t, cond, module)

    monkeypatch.setattr(type(victim.pipe), "predict", noting)
    SMALL.attack(victim, prompts(1), context())
    assert len(seen) == 3
    assert not torch.equal(seen[0][0], seen[1][0]) and not torch.equal(seen[0][1], seen[1][1])


def test_searching_lowers_the_error_and_a_limit_holds_the_norms(victim, prompts, context):
    found = replace(SMALL, steps=40, batch=16).attack(victim, prompts(1), context())
    assert found.meta["loss_after"] < found.meta["loss_before"]
    with torch.no_grad():
        own = victim.pipe.encode(prompts(1).prompts).hidden.norm(dim=-1)
    held = replace(SMALL, steps=40, norm_limit=1.0).attack(victim, prompts(1), context()).tensors["states"].norm(dim=-1)
    assert (held <= own * 1.001).all() and (found.tensors["states"].norm(dim=-1) > own * 1.1).any()


def test_the_rows_states_replace_the_text_inside_a_defended_rule_and_the_empty_prompt_stays(victim, prompts, context, sampler):
    pipe, asked, told = victim.pipe, prompts(2), []
    found = SMALL.attack(victim, asked, context())

    def defence():
        inner = classifier_free()

        def rule(step):
            told.append((step.cond.hidden, step.null.hidden))
            return inner(step)

        return rule

    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]][::-1]
    with pipe.guided_by(defence), SMALL.attach(pipe, found):
        pipe(asked.prompts[::-1], seeds, sampler)
    assert torch.equal(told[0][0], found.tensors["states"].flip(0))
    assert torch.equal(told[0][1], pipe.null(2).hidden)


def test_an_edited_text_encoder_is_reported_because_the_states_pass_it_by(victim, prompts, context):
    assert SMALL.attack(victim, prompts(1), context()).meta["text_encoder_edited"] is False
    next(p for n, p in victim.pipe.named_parameters() if n.startswith("text_encoder")).data += 1
    assert SMALL.attack(victim, prompts(1), context()).meta["text_encoder_edited"] is True


def test_unknown_starts_are_refused():
    with pytest.raises(ValueError, match="prompt, empty, normal"):
        replace(SMALL, start="zero")
