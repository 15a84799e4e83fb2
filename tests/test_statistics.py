"""Intervals, tests, ranks and power: right coverage with clustered prompts, zero width where nothing varies."""

import numpy as np
import pytest

from bench.statistics import cluster_interval, paired_difference, wilson
from bench.statistics.permutation import holm, sign_flip
from bench.statistics.power import components, kappa, power_of, prompts_for_rate, prompts_needed, sd_and_icc, smallest_difference
from bench.statistics.ranks import differs, ellipse, letters, pareto, rank_distribution
from bench.statistics.resampling import Bootstrap, interval


def clustered(rng, prompts, pictures, icc):
    """Pictures of one prompt share a part of their noise; variance 1, mean 0."""
    return np.sqrt(icc) * rng.normal(size=(prompts, 1)) + np.sqrt(1 - icc) * rng.normal(size=(prompts, pictures))


@pytest.mark.parametrize("prompts", [12, 40])
def test_the_interval_covers_the_truth_95_times_in_100(prompts):
    rng, hits, trials = np.random.default_rng(0), 0, 1500
    groups = np.repeat(np.arange(prompts), 4)
    for trial in range(trials):
        low, high = cluster_interval(clustered(rng, prompts, 4, 0.6).ravel(), groups, 800, seed=trial)
        hits += low <= 0 <= high
    assert 0.93 <= hits / trials <= 0.97


def coverage_over_concepts(concepts, nested, between, trials=800):
    """Share of intervals of a mean over concepts, prompts and pictures that hold the truth 0."""
    rng, hits = np.random.default_rng(1), 0
    for trial in range(trials):
        bootstrap = Bootstrap(600, trial, nested)
        means = [between * rng.normal() + clustered(rng, 15, 2, 0.6).mean(1) for _ in range(concepts)]
        whole = bootstrap.keeps_prompts(concepts)
        draws = np.stack([np.full(600, m.mean()) if whole else bootstrap.prompts(f"c{k}", m) for k, m in enumerate(means)])
        low, high = interval(bootstrap.over_concepts(draws), concepts if concepts >= 8 else 15 * concepts)
        hits += low <= 0 <= high
    return hits / trials


def test_many_concepts_are_a_sample_and_few_are_given():
    assert 0.93 <= coverage_over_concepts(10, False, between=0.5) <= 0.97
    assert 0.93 <= coverage_over_concepts(3, False, between=0.0) <= 0.97


def test_resampling_prompts_inside_resampled_concepts_counts_their_noise_twice():
    assert coverage_over_concepts(10, True, between=0.1) > 0.97


def test_treating_pictures_as_independent_would_be_too_narrow():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=30).repeat(8), np.repeat(np.arange(30), 8)
    honest, naive = cluster_interval(values, groups), cluster_interval(values, np.arange(240))
    assert honest[1] - honest[0] > 2 * (naive[1] - naive[0])


def test_identical_methods_differ_by_exactly_nothing():
    values, groups = np.random.default_rng(2).random(50), np.arange(50) // 5
    assert paired_difference(values, values, groups) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(3)
    shared, groups = rng.normal(size=60), np.arange(60)
    a, b = shared + 0.3 * rng.normal(size=60), shared + 0.3 * rng.normal(size=60)
    paired, mixed = paired_difference(a, b, groups), paired_difference(a, rng.permutation(b), groups)
    assert paired[2] - paired[1] < 0.5 * (mixed[2] - mixed[1])


def test_no_hit_in_n_prompts_bounds_the_rate_by_three_over_n():
    assert cluster_interval(np.zeros(30), np.arange(30)) == (0.0, pytest.approx(0.1))
    assert paired_difference(np.zeros(30), np.ones(30), np.arange(30)) == (-1.0, -1.0, pytest.approx(-0.9))


def test_rates_with_one_picture_per_prompt_get_wilsons_interval():
    values = np.array([1.0] * 8 + [0.0] * 2)
    assert cluster_interval(values, np.arange(10)) == wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    twice = cluster_interval(values.repeat(2), np.arange(10).repeat(2))
    assert twice != wilson(16, 20) and twice[1] - twice[0] > wilson(16, 20)[1] - wilson(16, 20)[0]


def test_pictures_without_a_judgement_are_left_out():
    values, groups = np.array([1.0, np.nan, 0.0, 1.0, 0.5, np.nan]), np.array(list("aabbcd"))
    assert cluster_interval(values, groups) == cluster_interval(values[[0, 2, 3, 4]], groups[[0, 2, 3, 4]])


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        cluster_interval(np.array([]), np.array([]))


def test_sign_flips_hold_their_level_and_find_a_shift():
    rng = np.random.default_rng(4)
    null = [sign_flip(rng.normal(size=12)) for _ in range(600)]
    assert 0.03 <= np.mean(np.array(null) <= 0.05) <= 0.07
    assert sign_flip(rng.normal(size=12) + 2) < 0.002
    assert sign_flip(np.zeros(12)) == 1.0
    assert sign_flip(np.ones(8)) == pytest.approx(2 / 2**8), "exact: only the observed signs and their mirror are as far"


def test_holm_is_the_textbook_step_down():
    assert holm(np.array([0.01, 0.04, np.nan, 0.03])) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    assert holm(np.array([])).tolist() == []


def test_ranks_share_ties_and_p_best_sums_to_one():
    draws = np.array([[3.0, 1.0, 1.0], [2.0, 2.0, 0.0]])
    ranks = rank_distribution(draws, ["a", "b", "c"])
    assert ranks["p_best"].tolist() == [0.75, 0.25, 0.0] and ranks.loc["a", "median_rank"] == pytest.approx(1.25)


def test_methods_share_a_letter_exactly_when_they_cannot_be_told_apart():
    rng = np.random.default_rng(5)
    for _ in range(50):
        apart = np.triu(rng.random((6, 6)) < 0.5, 1)
        apart |= apart.T
        shown = letters(apart)
        assert all(bool(set(shown[i]) & set(shown[j])) != apart[i, j] for i in range(6) for j in range(6) if i != j)
    draws = np.stack([rng.normal(5, 1, 500), rng.normal(4.9, 1, 500), rng.normal(-5, 1, 500)], axis=1)
    assert letters(differs(draws, 30)) == ["a", "a", "b"]


def test_the_pareto_set_drops_what_another_method_dominates():
    points = np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.5], [0.0, 1.0], [np.nan, 2.0]])
    assert pareto(points).tolist() == [True, True, False, True, False]
    assert pareto(np.array([[1.0, 1.0], [1.0, 1.0]])).tolist() == [True, True]


def test_the_ellipse_holds_its_share_of_the_draws():
    draws = np.random.default_rng(6).multivariate_normal([1, 2], [[4, 1.5], [1.5, 1]], 4000)
    centre, width, height, angle = ellipse(draws)
    turn = np.radians(angle)
    x, y = ((draws - centre) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])).T
    assert np.mean((2 * x / width) ** 2 + (2 * y / height) ** 2 <= 1) == pytest.approx(0.95, abs=0.01)


def test_a_planted_effect_is_found_with_the_predicted_power():
    rng, prompts, trials = np.random.default_rng(7), 25, 400
    predicted = power_of(prompts, 0.45, sd=1.0, icc=0.5, repeats=3)
    groups, found = np.repeat(np.arange(prompts), 3), 0
    for trial in range(trials):
        shared = clustered(rng, prompts, 3, 0.6)
        a, b = shared + 0.45 + clustered(rng, prompts, 3, 0.5), shared
        _, low, high = paired_difference(a.ravel(), b.ravel(), groups, 800, trial)
        found += not low <= 0 <= high
    assert 0.6 < predicted < 0.95 and found / trials == pytest.approx(predicted, abs=0.05)


def test_power_reproduces_the_published_rules_of_thumb():
    assert prompts_needed(0.5, sd=2.4, icc=0.6) == pytest.approx(7.85 * 2.4**2 / 0.5**2, abs=3)
    assert prompts_for_rate(0.2, 0.05) == 246
    n = prompts_needed(0.3, 1.0, 0.4, 5, power=0.9)
    assert power_of(n, 0.3, 1.0, 0.4, 5) >= 0.9 > power_of(n - 1, 0.3, 1.0, 0.4, 5)
    assert smallest_difference(n, 1.0, 0.4, 5, power=0.9) == pytest.approx(0.3, rel=0.02)
    with pytest.raises(ValueError, match="must not be 0"):
        prompts_needed(0.0, 1.0)


def test_variance_components_and_the_correlation_within_prompts_are_recovered():
    values = clustered(np.random.default_rng(8), 400, 5, 0.6)
    groups = np.repeat(np.arange(400), 5)
    sd, icc = sd_and_icc(values.ravel(), groups)
    assert sd == pytest.approx(1.0, abs=0.05) and icc == pytest.approx(0.6, abs=0.05)
    between, within = components(values.ravel(), groups)
    assert between == pytest.approx(0.6, abs=0.07) and within == pytest.approx(0.4, abs=0.03)


def test_kappa_is_one_for_agreement_and_zero_for_chance():
    a = np.array([1, 1, 0, 0])
    assert kappa(a, a) == 1.0 and kappa(a, np.array([1, 0, 1, 0])) == 0.0
