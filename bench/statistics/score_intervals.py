"""The value of one column of a score and its 95 % interval: from its images, or as a metric of whole sets measured them."""

from __future__ import annotations

from fnmatch import fnmatch

import numpy as np
import pandas as pd

from vestige.bench.contract.plugin import Metric
from vestige.bench.contract.types import Scores
from vestige.bench.statistics import cluster_interval
from vestige.bench.statistics.resampling import group_means

MEASURED = "intervals"  # key of a score's meta data: column -> (low, high), for columns without a value per image


def measured(column: str, metric: Metric, scores: Scores, index: pd.DataFrame) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of one quantity: the mean over prompts of the mean over that prompt's judged images.

    Prompts without a judged image are left out, so that a prompt counts once however many of its images were judged; None where
    no image was, and for an interval that there is not. A column without values per image has the metric's own number.
    `index`: the images' row_id, rep and group (the prompts that are resampled).
    """
    if scores.per_image is None or column not in scores.per_image:
        value = scores.totals[column]
        return (value if value == value else None, *scores.meta.get(MEASURED, {}).get(column, (None, None)))
    rows = scores.per_image.merge(index[["row_id", "rep", "group"]], on=["row_id", "rep"])
    values, groups = rows[column].to_numpy(float), rows["group"].to_numpy()
    means = group_means(values, groups)
    if len(means) == 0:
        return None, None, None
    value = float(np.clip(means.mean(), means.min(), means.max()))  # but for rounding it is there
    return (value, *cluster_interval(values, groups, rate=is_rate(column, metric)))


def is_rate(column: str, metric: Metric) -> bool:
    return any(fnmatch(column, name) for name in metric.rates)
