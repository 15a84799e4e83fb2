"""What tests share: a random tiny model, a concept, prompts, and a context whose images come from that model."""

import os
import tempfile

import pandas as pd
import pytest
import torch
from fake_gpu import FakeGpu
from made_results import make_places
from newcomer import write_plugins

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, ModelSpec, PromptSet, Sampler
from vestige.bench.models import loading
from vestige.bench.models import tiny as tiny_models
from vestige.bench.models.families import family
from vestige.bench.models.pipe import Pipe
from vestige.bench.run.contract_checks import tiny_of
from vestige.bench.run.generate import draw

os.environ.setdefault("VESTIGE_CACHE", tempfile.mkdtemp(prefix="vestige-cache-"))  # tests leave nothing in the user's own
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

# Files that train, draw many images or start processes: `make test` runs them, `make test-fast` does not. Single tests are marked `slow`.
SLOW = {
    *("test_circumventing", "test_dori_embedding", "test_memora", "test_relearning", "test_resuming", "test_shared_seeds"),
    *("test_sneakyprompt", "test_step_by_step", "test_unlearn_diff_atk", "test_wrapper_honesty", "test_p4d", "test_mma_diffusion"),
    *("test_concept_ablation", "test_concept_prune", "test_esd", "test_linear_erasure", "test_mace", "test_oracle", "test_realera"),
    *("test_safety_checker", "test_sld", "test_speed", "test_spm", "test_trce", "test_uce_debias", "test_closed_form_agreement"),
    *("test_distances", "test_made_up", "test_representations", "test_quality", "test_nudity", "test_q16"),
    *(
        "test_choice_of_judges",
        "test_cli",
        "test_code",
        "test_coverage",
        "test_fingerprints",
        "test_flow_families",
        "test_model_folders",
        "test_headlines",
        "test_held_out",
    ),
    *("test_interrupted", "test_judges_of_real_models", "test_killed_stages", "test_mutants", "test_pages_in_a_browser", "test_pairgen"),
    *(
        "test_protocols",
        "test_reproduce",
        "test_reruns",
        "test_results_speed",
        "test_store",
        "test_training",
        "test_wordings",
        "test_world",
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler("DDIMScheduler", {}, 2, 3.0, 16, 16)


tiny_spec = tiny_of


@pytest.fixture
def tiny():
    """A fresh random sd1 pipe of about a million parameters, with the real CLIP tokenizer."""
    return loading.load(tiny_spec())


def shaped_pipe(width: int):
    """A random sd1 pipe with text states of this width and keys and values of 16, 64 and 160 outputs."""
    from diffusers import UNet2DConditionModel

    parts, tokenizers, scheduler, _ = family("sd1").tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts["text_encoder"] = tiny_models.clip_text_model(width)
        parts["unet"] = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 64, 160),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    for module in parts.values():
        module.eval().requires_grad_(False)
    return Pipe(tiny_spec(), parts, tokenizers, scheduler)


@pytest.fixture(params=[32, 96])
def shaped(request):
    """Two text widths, three sizes of layers."""
    return shaped_pipe(request.param)


def with_biases(pipe):
    """A random encoder's last norm has no bias, so its states lie in a plane through the origin; a trained one has some."""
    norm = next(m for n, m in pipe.text.encoders[0].named_modules() if n.endswith("final_layer_norm"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.2 * torch.rand(norm.weight.shape, generator=generator))
        norm.bias.copy_(0.2 + 0.2 * torch.rand(norm.bias.shape, generator=generator))
    return pipe


@pytest.fixture
def concept():
    def make(slug: str = "dog", kind: str = "object", **over) -> Concept:
        fields = {
            "slug": slug,
            "name": slug.replace("_", " "),
            "kind": kind,
            "group": "animal",
            "aliases": ["puppy"],
            "anchor": "animal" if kind == "object" else "art",
            "siblings": ["cat", "frog"],
            "others": ["car", "apple"],
            "descriptions": ["a loyal pet that barks"],
        }
        return Concept(**{**fields, **over})

    return make


@pytest.fixture
def prompts():
    def make(n: int = 3, name: str = "dog", repeats: int = 1) -> PromptSet:
        rows = [
            {"row_id": f"{k:04d}", "prompt": f"a photo of a {name} {k}", "role": "target", "expect": name, "names": 1, "group": f"g{k}"}
            for k in range(n)
        ]
        return PromptSet("test", pd.DataFrame(rows), repeats)

    return make


@pytest.fixture
def context(tmp_path, sampler):
    def make(*seed_words, spec: ModelSpec | None = None) -> Context:
        loaded = []

        def original():
            if not loaded:
                loaded.append(loading.load(spec or tiny_spec()))
            return loaded[0]

        def images(prompt_set, sampler_):
            folder = tmp_path / f"images-{prompt_set.digest}"
            folder.mkdir(exist_ok=True)
            return draw(original(), prompt_set, sampler_, folder, batch_size=16)

        return Context(seed_words or ("test",), sampler, original, images)

    return make


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def outside(tmp_path):
    """A folder outside the repository with plugins of a newcomer."""
    return write_plugins(tmp_path)


@pytest.fixture
def places(tmp_path):
    """(records, store) of made-up results, see made_results.py."""
    return make_places(tmp_path)
