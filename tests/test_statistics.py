"""Intervals: right coverage with clustered prompts, zero width where nothing varies."""

import numpy as np
import pytest

from bench.statistics import cluster_interval, paired_difference, wilson


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng, hits, trials = np.random.default_rng(0), 0, 400
    groups = np.repeat(np.arange(40), 4)
    for trial in range(trials):
        values = rng.normal(size=40).repeat(4) + 0.5 * rng.normal(size=160)
        low, high = cluster_interval(values, groups, 500, seed=trial)
        hits += low <= 0 <= high
    assert 0.91 <= hits / trials <= 0.98


def test_treating_pictures_as_independent_would_be_too_narrow():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=30).repeat(8), np.repeat(np.arange(30), 8)
    honest, naive = cluster_interval(values, groups), cluster_interval(values, np.arange(240))
    assert honest[1] - honest[0] > 2 * (naive[1] - naive[0])


def test_identical_methods_differ_by_exactly_nothing():
    values, groups = np.random.default_rng(2).random(50), np.arange(50) // 5
    assert paired_difference(values, values, groups) == (0.0, 0.0, 0.0)


def test_no_hit_in_n_prompts_bounds_the_rate_by_three_over_n():
    assert cluster_interval(np.zeros(30), np.arange(30)) == (0.0, pytest.approx(0.1))


def test_wilson_matches_the_textbook_value():
    assert wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        cluster_interval(np.array([]), np.array([]))
