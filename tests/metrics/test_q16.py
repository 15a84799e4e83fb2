"""Q16: two prompt embeddings from the user's file or from texts; I2P's rule; OpenAI weights get their own activation."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from made_images import drawn, in_memory
from safetensors.torch import save_file

from vestige.bench import judges
from vestige.bench.contract.plugin import MetricContext
from vestige.bench.judges import q16
from vestige.bench.reports.composite_catalogue import CATALOGUE
from vestige.bench.run import contract_checks
from vestige.bench.vision import clip_models, features
from vestige.metrics.q16 import Q16

DANGERS, HARMLESS = ["a bomb", "a skull"], ["a dog", "a banana"]


@pytest.fixture
def file(tmp_path):
    save_file({"prompts": torch.tensor([[2.0, 0, 0], [0, 3.0, 0]])}, tmp_path / "q16.safetensors")
    return str(tmp_path / "q16.safetensors")


@pytest.fixture
def images(tmp_path):
    return in_memory(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), tmp_path)


def context(seen: torch.Tensor) -> MetricContext:
    return MetricContext([], None, lambda images, extractor: seen)


def test_the_nearer_of_two_normalised_prompts_decides(file, images):
    seen = torch.nn.functional.normalize(torch.tensor([[1.0, 0.99, 0], [0.99, 1.0, 5]]), dim=-1)
    scores = Q16("ViT-L-14/openai", file, None).score(images, context(seen))
    assert scores.per_image["inappropriate"].tolist() == [0, 1], "the prompts' lengths play no part"
    expected = torch.sigmoid(100 * (seen[:, 1] - seen[:, 0]))
    assert scores.per_image["probability"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(scores.meta["prompts_sha256"]) == 64


def test_another_clips_prompts_are_refused(file, images):
    with pytest.raises(ValueError, match="another CLIP model"):
        Q16("ViT-L-14/openai", file, None).score(images, context(torch.ones(2, 5)))


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(np.ones((2, 4), dtype=np.float16)))
    for asked in (str(tmp_path / "prompts.p"), None):
        assert "save_file({'prompts'" in Q16("ViT-L-14/openai", asked, None).supports(None, [])
    with pytest.raises(ValueError, match=r"safetensors file, got '.*prompts\.p'"):
        judges.check(f"q16:{tmp_path / 'prompts.p'}")


def test_the_converted_file_is_what_the_loader_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(np.array([[1, 0], [0, 1]], dtype=np.float16)))
    exec(q16.CONVERT.partition('"')[2].rstrip('"'), {})
    assert torch.equal(q16.prompts("q16.safetensors")[0], torch.eye(2))


def test_a_file_without_two_prompts_is_named(tmp_path):
    save_file({"prompts": torch.ones(3, 4)}, tmp_path / "q16.safetensors")
    with pytest.raises(ValueError, match="one tensor `prompts` with two rows"):
        q16.prompts(str(tmp_path / "q16.safetensors"))


def test_with_texts_it_runs_on_the_emoji_world_and_keeps_the_contract(tmp_path):
    metric = Q16("emoji", None, [HARMLESS, DANGERS])
    for _, check in contract_checks.metric_checks(metric, tmp_path):
        check()
    seen = clip_models.load_clip("emoji").image(drawn("bomb", "dog"))
    scores = metric.score(in_memory(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), tmp_path), context(seen))
    assert scores.per_image["inappropriate"].tolist() == [1, 0]


def test_texts_are_two_lists():
    with pytest.raises(ValueError, match="two lists"):
        dataclasses.replace(Q16("emoji", None, [HARMLESS, DANGERS]), texts=[HARMLESS])


def test_q16_as_a_judge_loads_clip_once_and_answers_whatever_the_label(file, monkeypatch):
    class Clip:
        def image(self, images):
            return torch.eye(3)[[1] * len(images)]

    monkeypatch.setattr(clip_models, "load_clip", lambda which: Clip())
    monkeypatch.setattr(features, "check", lambda which: None)
    judge = judges.load.__wrapped__(f"q16:{file}")
    verdict = judge(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["violence", "x"], [1, 1])
    assert verdict.present.tolist() == [True, True] and judge.meta["prompts_sha256"]


def test_i2ps_rule_is_either_judge():
    rule = next(c for c in CATALOGUE if c.name == "i2p_inappropriate").parts["x"].rule
    boxes = np.array(["none", "none", "FEET_EXPOSED:0.21", "FACE_MALE:0.9"], dtype=object)
    assert rule(np.array([0.0, 1.0, 0.0, 0.0]), boxes).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "which, quick", [("ViT-B-32/openai", True), ("ViT-B-32/laion2b_s34b_b79k", False), ("ViT-B-32//file.safetensors", False)]
)
def test_openais_weights_get_the_activation_they_were_trained_with(which, quick, monkeypatch):
    import open_clip

    class Stop(Exception):
        pass

    def create(name, pretrained, force_quick_gelu):
        assert name == "ViT-B-32" and force_quick_gelu is quick
        raise Stop

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(Stop):
        clip_models.OpenClip(which)
