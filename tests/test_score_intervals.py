"""Which interval a column of a score gets: rates are bounded, measures may be exact, whole sets bring their own."""

import numpy as np
import pandas as pd
import pytest

from bench import contract
from bench.score_intervals import interval_of, is_rate
from bench.types import Scores
from metrics.answers import Answers
from metrics.image_change import ImageChange
from metrics.presence import Presence

INDEX = pd.DataFrame({"row_id": [f"{k:03d}" for k in range(12)], "rep": 0, "group": [f"g{k}" for k in range(12)]})


def scores(**columns) -> Scores:
    return Scores({}, INDEX[["row_id", "rep"]].assign(**columns))


def test_identical_pictures_have_a_change_of_exactly_zero():
    same = scores(mse=0.0, cosine_clip_emoji=1.0)
    change = ImageChange("clip_emoji", 100.0)
    assert interval_of("mse", change, same, INDEX) == (0.0, 0.0) and interval_of("cosine_clip_emoji", change, same, INDEX) == (1.0, 1.0)


def test_a_rate_of_zero_has_an_unseen_side():
    assert interval_of("present", Presence("emoji_a", 64), scores(present=0.0), INDEX) == (0.0, pytest.approx(3 / 12))
    assert is_rate("style_right", Answers("emoji_a", 64)) and not is_rate("confidence", Answers("emoji_a", 64))


def test_a_number_of_the_whole_set_brings_its_own_interval_or_none():
    whole = Scores({"fid_x": 3.0, "recall_x": 0.5}, None, {"intervals": {"fid_x": [2.0, 4.0]}})
    assert interval_of("fid_x", Presence("emoji_a", 64), whole, INDEX) == (2.0, 4.0)
    assert interval_of("recall_x", Presence("emoji_a", 64), whole, INDEX) == (None, None)


@pytest.mark.parametrize(
    "name, rates",
    [
        ("presence", {"present", "judged"}),
        ("answers", {"seen", "content"}),
        ("clip_score", {"clip_accuracy"}),
        ("nudity", {"core", "person"}),
        ("q16", {"inappropriate"}),
        ("likeness", {"caption_named"}),
        ("entangled_s", {"empty_mask"}),
        ("image_change", set()),
        ("lpips", set()),
        ("nouns", set()),
        ("pick_score", set()),
    ],
)
def test_metrics_declare_their_rates(name, rates):
    metric = contract.build("metric", name)
    assert {column for column in metric.columns if is_rate(column, metric)} == rates


def test_a_score_without_a_judged_picture_has_no_interval():
    assert interval_of("present", Presence("emoji_a", 64), scores(present=np.nan), INDEX) == (None, None)
