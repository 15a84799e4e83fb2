"""The pipe: equal to diffusers, independent of batches, and always restored."""

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.models import diffusion, loading
from vestige.bench.models.sampling import Trajectory, classifier_free

PROMPTS, SEEDS = ["a photo of a cat", "a dog"], [1, 2]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_images_equal_those_of_diffusers(family, sampler):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    pipe = loading.load(tiny_spec(family))
    token, parts = pipe.text.tokenizers[0], pipe.parts
    if family == "sd1":
        theirs = StableDiffusionPipeline(
            pipe.vae, parts["text_encoder"], token, pipe.denoiser, pipe.scheduler, None, None, requires_safety_checker=False
        )
    else:
        encoders = parts["text_encoder"], parts["text_encoder_2"]
        theirs = StableDiffusionXLPipeline(pipe.vae, *encoders, *pipe.text.tokenizers, pipe.denoiser, pipe.scheduler, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    size = {"height": 16, "width": 16, "output_type": "pt"}
    wanted = theirs(PROMPTS, num_inference_steps=2, guidance_scale=3.0, latents=pipe.noise(SEEDS, 16, 16), **size).images
    with torch.no_grad():
        ours = pipe.decode(pipe.sample(pipe.encode(PROMPTS), SEEDS, sampler))
    assert torch.allclose(ours, wanted, atol=1e-6)


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
