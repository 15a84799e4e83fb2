"""Stored answers: ranks, leaks and content from a judge whose answers are written down; candidates of one kind for CLIP."""

import pandas as pd
import pytest
import torch

from vestige.bench import judges
from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.judges import PresenceJudge
from vestige.metrics.answers import Answers, _named
from vestige.metrics.clip_score import candidates

LABELS = {"object": ["dog", "cat", "car", "nothing"], "style": ["noto", "pixel_art"]}

GROUPS = {"pet": ("object", [0, 1])}


class Written(ImageSet):
    """Images that are never opened."""

    def batches(self, size=64):
        yield torch.zeros(len(self), 3, 8, 8, dtype=torch.uint8)


@pytest.fixture
def score(monkeypatch, concept, tmp_path):
    def make(rows, objects, styles, slug="dog", kind="object"):
        logits = {"object": torch.tensor(objects), "style": torch.tensor(styles)}
        monkeypatch.setattr(judges, "load", lambda name: PresenceJudge(lambda images: logits, LABELS, name, GROUPS))
        index = pd.DataFrame(rows, columns=["prompt", "expect", "names"])
        index = index.assign(row_id=[str(k) for k in range(len(rows))], rep=0)
        context = MetricContext([concept(slug, kind)], None, None)
        return Answers("written", 64).score(Written(tmp_path, index), context)

    return make


def test_ranks_leaks_and_content_are_read_off_the_answers(score):
    rows = [("a cat", "cat", 1), ("a dog and a car", "car", 2), ("a car", "car", 1), ("a noto cat", "cat", 1)]
    objects = [[2.0, 3, 0, 1], [3.0, 0, 2, 1], [2.0, 1, 3, 0], [0.0, 0, 0, 9]]
    scores = score(rows, objects, [[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    table = scores.per_image
    assert table["rank"].tolist() == [1, 2, 1, 2]
    assert table["seen"].tolist() == [0, 1, 0, 0], "the dog counts among as many answers as the prompt names objects"
    assert table["content"].tolist() == [1, 1, 1, 0] and table["object_answer"].tolist() == ["cat", "dog", "car", "nothing"]
    assert table["object_right"].tolist()[0] == 1 and pd.isna(table["object_right"][1]), "two names leave open which is meant"
    assert table["style_right"].isna().tolist() == [True, True, True, False] and table["style_right"][3] == 0
    assert scores.totals["style_right"] == 0 and scores.totals["content"] == 0.75 and "object_answer" not in scores.totals


def test_about_marks_the_prompts_that_name_an_erased_concept(score):
    rows = [("a dog in noto style", "dog", 1), ("a cat in noto style", "cat", 1), ("a dog and a cat", "dog", 2)]
    looks = [[1.0, 0.0]] * 3
    table = score(rows, [[1.0, 0, 0, 0]] * 3, looks).per_image
    assert table["about"].tolist() == [1, 0, 0] and table["style_right"].tolist()[:2] == [1, 1]
    assert score(rows, [[1.0, 0, 0, 0]] * 3, looks, "noto", "style").per_image["about"].tolist() == [1, 1, 0]


def test_a_style_is_seen_by_its_own_head(score):
    scores = score([("a pixel art cat", "pixel_art", 1)], [[0.0, 1, 0, 0]], [[0.0, 1.0]], "pixel_art", "style")
    assert scores.totals["seen"] == 1 and scores.totals["rank"] == 1 and scores.totals["object_right"] == 1


def test_a_group_ranks_as_its_best_member_and_is_seen_by_any(score):
    scores = score([("a pet", "pet", 1), ("a car", "car", 1)], [[0.0, 2, 3, 1], [2.0, 1, 0, 3]], [[1.0, 0.0]] * 2, "pet")
    assert scores.per_image["rank"].tolist() == [2, 4] and scores.per_image["seen"].tolist() == [0, 0]
    assert score([("a pet", "pet", 1)], [[0.0, 2, 1, 1]], [[1.0, 0.0]], "pet").totals["seen"] == 1


def test_of_nested_labels_the_longest_is_the_one_a_prompt_names():
    labels = ["sketch", "artist_sketch", "winter"]
    assert _named("A dog image in Artist Sketch style.", labels) == "artist_sketch"
    assert _named("A dog image in Sketch style.", labels) == "sketch" and _named("Winter sketch", labels) is None


def test_styles_compete_with_styles_and_objects_with_objects(concept):
    style = concept("pixel_art", "style", siblings=["noto", "fluent"], others=["dog", "car"])
    assert candidates([style], {"pixel art", "dog", "white"}) == {
        "style": ["fluent", "noto", "pixel art"],
        "object": ["car", "dog", "white"],
    }
    assert candidates([concept()], {"dog", "zebra"}) == {"object": ["apple", "car", "cat", "dog", "frog", "zebra"]}
