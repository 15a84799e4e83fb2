"""The 95 % interval of one column of a score: from its pictures, or the one a metric of whole sets measured itself."""

from __future__ import annotations

from fnmatch import fnmatch

import pandas as pd

from bench.plugin import Metric
from bench.statistics import cluster_interval
from bench.types import Scores

MEASURED = "intervals"  # key of a score's meta data: column -> (low, high), for columns without a value per picture


def interval_of(column: str, metric: Metric, scores: Scores, index: pd.DataFrame) -> tuple[float, float] | tuple[None, None]:
    """`index`: the pictures' row_id, rep and group (the prompts that are resampled). (None, None): the column has no interval."""
    if scores.per_image is None or column not in scores.per_image:
        return tuple(scores.meta.get(MEASURED, {}).get(column, (None, None)))
    rows = scores.per_image.merge(index[["row_id", "rep", "group"]], on=["row_id", "rep"])
    return cluster_interval(rows[column].to_numpy(float), rows["group"].to_numpy(), rate=is_rate(column, metric))


def is_rate(column: str, metric: Metric) -> bool:
    return any(fnmatch(column, name) for name in metric.rates)
