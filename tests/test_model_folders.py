"""Folders of models as people bring them: variants, shards, missing files, a hub cache that holds a part.

The folders are saved by diffusers' own pipelines, with the parts of the random tiny model.
"""

import dataclasses
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from conftest import tiny_spec
from newcomer import vestige

from vestige.bench.models import loading
from vestige.bench.models.families import family
from vestige.bench.models.fingerprints import weights_digest
from vestige.bench.models.folders import loaded_files

COMMIT = "c" * 40


def sd(**changes):
    from diffusers import StableDiffusionPipeline

    parts, tokenizers, scheduler, _ = family("sd1").tiny()
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, tokenizer=tokenizers[0], scheduler=changes.get("scheduler", scheduler), **rest)


def xl(**settings):
    from diffusers import StableDiffusionXLPipeline

    parts, tokenizers, scheduler, _ = family("sdxl").tiny()
    two = {"tokenizer": tokenizers[0], "tokenizer_2": tokenizers[1]}
    return StableDiffusionXLPipeline(**parts, **two, scheduler=scheduler, add_watermarker=False, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of every form, saved once."""
    place = tmp_path_factory.mktemp("models")
    sd().save_pretrained(place / "plain")
    sd().save_pretrained(place / "sharded", max_shard_size="300KB")
    half = sd().to(torch.float16)
    half.save_pretrained(place / "fp16", variant="fp16")
    half.save_pretrained(place / "fp16_sharded", variant="fp16", max_shard_size="150KB")
    xl(force_zeros_for_empty_prompt=False).save_pretrained(place / "xl")
    return place


@pytest.fixture
def copied(saved, tmp_path):
    def make(name: str) -> Path:
        return Path(shutil.copytree(saved / name, tmp_path / name))

    return make


def of(folder: Path | str, family: str = "sd1", **changes):
    return dataclasses.replace(tiny_spec(family), repo=str(folder), **changes)


def denoiser(spec) -> dict[str, torch.Tensor]:
    loading.check(spec)
    return loading.load(spec).parts["unet"].state_dict()


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Variants and shards


@pytest.mark.parametrize("form", ["fp16", "fp16_sharded"])
def test_a_folder_of_half_precision_alone_loads_in_the_dtype_asked_for(saved, form):
    full, half = denoiser(of(saved / "plain")), denoiser(of(saved / form))
    assert all(value.dtype == torch.float32 for value in half.values())
    assert equal(half, {name: value.half().float() for name, value in full.items()})
    assert {v.dtype for v in denoiser(of(saved / form, dtype="bfloat16")).values()} == {torch.bfloat16}


def test_shards_load_as_the_whole_file_does(saved):
    assert equal(denoiser(of(saved / "sharded")), denoiser(of(saved / "plain")))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_full_weights_are_taken_where_both_are_there_and_only_they_are_hashed(copied, saved, dtype):
    folder = copied("plain")
    before = weights_digest(of(folder))
    shutil.copytree(saved / "fp16", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
    other = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    other.write_bytes(other.read_bytes()[:-2] + b"\0\0")
    assert weights_digest(of(folder, dtype=dtype)) == before
    assert equal(denoiser(of(folder, dtype=dtype)), denoiser(of(saved / "plain", dtype=dtype)))


def test_each_part_takes_its_own_variant(copied, saved):
    folder = copied("plain")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.copy(saved / "fp16" / "unet" / "diffusion_pytorch_model.fp16.safetensors", folder / "unet")
    assert equal(denoiser(of(folder)), denoiser(of(saved / "fp16")))
    names = [file.name for file in loaded_files(folder, "sd1") if file.suffix == ".safetensors"]
    assert sorted(names) == ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors"]


@pytest.mark.parametrize("form", ["sharded", "fp16_sharded"])
def test_every_shard_is_part_of_the_models_digest(copied, form):
    folder = copied(form)
    before = weights_digest(of(folder))
    shard = sorted((folder / "unet").glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    assert weights_digest(of(folder)) != before


def test_loading_reads_exactly_the_files_that_are_hashed(copied, tmp_path):
    """What is not among them may be missing; each of them may not."""
    folder = copied("fp16_sharded")
    alone = tmp_path / "alone"
    for file in loaded_files(folder, "sd1"):
        (alone / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, alone / file.relative_to(folder))
    assert equal(denoiser(of(alone)), denoiser(of(folder)))
    for file in sorted(alone.rglob("*.safetensors")):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match=str(file.relative_to(alone))):
            loading.check(of(alone))
        file.write_bytes(content)


# Missing files


@pytest.mark.parametrize(
    "gone, told",
    [
        ("vae", "vae/config.json, vae/diffusion_pytorch_model.safetensors"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("text_encoder/config.json", "text_encoder/config.json"),
        ("tokenizer", "tokenizer/vocab.json, tokenizer/merges.txt"),
        ("scheduler", "scheduler/scheduler_config.json"),
    ],
)
def test_a_missing_part_is_named_before_anything_is_loaded(copied, gone, told):
    folder = copied("plain")
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(ValueError, match=f"lacks {told}. Fetch or save the model again"):
        loading.check(of(folder))


def test_pickled_weights_are_refused(copied):
    folder = copied("plain")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"unet holds pickled weights \(diffusion_pytorch_model.bin\), which are refused"):
        loading.check(of(folder))


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_a_broken_settings_file_is_named(copied, name):
    folder = copied("plain")
    (folder / name).write_text("{ half of a")
    with pytest.raises(ValueError, match=f"{name} cannot be read as JSON"):
        loading.check(of(folder))


# A hub cache that holds a part


@pytest.fixture
def cache(saved, tmp_path, monkeypatch):
    """The hub's cache with a whole model org/name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT
    shutil.copytree(saved / "plain", snapshot)
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_whole_model_in_the_cache_is_not_missing_and_loads(cache, saved):
    assert loading.missing(of("org/name")) is None
    assert equal(denoiser(of("org/name")), denoiser(of(saved / "plain")))


def test_of_a_model_that_the_cache_holds_in_part_the_files_are_named_and_the_command_that_fetches_them(cache):
    (cache / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(cache / "vae")
    loading.check(of("org/name"))
    lack = loading.missing(of("org/name"))
    files = "unet/diffusion_pytorch_model.safetensors vae/config.json vae/diffusion_pytorch_model.safetensors"
    assert lack.endswith(f"run: hf download org/name {files}")
    assert "it lacks unet/diffusion_pytorch_model.safetensors, vae/config.json" in lack
    assert loading.missing(of("org/name", revision=COMMIT)).endswith(f"{files} --revision {COMMIT}")
    with pytest.raises(ValueError, match="hf download org/name"):
        loading.load(of("org/name"))


def test_a_command_on_a_partial_cache_ends_before_anything_is_computed(cache, monkeypatch, tmp_path):
    (cache / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    words = ["model=tiny", "model.repo=org/name", "method=original"]
    words += [f"runtime.store={tmp_path}/store", f"runtime.records={tmp_path}/records"]
    done = vestige("run", *words)
    assert done.returncode == 2 and "hf download org/name unet/diffusion_pytorch_model.safetensors" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr and not list((tmp_path / "records").glob("*.json"))
    planned = vestige("plan", *words)
    assert planned.returncode == 0 and "hf download org/name" in planned.stdout


@pytest.mark.parametrize("there, fetched", [("plain", ""), ("fp16", ".fp16"), ("sharded", "-00001-of")])
def test_where_a_hub_is_what_is_missing_is_fetched_and_no_second_variant(cache, saved, monkeypatch, there, fetched):
    """The hub is a folder; beside the weights that are wanted it has others that nobody loads."""
    import huggingface_hub

    asked = []

    def download(repo, revision, allow_patterns):
        asked.append((repo, revision))
        for file in (saved / there).rglob("*"):
            name = str(file.relative_to(saved / there))
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(exist_ok=True)
                shutil.copy(file, cache / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    shutil.rmtree(cache / "unet")
    assert loading.missing(of("org/name")) is None and set(asked) == {("org/name", COMMIT)}
    assert equal(denoiser(of("org/name")), denoiser(of(saved / there)))
    assert any(fetched in file.name for file in (cache / "unet").glob("*.safetensors"))
    shutil.rmtree(cache / "unet")
    if there == "plain":
        shutil.copytree(saved / "fp16" / "unet", saved / there / "unet", dirs_exist_ok=True)
        assert loading.missing(of("org/name")) is None
        assert not list((cache / "unet").glob("*fp16*")), "the full weights are there"
        (saved / there / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()


# What the folder says about the pipeline


def test_settings_of_the_pipeline_arrive_from_the_folder(saved, tmp_path):
    assert loading.load(of(saved / "xl", "sdxl")).settings["force_zeros_for_empty_prompt"] is False
    xl().save_pretrained(tmp_path / "usual")
    assert loading.load(of(tmp_path / "usual", "sdxl")).settings["force_zeros_for_empty_prompt"] is True
    index = json.loads((tmp_path / "usual" / "model_index.json").read_text())
    del index["force_zeros_for_empty_prompt"]
    (tmp_path / "usual" / "model_index.json").write_text(json.dumps(index))
    assert loading.load(of(tmp_path / "usual", "sdxl")).settings["force_zeros_for_empty_prompt"] is True, "as diffusers takes it"


def test_the_vae_of_a_folder_says_whether_half_precision_overflows_in_it(copied):
    folder = copied("xl")
    for said in (True, False):
        config = json.loads((folder / "vae" / "config.json").read_text())
        (folder / "vae" / "config.json").write_text(json.dumps({**config, "force_upcast": said}))
        assert loading.load(of(folder, "sdxl", dtype="float16")).vae.config.force_upcast is said


def test_parts_that_nothing_uses_are_not_loaded(copied):
    """A folder with an image encoder and a safety checker of pickled or broken files: nobody reads them."""
    folder = copied("plain")
    index = json.loads((folder / "model_index.json").read_text())
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for part in ("image_encoder", "safety_checker"):
        (folder / part).mkdir()
        (folder / part / "model.safetensors").write_bytes(b"broken")
    assert denoiser(of(folder))
    assert not [file for file in loaded_files(folder, "sd1") if file.parent.name in ("image_encoder", "safety_checker")]
