"""The pipe: independent of batches, always restored, and what plugins ask it for."""

import dataclasses

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.models import diffusion, loading
from vestige.bench.models.conditioning import COND, NULL
from vestige.bench.models.sampling import Trajectory, classifier_free

PROMPTS, SEEDS = ["a photo of a cat", "a dog"], [1, 2]


def test_an_image_does_not_depend_on_its_batch_mates(tiny, sampler):
    together = tiny(PROMPTS, SEEDS, sampler).pixels
    alone = tiny(PROMPTS[1:], SEEDS[1:], sampler).pixels
    assert (together[1:].int() - alone.int()).abs().max() <= 1


def test_a_learnt_word_equal_to_a_known_one_gives_the_same_conditioning(tiny):
    vector = tiny.text.embedding_table()[tiny.text.token_ids("cat")]
    with tiny.with_learned_tokens({"<word>": vector}):
        learnt = tiny.encode(["a <word> in the rain"])
    assert torch.equal(learnt.hidden, tiny.encode(["a cat in the rain"]).hidden)
    assert not tiny.text.words


@pytest.fixture
def sdxl():
    return loading.load(tiny_spec("sdxl"))


@torch.no_grad()
def test_a_learned_token_has_rows_for_each_of_two_encoders(sdxl):
    """Those of a known word give that word's conditioning; an encoder without rows reads the text without the token."""
    rows = {reader.name: reader.table[reader.token_ids("cat")] for reader in sdxl.text.readers}
    known, left_out = sdxl.encode(["a cat in the rain"]), sdxl.encode(["a in the rain"])
    first = sdxl.text.readers[0].table.shape[1]
    with sdxl.with_learned_tokens({"<word>": rows}):
        both = sdxl.encode(["a <word> in the rain"])
    with sdxl.with_learned_tokens({"<word>": rows["clip"]}):
        one = sdxl.encode(["a <word> in the rain"])
    assert torch.equal(both.hidden, known.hidden) and torch.equal(both.pooled, known.pooled)
    assert torch.equal(one.hidden[..., :first], known.hidden[..., :first])
    assert torch.equal(one.hidden[..., first:], left_out.hidden[..., first:]) and torch.equal(one.pooled, left_out.pooled)


def test_replaced_tensors_come_back_even_after_an_error(tiny):
    name = "unet.conv_in.weight"
    before = tiny.fingerprint()
    with pytest.raises(RuntimeError, match="stop"), tiny.replaced({name: torch.zeros_like(tiny.parameter(name))}):
        assert tiny.fingerprint() != before
        raise RuntimeError("stop")
    assert tiny.fingerprint() == before


def test_an_unknown_parameter_is_refused_with_near_names(tiny):
    with pytest.raises(ValueError, match="conv_in"), tiny.replaced({"unet.conv_inn.weight": torch.zeros(1)}):
        pass


def test_an_artefact_of_another_width_is_refused(tiny):
    with pytest.raises(ValueError, match="another model"), tiny.replaced({"unet.conv_in.weight": torch.zeros(1)}):
        pass


@pytest.mark.parametrize("alignment, low, high", [("legacy", 200, 219), ("exact", 201, 201)])
def test_partial_denoising_returns_a_timestep_of_its_bin(tiny, alignment, low, high):
    generator = torch.Generator().manual_seed(0)
    x, t = diffusion.partial_denoise(tiny, tiny.encode(["a cat"]), bin=10, bins=50, guidance=3.0, alignment=alignment, generator=generator)
    assert x.shape == (1, 4, 8, 8) and low <= int(t) <= high


def test_choosing_parameters_by_a_pattern_that_matches_nothing_names_near_ones(tiny):
    with pytest.raises(ValueError, match="Near names"):
        diffusion.choose_parameters(tiny.denoiser, "attn3")


class _Halfway(Trajectory):
    """Takes the second of two steps only, from given latents."""

    given: torch.Tensor

    def __init__(self, *args):
        super().__init__(*args)
        self.first = 1

    def start(self):
        return self.given


def test_a_trajectory_may_stop_early_and_another_may_go_on_from_there(tiny, sampler):
    class First(Trajectory):
        def __init__(self, *args):
            super().__init__(*args)
            self.last = 1

    with torch.no_grad():
        cond, before = tiny.encode(PROMPTS), tiny.fingerprint()
        whole = tiny.sample(cond, SEEDS, sampler)
        with tiny.sampled_by(First):
            assert tiny.fingerprint() != before
            _Halfway.given = tiny.sample(cond, SEEDS, sampler)
        with tiny.sampled_by(_Halfway):
            rest = tiny.sample(cond, SEEDS, sampler)
    assert torch.equal(rest, whole) and not torch.equal(_Halfway.given, whole)
    assert tiny.fingerprint() == before


def test_a_guidance_rule_sees_the_image_of_each_row_and_the_true_index_of_a_late_start(tiny, sampler):
    seen = []

    def noting():
        inner = classifier_free()

        def rule(step):
            seen.append((step.image_ids, step.index, step.total))
            return inner(step)

        return rule

    _Halfway.given = tiny.noise(SEEDS, 16, 16)
    with tiny.guided_by(noting), tiny.sampled_by(_Halfway):
        tiny(PROMPTS, SEEDS, sampler)
    assert seen == [((1, 2), 1, 2)]


def test_bytes_and_shares_of_one_image_have_the_same_latents(tiny):
    """Latents of white are those of 1.0 exactly: 255 and not 256 steps."""
    shares = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    shares[0] = 1.0
    assert torch.equal(tiny.encode_images((shares * 255).round().to(torch.uint8)), tiny.encode_images(shares))


def test_a_learned_token_beyond_what_the_model_reads_is_refused(tiny):
    far = " ".join(["dog"] * (tiny.text.length - 2))  # with the begin token before it, the next token would stand where the end does
    row = tiny.text.embedding_table()[:1].clone()
    with tiny.with_learned_tokens({"<word>": row}):
        with pytest.raises(ValueError, match=f"beyond the {tiny.text.length} tokens"):
            tiny.encode([f"{far} <word>"])
        tiny.encode([f"<word> {far} and more"])  # only the tail is cut


def doubled(module, args, kwargs, output):
    return output * 2


@torch.no_grad()
def test_hooks_set_through_the_pipe_are_out_of_force_inside_off(tiny):
    """On the denoiser and on the text encoder, so that the model as it was loaded is the teacher."""
    site = next(f"unet.{name}" for name in tiny.layers("text_attention"))
    norm = next(f"text_encoder.{name}" for name, _ in tiny.parts["text_encoder"].named_modules() if name.endswith("final_layer_norm"))
    x, cond = tiny.noise(SEEDS, 16, 16), tiny.encode(PROMPTS)
    as_loaded = tiny.predict(x, 500, cond)
    with tiny.hooked({site: doubled, norm: doubled}):
        hooked, states = tiny.predict(x, 500, cond), tiny.encode(PROMPTS).hidden
        with pytest.raises(RuntimeError, match="stop"), tiny.off():
            assert torch.equal(tiny.predict(x, 500, cond), as_loaded) and torch.equal(tiny.encode(PROMPTS).hidden, cond.hidden)
            raise RuntimeError("stop")
        assert torch.equal(tiny.predict(x, 500, cond), hooked) and torch.equal(tiny.encode(PROMPTS).hidden, states)
    assert not torch.equal(hooked, as_loaded) and not torch.equal(states, cond.hidden)


@torch.no_grad()
def test_a_call_says_its_step_level_and_branches(tiny, sampler):
    calls = []
    with tiny.before_denoiser(calls.append):
        tiny(PROMPTS, SEEDS, sampler)
        tiny.predict(tiny.noise(SEEDS, 16, 16), 7, tiny.encode(PROMPTS))
    scheduler = tiny.scheduler_for(sampler)
    scheduler.set_timesteps(sampler.steps)
    assert [(call.step, call.steps) for call in calls] == [(0, 2), (1, 2), (None, None)]
    assert [int(call.level) for call in calls] == [*scheduler.timesteps.tolist(), 7]
    assert calls[0].cond.branches.tolist() == [NULL, NULL, COND, COND] and calls[2].cond.branches.tolist() == [COND, COND]
    assert len(calls[0].x) == 4 and torch.equal(calls[0].cond.owner, tiny.encode(PROMPTS * 2).ids), "null rows serve the prompts"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_loss_is_the_error_of_what_the_model_was_trained_to_answer(family):
    """Per row, and differentiable in the conditioning."""
    pipe = loading.load(tiny_spec(family))
    latents, cond = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), pipe.encode(PROMPTS).detach()
    at = pipe.corruption(latents, torch.Generator().manual_seed(3))
    share = pipe.process.alphas_cumprod[at.level].view(-1, 1, 1, 1)
    noised = share.sqrt() * latents + (1 - share).sqrt() * at.noise
    wanted = share.sqrt() * at.noise - (1 - share).sqrt() * latents if family == "sd2" else at.noise
    cond.hidden.requires_grad_(True)
    loss = pipe.loss(latents, cond, at)
    assert torch.allclose(loss, (pipe.predict(noised, at.level, cond) - wanted).square().mean((1, 2, 3)), rtol=1e-4)
    loss[0].backward()
    assert cond.hidden.grad[0].abs().max() > 0 and not cond.hidden.grad[1].any()


def test_the_loss_of_another_denoiser_is_asked_by_name(tiny):
    teacher = diffusion.frozen_copy(tiny.denoiser)
    latents, cond = torch.zeros(2, 4, 8, 8), tiny.encode(PROMPTS)
    at = tiny.corruption(latents, torch.Generator().manual_seed(3))
    before = tiny.loss(latents, cond, at)
    with tiny.replaced({"unet.conv_out.weight": torch.zeros_like(tiny.parameter("unet.conv_out.weight"))}):
        assert torch.equal(tiny.loss(latents, cond, at, teacher), before) and not torch.equal(tiny.loss(latents, cond, at), before)


def test_a_corruption_draws_noise_first_and_then_the_level(tiny):
    latents = torch.zeros(3, 4, 8, 8)
    at, again = tiny.corruption(latents, torch.Generator().manual_seed(5)), torch.Generator().manual_seed(5)
    assert torch.equal(at.noise, torch.randn(latents.shape, generator=again))
    assert torch.equal(at.level, torch.randint(1000, (3,), generator=again))


@torch.no_grad()
def test_a_denoiser_is_told_the_guidance_of_the_block_or_of_the_sampler(tiny, sampler):
    told = []
    with tiny.before_denoiser(lambda call: told.append(tiny.embedded_guidance)):
        with pytest.raises(RuntimeError, match="stop"), tiny.told_guidance(4.0):
            tiny.predict(tiny.noise(SEEDS, 16, 16), 7, tiny.encode(PROMPTS))
            raise RuntimeError("stop")
        tiny.sample(tiny.encode(PROMPTS), SEEDS, dataclasses.replace(sampler, embedded_guidance=2.5))
    assert told == [4.0, 2.5, 2.5] and tiny.embedded_guidance == 1.0


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_group_is_the_weights_of_a_role_and_its_layers_hold_them(family):
    """Every block reads the text by two projections, keys and values."""
    pipe = loading.load(tiny_spec(family))
    group, layers = pipe.group("text_kv"), pipe.layers("text_kv")
    blocks = [name for name, module in pipe.denoiser.named_modules() if name.endswith("attn2")]
    assert sorted(layers) == sorted(f"{block}.to_{which}" for block in blocks for which in "kv") and len(blocks) > 1
    assert all(layers[name.rpartition(".")[0]].weight is parameter for name, parameter in group.items())
    assert all(layer.in_features == pipe.encode([""]).hidden.shape[-1] for layer in layers.values())
    assert len(pipe.group("all")) == len(list(pipe.denoiser.parameters()))
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in pipe.layers("ends").values())


def test_a_group_that_a_family_does_not_have_is_refused_with_those_it_has(tiny):
    with pytest.raises(ValueError, match=r"'sd1' has no weights called 'joint'; it has: .*text_kv"):
        tiny.group("joint")


def test_what_a_plugin_trained_is_frozen_again_afterwards(tiny):
    weight = tiny.parameter("vae.post_quant_conv.weight")
    with tiny.preserved():
        weight.requires_grad_(True).sum().backward()
    assert weight.grad is None and not any(p.requires_grad for _, p in tiny.named_parameters())
