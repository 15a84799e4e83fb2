"""CLIP score and CLIP accuracy on embeddings that are written down."""

import pytest
import torch
from made_images import in_memory

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.vision import clip_models
from vestige.metrics.clip_score import ClipScore

# Where each text lies on a circle, in degrees; images lie at 0, 60 and 120.
PLACES = {
    "a dog": 0,
    "a cat": 90,
    "a car": 180,
    "photo of dog": 10,
    "photo of cat": 60,
    "photo of car": 130,
    "photo of apple": 200,
    "photo of frog": 270,
}


def on_circle(degrees) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], -1)


class Clip:
    def text(self, texts):
        return on_circle([PLACES[text] for text in texts])


@pytest.fixture
def score(monkeypatch, tmp_path, concept):
    monkeypatch.setattr(clip_models, "load_clip", lambda which: Clip())
    seen = lambda images, extractor: on_circle([[0, 60, 120][int(row)] for row in images.index["row_id"]])  # noqa: E731
    context = MetricContext([concept("dog")], None, seen)

    def run(prompts, expect):
        shown = in_memory(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), tmp_path, prompt=prompts, expect=expect)
        return ClipScore("some/clip", "photo of {}", "{}").score(shown, context)

    return run


def test_the_score_is_a_hundred_times_the_cosine_and_is_not_clamped(score):
    found = score(["a dog", "a dog", "a car"], ["dog", "dog", "car"])
    assert found.per_image["clip_cos"].tolist() == pytest.approx([100, 50, 50])
    assert score(["a car", "a cat", "a dog"], ["car", "cat", "dog"]).per_image["clip_cos"].tolist() == pytest.approx([-100, 86.6025, -50])
    assert found.totals["clip_cos"] == pytest.approx(200 / 3), "the mean of single values: nothing is clamped before or after"


def test_accuracy_asks_whether_the_expected_name_is_the_nearest_of_the_candidates(score):
    found = score(["a dog", "a dog", "a dog"], ["dog", "dog", "car"])
    assert found.per_image["clip_accuracy"].tolist() == [1, 0, 1], "at 60 degrees lies the cat"
    assert found.meta["candidates"] == {"object": 5}, "chance is one in five"


def test_a_name_with_capitals_or_of_another_slug_is_the_same_candidate(monkeypatch, tmp_path, concept):
    """A label is a slug: taken for a word of its own, "ada one" competed with Ada One and was judged among things."""
    places = {"x": 0, "photo of Ada One": 0, "photo of Bea Two": 60, "photo of Cy": 120, "photo of church": 200}
    clip = type("Clip", (), {"text": lambda self, texts: on_circle([places[text] for text in texts])})
    monkeypatch.setattr(clip_models, "load_clip", lambda which: clip())
    seen = lambda images, extractor: on_circle([0, 60, 120])  # noqa: E731
    erased = concept("celebrity_1", "celebrity", name="Ada One", siblings=["Bea Two", "Cy"], others=["church"])
    shown = in_memory(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), tmp_path, prompt="x", expect=["celebrity_1", "bea_two", "bea_two"])
    found = ClipScore("some/clip", "photo of {}", "{}").score(shown, MetricContext([erased], None, seen))
    assert found.per_image["clip_accuracy"].tolist() == [1, 1, 0]
    assert found.meta["candidates"] == {"celebrity": 3, "object": 1}


def test_missing_weights_are_named(concept):
    unsupported_reason = ClipScore("ViT-B-32/no_such_weights", "photo of {}", "{}").supports(None, [concept()])
    assert "Known weights" in unsupported_reason
    assert "Near names: ViT-B-32" in ClipScore("ViT-B-33/openai", "photo of {}", "{}").supports(None, [concept()])
