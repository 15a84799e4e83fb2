"""Networks that look at images compute on the device in force and answer on the CPU; a device that is not there is refused."""

from dataclasses import replace

import pytest
import torch
from fake_gpu import NAME, FakeGpu, where
from test_reruns import job

from vestige.bench import judges
from vestige.bench.models import device
from vestige.bench.run import composing, tree
from vestige.bench.run.stages import Stages
from vestige.bench.vision import clip_models, features, perceptual
from vestige.bench.world.models import clip_emoji
from vestige.bench.world.models.judges import load_judge

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ASKED = {
    "judge": (lambda: judges.load("emoji_a"), lambda judge: judge._answers(IMAGES)["object"]),
    "zero-shot judge": (lambda: judges.load("clip:emoji"), lambda judge: judge.among(["dog"])._answers(IMAGES)["object"]),
    "CLIP of images": (lambda: clip_models.load_clip("emoji"), lambda clip: clip.image(IMAGES)),
    "CLIP of texts": (lambda: clip_models.load_clip("emoji"), lambda clip: clip.text(["a dog"])),
    "features": (lambda: features._extractor("judge_a"), lambda _: features.of_pixels(IMAGES, "judge_a")),
    "distance": (lambda: perceptual.load("emoji"), lambda net: net.distance(IMAGES / 255, IMAGES / 255)),
    "distance map": (lambda: perceptual.load("emoji"), lambda net: net.map(IMAGES / 255, IMAGES / 255)),
}


@pytest.fixture(scope="module")
def gpu():
    gpu = FakeGpu()
    yield gpu
    for load in (judges.load, clip_models.load_clip, features._extractor, perceptual.load, load_judge, clip_emoji.load_clip):
        load.cache_clear()  # the fake networks


@pytest.mark.parametrize("name", ASKED)
def test_a_network_computes_where_it_is_placed_and_answers_on_the_cpu(gpu, name):
    load, ask = ASKED[name]
    with gpu.loading():
        loaded = load()
        assert where(load_judge("a")) == {NAME}
    with gpu.computing():
        assert str(ask(loaded).device) == "cpu"


def test_one_network_is_kept_for_each_device(gpu):
    on_cpu = load_judge("b")
    with gpu.loading():
        on_gpu = load_judge("b")
        assert load_judge("b") is on_gpu
    assert load_judge("b") is on_cpu and where(on_cpu) == {"cpu"} and where(on_gpu) == {NAME}


def test_batches_of_another_device_are_refused_by_the_fake_gpu(gpu):
    """Else the tests above could not fail."""
    with gpu.loading():
        net = load_judge("a")
    with gpu.computing(), pytest.raises(RuntimeError, match="same device"):
        net(IMAGES / 255)


def test_a_stage_is_made_on_the_jobs_device(tmp_path):
    of = job(tmp_path, "split=[target]")
    stages = Stages(of)
    seen = []

    def make(folder):
        seen.append(str(device.current()))
        return {}

    for kind, name in (("score", "cpu"), ("features", "cuda:1")):
        stages.job = replace(of, runtime=replace(of.runtime, device=name))
        stages.stage(kind, {"stage": kind}, "words", make, "code")
    assert seen == ["cpu", "cuda:1"] and str(device.current()) == "cpu"


@pytest.mark.parametrize(
    "name, says",
    [
        ("gpu", "Allowed: cpu, cuda, cuda:<number>, mps. For a GPU type runtime=gpu."),
        ("cuda:x", "is no device"),
        ("cuda:3", "torch sees 2 GPUs, cuda:0 to cuda:1. Type runtime.device=cuda:0."),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_computed(tmp_path, monkeypatch, name, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"runtime\.device") as refused:
        job(tmp_path, f"runtime.device={name}")
    assert says in str(refused.value)


def test_without_a_gpu_the_sentence_says_what_to_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.missing("cuda") == "runtime.device='cuda' is not on this machine: torch sees no GPU. Type runtime.device=cpu."
    assert device.missing("cpu") is None


@pytest.mark.parametrize("size", ["0", "-4", "1.5"])
def test_a_batch_of_less_than_one_image_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=r"runtime.batch_size"):
        job(tmp_path, f"runtime.batch_size={size}")


def test_a_metrics_batch_of_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"split.target.metrics.presence.batch_size=0: a batch holds at least 1 image"):
        places = [f"runtime.store={tmp_path}", f"runtime.records={tmp_path}"]
        composing.build_job(tree.composed(["split=[target]", "split.target.metrics.presence.batch_size=0", *places]))
