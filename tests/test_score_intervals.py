"""Which interval a column of a score gets: rates are bounded, measures may be exact, whole sets bring their own."""

import numpy as np
import pandas as pd
import pytest

from vestige.bench.contract.types import Scores
from vestige.bench.places import CHECKOUT
from vestige.bench.run import contract_checks
from vestige.bench.statistics.score_intervals import is_rate, measured
from vestige.metrics.answers import Answers
from vestige.metrics.image_change import ImageChange
from vestige.metrics.presence import Presence

INDEX = pd.DataFrame({"row_id": [f"{k:03d}" for k in range(12)], "rep": 0, "group": [f"g{k}" for k in range(12)]})


def scores(**columns) -> Scores:
    return Scores({}, INDEX[["row_id", "rep"]].assign(**columns))


def test_identical_images_have_a_change_of_exactly_zero():
    same = scores(mse=0.0, cosine_clip_emoji=1.0)
    change = ImageChange("clip_emoji", 100.0)
    assert measured("mse", change, same, INDEX) == (0.0, 0.0, 0.0) and measured("cosine_clip_emoji", change, same, INDEX) == (1.0, 1.0, 1.0)


def test_a_rate_of_zero_has_an_unseen_side():
    assert measured("present", Presence("emoji_a", 64), scores(present=0.0), INDEX) == (0.0, 0.0, pytest.approx(3 / 12))
    assert is_rate("style_right", Answers("emoji_a", 64)) and not is_rate("confidence", Answers("emoji_a", 64))


def test_a_value_is_the_mean_of_what_its_interval_is_of():
    """Prompt g0 has ten judged images of yes, g1 one of no, g2 none: half of the judged prompts, not ten in eleven images."""
    index = pd.DataFrame({"row_id": [f"{k:02d}" for k in range(14)], "rep": 0, "group": ["g0"] * 10 + ["g1"] * 2 + ["g2"] * 2})
    table = index[["row_id", "rep"]].assign(present=[1.0] * 10 + [0.0] + [np.nan] * 3)
    value, low, high = measured("present", Presence("emoji_a", 64), Scores({"present": 10 / 11}, table), index)
    assert value == 0.5 and low < 0.5 < high


METRICS = sorted(file.stem for file in (CHECKOUT / "conf" / "metric").glob("*.yaml"))


@pytest.mark.parametrize("name", METRICS)
def test_every_value_of_every_metric_lies_in_its_interval(name):
    """Some images unjudged, unequal numbers of images per prompt, few prompts and many, answers and measures."""
    metric, rng = contract_checks.build("metric", name), np.random.default_rng(0)
    columns = [column if "*" not in column else column.replace("*", "object") for column in (*metric.columns, *metric.rates)]
    for trial in range(6):
        groups = rng.integers(0, rng.integers(1, 12), 30)
        index = pd.DataFrame({"row_id": [f"{k:02d}" for k in range(30)], "rep": 0, "group": [f"g{k}" for k in groups]})
        for column in columns:
            values = rng.integers(0, 2, 30).astype(float) if is_rate(column, metric) else rng.lognormal(0, 1, 30)
            values = np.where(groups == 0, 1.0, values) if trial % 2 else np.full(30, values[0]) if trial % 3 == 0 else values
            values[rng.random(30) < 0.5] = np.nan
            means = pd.Series(values).groupby(groups).mean().dropna()
            table = index[["row_id", "rep"]].assign(**{column: values})
            value, low, high = measured(column, metric, Scores({column: float(np.nanmean(values))}, table), index)
            assert value == pytest.approx(means.mean())
            assert (low is None) == (len(means) < 2) and (low is None or low <= value <= high), (column, value, low, high)


def test_a_number_of_the_whole_set_brings_its_own_interval_or_none():
    whole = Scores({"fid_x": 3.0, "recall_x": 0.5}, None, {"intervals": {"fid_x": [2.0, 4.0]}})
    assert measured("fid_x", Presence("emoji_a", 64), whole, INDEX) == (3.0, 2.0, 4.0)
    assert measured("recall_x", Presence("emoji_a", 64), whole, INDEX) == (0.5, None, None)


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
    metric = contract_checks.build("metric", name)
    assert {column for column in metric.columns if is_rate(column, metric)} == rates


def test_a_score_without_a_judged_image_has_no_interval():
    assert measured("present", Presence("emoji_a", 64), scores(present=np.nan), INDEX) == (None, None, None)
