"""What enters a key by its content: a changed file under an old path is another input; what is no file has no entry."""

import dataclasses
import json
import shutil

import pytest

from vestige.bench import judges
from vestige.bench.judges import imagenet, zero_shot
from vestige.bench.models import loading
from vestige.bench.models.fingerprints import given, loaded_files, weights_digest
from vestige.bench.places import CHECKOUT
from vestige.bench.run import contract_checks
from vestige.bench.vision import features
from vestige.bench.world.models import clip_emoji
from vestige.bench.world.models import judges as world_judges

MAKES = ("artist", "canvas", "celebrity", "gdino", "resnet50_hf", "vlm")


def changes(asked, file) -> bool:
    """Whether new content under the same path changes the answer, which must not be empty."""
    file.write_text("the first weights")
    before = asked()
    file.write_text("other weights of another length")
    assert before and asked(), "what lies there is no part of the key at all"
    return before != asked()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("make", MAKES)
def test_a_judge_of_a_folder_is_known_by_what_lies_there(make, folder):
    assert changes(lambda: judges.inputs(f"{make}:{folder}"), folder / "model.safetensors")


def test_a_judge_of_a_file_is_known_by_its_content(tmp_path):
    assert changes(lambda: judges.inputs(f"q16:{tmp_path / 'q16.safetensors'}"), tmp_path / "q16.safetensors")
    for make in ("clip", "clip_cifar10", "clip_imagenette"):
        file = tmp_path / f"{make}.safetensors"
        assert changes(lambda: judges.inputs(f"{make}:ViT-B-32/{file}"), file)  # noqa: B023


def test_a_file_named_like_a_judge_where_the_user_stands_plays_no_part(tmp_path, monkeypatch):
    published = ["emoji_a", "resnet50", "resnet50_imagenette", "nudenet:core", "clip:ViT-B-32/openai", "clip_cifar10:ViT-B-32/openai"]
    before = [judges.inputs(judge) for judge in published]
    monkeypatch.chdir(tmp_path)
    for name in ("core", "emoji_a", "openai"):
        (tmp_path / name).write_text("a file of this name where the user stands")
    assert [judges.inputs(judge) for judge in published] == before
    assert judges.inputs("gdino:IDEA-Research/grounding-dino-tiny").keys() == {"settings"}, "weights that are not here have no content yet"
    assert given(here=None, there="org/name", elsewhere="") == {}


# metric -> field -> how a user writes a place there
PLACES = {
    "presence": {"judge": "artist:{}"},
    "answers": {"judge": "artist:{}"},
    "nouns": {"judge": "artist:{}"},
    "clip_score": {"clip": "ViT-B-32/{}"},
    "nudity": {"model_file": "{}"},
    "q16": {"clip": "ViT-B-32/{}", "prompts": "{}"},
    "likeness": {"extractor": "dino:{}", "captioner": "{}", "encoder": "{}"},
    "pick_score": {"model": "{}"},
    "image_reward": {"tokenizer": "{}", "weights": "{}"},
    "aesthetic": {"extractor": "clip:ViT-B-32/{}", "head": "{}"},
    "image_change": {"extractor": "dino:{}"},
    "fid": {"extractor": "dino:{}"},
    "entangled_s": {"detector": "{}", "segmenter": "{}"},
    "entangled_d": {"detector": "{}", "segmenter": "{}"},
}
OTHER = {"q16": {"texts": None}, "entangled_s": {"mask": "grounded"}, "entangled_d": {"mask": "grounded"}}


@pytest.mark.parametrize("name, field", [(name, field) for name, fields in PLACES.items() for field in fields])
def test_a_metrics_score_is_known_by_the_content_of_its_files(name, field, tmp_path):
    rest = {"weights": "reward.pt", "head": "head.pth"}
    for other in rest.values():
        (tmp_path / other).write_text("what the other field names")
    metric = contract_checks.build("metric", name)
    given_too = {key: str(tmp_path / file) for key, file in rest.items() if hasattr(metric, key) and key != field}
    place = PLACES[name][field].format(tmp_path / "mine.safetensors")
    mine = dataclasses.replace(metric, **OTHER.get(name, {}), **given_too, **{field: place})
    assert changes(mine.inputs, tmp_path / "mine.safetensors")


# What the shipped network of each emoji judge, extractor and distance is kept in
SHIPPED = {
    "emoji_a": (lambda: judges.inputs("emoji_a"), world_judges.FILES, "a"),
    "emoji_b": (lambda: judges.inputs("emoji_b"), world_judges.FILES, "b"),
    "clip:emoji": (lambda: judges.inputs("clip:emoji"), vars(clip_emoji), "WEIGHTS"),
    "clip_emoji": (lambda: features.inputs("clip_emoji"), vars(clip_emoji), "WEIGHTS"),
    "judge_a": (lambda: features.inputs("judge_a"), world_judges.FILES, "a"),
    "lpips_emoji": (lambda: contract_checks.build("metric", "lpips_emoji").inputs(), world_judges.FILES, "a"),
    "entangled_s": (lambda: contract_checks.build("metric", "entangled_s").inputs(), world_judges.FILES, "a"),
    "nudity": (
        lambda: dataclasses.replace(contract_checks.build("metric", "nudity"), detector="emoji_danger").inputs(),
        world_judges.FILES,
        "a",
    ),
    "clip_score": (
        lambda: dataclasses.replace(contract_checks.build("metric", "clip_score"), clip="emoji").inputs(),
        vars(clip_emoji),
        "WEIGHTS",
    ),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_retrained_networks_of_the_emoji_world_are_other_judges(name, tmp_path, monkeypatch):
    inputs, places, key = SHIPPED[name]
    before, file = inputs(), tmp_path / "weights.safetensors"
    file.write_bytes(places[key].read_bytes())
    monkeypatch.setitem(places, key, file)
    assert before and inputs() == before, "the place plays no part"
    assert changes(inputs, file)


def test_groups_and_lists_of_candidates_are_part_of_a_judge(monkeypatch):
    before = {judge: judges.inputs(judge) for judge in ("resnet50", "clip:emoji", "clip_cifar10:ViT-B-32/openai", "resnet50+clip:emoji")}
    monkeypatch.setattr(imagenet, "groups", lambda: {"dog": ("object", [151])})
    monkeypatch.setattr(zero_shot, "LEAST", 8)
    monkeypatch.setattr(zero_shot, "closed_list", lambda name: ("a {}", ["dog", "cat"]))
    for judge, known in before.items():
        assert judges.inputs(judge) != known, judge


# attack or method -> (fields, and how a user writes a place there; what else must be chosen for the field to matter)
NETWORKS = {
    ("attack", "sneakyprompt"): ({"clip": "ViT-B-32/{}"}, {"reward": "clip"}),
    ("attack", "p4d"): ({"likeness": "clip:ViT-B-32/{}"}, {}),
    ("method", "uce_debias"): ({"clip": "ViT-B-32/{}"}, {}),
    ("method", "mace"): ({"detector": "{}", "segmenter": "{}", "captions": "{}"}, {"mask": "grounded"}),
    ("method", "trce"): ({"captions": "{}"}, {}),
}


@pytest.mark.parametrize("group, name, field", [(*key, field) for key, (fields, _) in NETWORKS.items() for field in fields])
def test_attacks_and_methods_are_known_by_the_content_of_their_networks_and_lists(group, name, field, tmp_path, concept):
    plugin = contract_checks.build(group, name)
    fields, rest = NETWORKS[group, name]
    file = tmp_path / "mine.safetensors"
    file.write_text("so that it is there")
    mine = dataclasses.replace(plugin, **rest, **{field: fields[field].format(file)})
    assert changes(mine.inputs if group == "attack" else lambda: mine.inputs([concept()]), file)


TUNED = [("attack", "sneakyprompt", "emoji"), ("attack", "p4d", "emoji"), ("method", "mace", "emoji")]


@pytest.mark.parametrize("group, name, model", [*((*network, "tiny") for network in NETWORKS), *TUNED])
def test_attacks_and_methods_hold_what_shipped_networks_are_and_nothing_of_those_that_are_not_here(group, name, model, concept):
    plugin = contract_checks.build(group, name, model=model)
    found = plugin.inputs() if group == "attack" else plugin.inputs([concept()])
    assert bool(found) == (group == "attack" and model == "emoji")


# Models


@pytest.fixture
def diffusers_folder(tmp_path):
    folder = tmp_path / "model"
    parts = {"unet": ["diffusers", "UNet"], "text_encoder": ["transformers", "CLIP"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    files = {
        "model_index.json": json.dumps({"_class_name": "Pipeline", **parts, "safety_checker": ["x", "y"], "image_encoder": [None, None]}),
        "unet/config.json": "{}",
        "unet/diffusion_pytorch_model.safetensors": "the denoiser",
        "unet/diffusion_pytorch_model.fp16.safetensors": "half of it",
        "unet/diffusion_pytorch_model.bin": "pickled",
        "text_encoder/model-00001-of-00002.safetensors": "one shard",
        "text_encoder/model-00002-of-00002.safetensors": "another",
        "text_encoder/model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}),
        "tokenizer/vocab.json": "{}",
        "safety_checker/model.safetensors": "not loaded",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def digest_of(repo, revision=None):
    return weights_digest(dataclasses.replace(contract_checks.tiny_of(), repo=str(repo), revision=revision))


LOADED = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
LOADED += ["text_encoder/model-00001-of-00002.safetensors", "text_encoder/model.safetensors.index.json"]


@pytest.mark.parametrize("name", LOADED)
def test_a_model_is_known_by_every_file_that_is_loaded(diffusers_folder, name):
    before = digest_of(diffusers_folder)
    file = diffusers_folder / name
    file.write_text(file.read_text().replace("e", "E", 1) if "index" not in name else file.read_text() + " ")
    if file.read_text() == "{}":
        file.write_text("{ }")
    assert digest_of(diffusers_folder) != before


@pytest.mark.parametrize("name", ["README.md", "unet/README.txt", "unet/notes.json", "sample.png", "vae_old/model.safetensors"])
def test_a_file_beside_them_changes_nothing(diffusers_folder, name):
    before = digest_of(diffusers_folder)
    (diffusers_folder / name).parent.mkdir(exist_ok=True)
    (diffusers_folder / name).write_text("words")
    for unread in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"):
        (diffusers_folder / unread).write_text("changed")
    (diffusers_folder / "text_encoder" / "model-00002-of-00002.safetensors").write_text("no shard of the index")
    assert digest_of(diffusers_folder) == before


def test_the_loaded_files_are_all_that_loading_needs(tmp_path):
    there = CHECKOUT / "bench" / "world" / "weights" / "generator"
    for file in loaded_files(there, "sd1"):
        (tmp_path / file.relative_to(there)).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.relative_to(there))
    spec = dataclasses.replace(contract_checks.tiny_of(), repo=str(there))
    assert loading.load(dataclasses.replace(spec, repo=str(tmp_path))).fingerprint() == loading.load(spec).fingerprint()


def test_a_hub_model_without_a_revision_is_known_and_loaded_by_the_commit_in_the_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cache, generator = tmp_path / "models--org--name", CHECKOUT / "bench" / "world" / "weights" / "generator"
    assert digest_of("org/name") is None, "not in the cache"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(generator, cache / "snapshots" / commit)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / "main").write_text(commit)
        assert digest_of("org/name") == f"commit {commit}", "main has moved: other weights"
        assert digest_of("org/name", "a" * 40) == f"commit {'a' * 40}"
    spec = dataclasses.replace(contract_checks.tiny_of(), repo="org/name")
    scheduler = cache / "snapshots" / commit / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"leading"', '"trailing"'))
    assert loading.load(spec).scheduler.config.timestep_spacing == "trailing", "read from the commit that main names"


def test_a_cache_that_holds_a_variant_alone_is_another_model(tmp_path, monkeypatch, diffusers_folder):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    shutil.copytree(diffusers_folder, commit)
    assert digest_of("org/name", "a" * 40) == f"commit {'a' * 40}"
    (commit / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert digest_of("org/name", "a" * 40) == f"commit {'a' * 40}, unet fp16"


def test_a_random_model_has_no_weights_to_know():
    assert weights_digest(contract_checks.tiny_of()) is None
