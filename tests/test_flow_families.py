"""Stable Diffusion 3 and Flux: as the pipelines of diffusers draw, with weights by their role, and through one noise process."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec
from hydra import compose, initialize_config_dir

from vestige.bench.contract.types import Sampler
from vestige.bench.models import diffusion, loading, tiny
from vestige.bench.models.families import family
from vestige.bench.models.pipe import Pipe
from vestige.bench.papers import planning
from vestige.bench.places import CONF
from vestige.bench.run import composing, resolvers

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


def test_a_folder_saved_by_the_genuine_pipeline_draws_the_same(pipe, tmp_path):
    pipeline_of(pipe).save_pretrained(tmp_path)
    again = loading.load(replace(tiny_spec(pipe.spec.family), repo=str(tmp_path)))
    assert again.parts.keys() == pipe.parts.keys() and len(again.text.readers) == len(pipe.text.readers)
    assert torch.equal(drawn(again, EULER), drawn(pipe, EULER))
    row = again.text.reader("t5").table[again.text.reader("t5").token_ids("cat")]
    with again.with_learned_tokens({"<word>": {"t5": row}}):
        assert torch.equal(again.encode(["a <word>"]).segment("t5").rows, pipe.encode(["a cat"]).segment("t5").rows)


def test_a_folder_without_t5_loads_and_draws_the_same(tmp_path):
    pipe = rebuilt("sd3", without=("text_encoder_3",))
    pipeline_of(pipe).save_pretrained(tmp_path)
    again = loading.load(replace(tiny_spec("sd3"), repo=str(tmp_path)))
    assert [reader.name for reader in again.text.readers] == ["clip", "clip_2"]
    assert torch.equal(drawn(again, EULER), drawn(pipe, EULER))


def test_half_precision_draws_images_and_leaves_t5_what_it_needs(pipe, tmp_path):
    """The last layers of T5's blocks overflow in float16, so transformers keeps them in full precision."""
    pipeline_of(pipe).save_pretrained(tmp_path)
    half = loading.load(replace(tiny_spec(pipe.spec.family), repo=str(tmp_path), dtype="float16"))
    kept = {name.split(".")[-2] for name, p in half.text.reader("t5").module.named_parameters() if p.dtype == torch.float32}
    assert half.dtype == torch.float16 and kept == {"wo"}
    images = half(PROMPTS, SEEDS, EULER)
    assert images.status == ["ok", "ok"] and (images.pixels.float() - pipe(PROMPTS, SEEDS, EULER).pixels).abs().mean() < 2


def test_an_image_does_not_depend_on_its_batch_mates(pipe):
    together = pipe(PROMPTS, SEEDS, EULER).pixels
    alone = pipe(PROMPTS[1:], SEEDS[1:], EULER).pixels
    assert (together[1:].int() - alone.int()).abs().max() <= 1


def test_decoding_undoes_encoding_up_to_what_the_autoencoder_loses(pipe):
    """Both sides scale and shift, or the latents that a training step noises are not those that sampling ends at."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = pipe.vae.decode(pipe.vae.encode(images * 2 - 1).latent_dist.mean).sample
        ours = pipe.decode(pipe.encode_images(images))
    assert pipe.vae.config.shift_factor and torch.allclose(ours, (wanted / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    "name, scheduler, why",
    [
        ("flux", "FlowMatchHeunDiscreteScheduler", "takes no sigmas and no mu"),
        ("sd3", "PNDMScheduler", "samples no rectified flow"),
        ("flux", "DDIMScheduler", "samples no rectified flow"),
    ],
)
def test_a_scheduler_that_cannot_draw_is_refused(loaded, name, scheduler, why):
    """Diffusers makes a scheduler of the other process from a flow's settings without complaint."""
    with pytest.raises(ValueError, match=f"scheduler={scheduler} {why}.* Use FlowMatchEulerDiscreteScheduler"):
        drawn(loaded[name], replace(EULER, scheduler=scheduler))


# Text


def test_every_way_of_the_text_reaches_the_prediction(pipe):
    cat, dog = pipe.encode(["a cat"]), pipe.encode(["a dog"])
    x, level = pipe.noise([0], 16, 16), torch.tensor(600.0)
    told = {name: cat.with_rows(name, dog.segment(name).rows) for name, _ in cat.layout} | {"pooled": replace(cat, pooled=dog.pooled)}
    assert "t5" in told
    before = pipe.predict(x, level, cat)
    for name, other in told.items():
        assert (pipe.predict(x, level, other) - before).abs().max() > 1e-3, f"{name} does not reach the prediction"


def test_a_learned_token_equal_to_a_known_word_gives_its_states_in_every_encoder(pipe):
    rows = {reader.name: reader.table[reader.token_ids("cat")] for reader in pipe.text.readers}
    wanted, other = pipe.encode(["a cat in the rain"]), pipe.encode(["a dog in the rain"])
    with pipe.with_learned_tokens({"<word>": rows}):
        learned = pipe.encode(["a <word> in the rain"])
    assert torch.equal(learned.hidden, wanted.hidden) and torch.equal(learned.pooled, wanted.pooled)
    assert not torch.equal(other.segment("t5").rows, wanted.segment("t5").rows)


def test_gradients_reach_a_learned_token_of_t5(pipe):
    row = pipe.text.reader("t5").table[5:6].clone().requires_grad_(True)
    with pipe.with_learned_tokens({"<word>": {"t5": row}}):
        pipe.encode(["a <word>"]).segment("t5").rows.square().sum().backward()
    assert row.grad.abs().sum() > 0


@pytest.mark.parametrize("name, settings, length", [("sd3", {}, 256), ("flux", {}, 512), ("flux", {"guidance_embeds": False}, 256)])
def test_texts_are_as_long_as_in_the_published_pipelines(name, settings, length):
    pipe = rebuilt(name, **settings)
    tokenizers = [*pipe.text.tokenizers[:-1], tiny.t5_tokenizer(length=512)]
    side = pipe.family.text(pipe.parts, tokenizers)
    assert side.reader("t5").length == length and side.reader("clip").length == 77
    assert side.encode(["a cat"]).segment("t5").rows.shape[1] == length


def test_a_model_without_t5_reads_zeros_that_belong_to_no_segment():
    cond = rebuilt("sd3", without=("text_encoder_3",)).encode(["a cat"])
    assert cond.layout == (("clip", 77),) and cond.hidden.shape == (1, 77 + 256, 80) and not cond.hidden[:, 77:].any()
    changed = cond.with_rows("clip", cond.segment("clip").rows + 1)
    assert changed.hidden.shape == cond.hidden.shape and not changed.hidden[:, 77:].any()


def test_a_guidance_scale_is_told_to_a_model_that_reads_one():
    x, level = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500.0)
    for reads in (True, False):
        pipe = rebuilt("flux", guidance_embeds=reads)
        cond = pipe.encode(["a cat"])
        answers = []
        for scale in (1.0, 4.0):
            with pipe.told_guidance(scale):
                answers.append(pipe.predict(x, level, cond))
        assert torch.equal(*answers) != reads


# Weights by their role, counted on the published shapes

SD3_MEDIUM = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SD35_MEDIUM = SD3_MEDIUM | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
FLUX_DEV = {"guidance_embeds": True, "pooled_projection_dim": 768}
# Tensors: a linear layer has two, a norm of queries or keys one. The last block of Stable Diffusion 3 ends the text stream.
COUNTS = {
    "sd3-medium": {"text_kv": 24 * 4, "text_attention": 24 * 6 + 23 * 2, "image_self": 24 * 8, "attention": 24 * 14 + 23 * 2},
    "sd35-medium": {
        "text_kv": 24 * 4,
        "text_attention": 24 * (6 + 2) + 23 * 2,
        "image_self": 24 * (8 + 2) + 13 * (8 + 2),
        "attention": 24 * 14 + 23 * 2 + 13 * 8,
    },
    "flux-dev": {"text_kv": 19 * 4, "text_attention": 19 * 10, "image_self": 19 * 10, "attention": 19 * 16 + 38 * 6},
}
HALF = 24 * 2 + 23 * 2
COUNTS["sd3-medium"] |= {"mlp": 2 * HALF, "mlp_in": HALF, "mlp_out": HALF, "text_input": 4, "ends": 12, "image_kv": 24 * 4}
COUNTS["sd35-medium"] |= {"mlp": 2 * HALF, "mlp_in": HALF, "mlp_out": HALF, "text_input": 4, "ends": 12, "image_kv": (24 + 13) * 4}
COUNTS["flux-dev"] |= {"mlp": 19 * 8, "mlp_in": 19 * 4 + 38 * 2, "mlp_out": 19 * 4 + 38 * 2, "image_kv": 19 * 4}
COUNTS["flux-dev"] |= {"text_input": 4, "ends": 16, "joint": 38 * 10}
for counts in COUNTS.values():
    counts["transformer"] = counts["attention"] + counts["mlp"] + 4 * counts.get("joint", 0) // 10
SHAPES = {"sd3-medium": ("sd3", SD3_MEDIUM), "sd35-medium": ("sd3", SD35_MEDIUM), "flux-dev": ("flux", FLUX_DEV)}


@pytest.fixture(scope="module", params=SHAPES)
def published(request):
    """(name, family, its transformer at the published size, without memory for weights)"""
    name, settings = SHAPES[request.param]
    with torch.device("meta"):
        return request.param, family(name), type(family(name).tiny()[0]["transformer"])(**settings)


def test_groups_have_the_expected_weights_at_published_sizes(published):
    name, known, transformer = published
    found = {group: diffusion.choose_parameters(transformer, pattern) for group, pattern in known.groups.items()}
    assert {group: len(weights) for group, weights in found.items() if group != "all"} == COUNTS[name]
    assert len(found["all"]) == len(dict(transformer.named_parameters()))
    assert found["text_kv"].keys() <= found["attention"].keys() & found["transformer"].keys()
    assert found["text_kv"].keys() <= found["text_attention"].keys()
    assert not found["text_attention"].keys() & found["image_self"].keys()


def test_the_second_attention_of_sd35_is_image_attention(loaded):
    """Its name is that of text attention in UNets."""
    second = {name for name in loaded["sd3"].group("all") if ".attn2." in name}
    assert second <= loaded["sd3"].group("image_self").keys() and not second & loaded["sd3"].group("text_attention").keys()
    assert len(second) == 2 * 10


def test_sites_exist(pipe):
    layers = [name for name, _ in pipe.denoiser.named_modules()]
    assert "text" not in pipe.family.sites, "that name is of the text encoders' states"
    for site, pattern in pipe.family.sites.items():
        assert any(re.search(pattern, layer) for layer in layers), site


def test_weights_of_a_role_that_the_namehas_not_are_named(loaded):
    with pytest.raises(ValueError, match="family 'sd3' has no weights called 'joint'; it has: text_kv"):
        loaded["sd3"].group("joint")


def test_the_shift_of_training_is_the_models_own(loaded):
    """That of Flux follows the image size, in sampling alone."""
    assert loaded["sd3"].process.shift == 3.0 and loaded["flux"].process.shift == 1.0


# What methods and attacks are built of


def test_the_loss_is_the_mean_square_of_the_velocity_and_reaches_weights(pipe):
    latents = pipe.encode_images(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    cond, at = pipe.encode(PROMPTS), pipe.corruption(latents, torch.Generator().manual_seed(3))
    weights = list(diffusion.make_trainable(pipe.group("text_kv")))
    try:
        loss = pipe.loss(latents, cond, at)
        s = (at.level / 1000).view(-1, 1, 1, 1)
        velocity = pipe.predict((1 - s) * latents + s * at.noise, at.level, cond)
        assert torch.allclose(loss, (velocity - (at.noise - latents)).square().mean((1, 2, 3)), rtol=1e-5)
        grads = torch.autograd.grad(loss.sum(), weights)
        assert all(grad.isfinite().all() for grad in grads) and sum(grad.abs().sum() for grad in grads) > 0
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def test_partial_denoising_ends_at_its_level(pipe):
    asked = {"bin": 2, "bins": 5, "guidance": 3.0, "generator": torch.Generator().manual_seed(0)}
    x, level = diffusion.partial_denoise(pipe, pipe.encode(["a cat"]), alignment="exact", **asked)
    assert x.shape == (1, pipe.family.latent_channels(pipe), 8, 8) and torch.isfinite(x).all()
    assert level == pipe.process.grid(5)[2]
    with pytest.raises(ValueError, match="flows know exact"):
        diffusion.partial_denoise(pipe, pipe.encode(["a cat"]), alignment="legacy", **asked)


# Settings


@pytest.mark.parametrize("model", ["sd3", "sd35_medium", "flux_dev", "flux_schnell", "tiny_sd3", "tiny_flux"])
def test_settings_of_models_compose_and_fit_their_family(model):
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = composing.build_job(compose("run", [f"model={model}", "method=original", "concept=dog"]), planned=True)
    known, sampler = family(job.model.family), job.sampler
    loading.check(job.model)
    assert job.model.name == model and known.denoiser == "transformer" and sampler.scheduler == "FlowMatchEulerDiscreteScheduler"
    assert (sampler.embedded_guidance is not None) == (model in ("flux_dev", "tiny_flux")), "told to models that read it alone"
    assert job.model.family in planning.SECONDS
