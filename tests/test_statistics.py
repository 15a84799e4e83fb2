"""Intervals, tests, ranks and power: right coverage with clustered prompts, zero width where nothing varies."""

import numpy as np
import pytest
from scipy import stats

from vestige.bench.statistics import cluster_interval, paired_difference
from vestige.bench.statistics.intervals import (
    balanced_interval,
    measure_interval,
    paired_intervals,
    rate_interval,
    seed_spread,
    seeds_interval,
)
from vestige.bench.statistics.jackknife import UP_TO_ONE, blocks, jackknife_interval
from vestige.bench.statistics.permutation import holm, sign_flip
from vestige.bench.statistics.power import components, power_of, prompts_for_rate, prompts_needed, sd_and_icc, smallest_difference
from vestige.bench.statistics.ranks import differs, ellipse, letters, pareto, rank_distribution
from vestige.bench.statistics.resampling import Bootstrap, interval


def clustered(rng, prompts, images, icc):
    """Images of one prompt share a part of their noise; variance 1, mean 0."""
    return np.sqrt(icc) * rng.normal(size=(prompts, 1)) + np.sqrt(1 - icc) * rng.normal(size=(prompts, images))


@pytest.mark.parametrize("prompts", [12, 40])
def test_the_interval_covers_the_truth_95_times_in_100(prompts):
    rng, hits, trials = np.random.default_rng(0), 0, 800
    groups = np.repeat(np.arange(prompts), 4)
    for _ in range(trials):
        low, high = cluster_interval(clustered(rng, prompts, 4, 0.6).ravel(), groups)
        hits += low <= 0 <= high
    assert 0.93 <= hits / trials <= 0.97


def answers(rng, prompts, images, rates, trials=1, shared=0.8):
    """Yes and no of one judge on images of methods with these rates, (methods, trials, prompts, images).

    Images of one prompt go together (correlation 0.5 of what decides them), and methods find the same prompts hard.
    """

    def hardness():
        return np.sqrt(0.5) * rng.normal(size=(trials, prompts, 1)) + np.sqrt(0.5) * rng.normal(size=(trials, prompts, images))

    common = hardness()
    return np.stack([shared * common + np.sqrt(1 - shared**2) * hardness() < stats.norm.ppf(rate) for rate in rates]).astype(float)


@pytest.mark.parametrize("prompts", [8, 20, 40])
def test_intervals_of_rates_cover_them_with_one_image_per_prompt(prompts):
    """Exactly: a sum over the possible counts, for a hundred rates."""
    counts = np.arange(prompts + 1)
    low, high = rate_interval((np.arange(prompts)[:, None] < counts).astype(float))
    rates = np.linspace(0, 1, 101)[:, None]
    held = (stats.binom.pmf(counts, prompts, rates) * ((low <= rates + 1e-9) & (rates - 1e-9 <= high))).sum(1)
    assert held.min() > 0.92 and held[[0, -1]].min() == 1 and 0.95 <= held[5:96].mean() <= 0.975


def test_resampled_prompts_alone_would_miss_rates_near_one():
    """Why rates get another interval than measures do."""
    means = answers(np.random.default_rng(9), 20, 4, [0.95], 1000)[0].mean(-1).T
    low, high = interval(Bootstrap(500).prompts("prompts", means), 20)
    assert np.mean((low <= 0.95) & (high >= 0.95)) < 0.93
    low, high = rate_interval(means)
    assert np.mean((low <= 0.95) & (high >= 0.95)) > 0.93


def test_eight_prompts_bound_a_small_difference_of_rates():
    """Half of the time no prompt tells the two methods apart: resampled differences were [0, 0] then, and held 46 of 100 truths."""
    a, b = answers(np.random.default_rng(10), 8, 1, [0.1, 0.05], 2000)[..., 0]
    low, high = paired_intervals((a - b).T)
    assert np.mean((low <= 0.05) & (high >= 0.05)) > 0.92
    same = (a == b).all(1)
    assert same.mean() > 0.3 and (high[same] == 3 / 8).all() and (low[same] == -3 / 8).all()


def test_differences_of_skewed_measures_are_covered():
    rng = np.random.default_rng(11)
    means = rng.gamma(2, 0.5, (8, 4000))
    low, high = measure_interval(means)
    assert 0.93 <= np.mean((low <= 1) & (high >= 1)) <= 0.96
    half = stats.t.ppf(0.975, 7) * means.std(0, ddof=1) / 8**0.5
    assert np.mean(np.abs(means.mean(0) - 1) <= half) < 0.925, "the plain t interval is too short on the long side"


def test_measures_cannot_pass_for_answers():
    with pytest.raises(ValueError, match="need rate=False"):
        paired_intervals(np.array([[12.0], [3.0]]))
    low, high = paired_intervals(np.array([[0.01], [0.02], [0.03]]), rate=False)
    assert 0.01 <= low[0] < 0.02 < high[0] <= 0.03
    assert np.isnan(paired_intervals(np.array([[0.5]]), rate=False)).all(), "one prompt has no spread to learn from"


def seeded(rng, seeds, prompts, sd, trials, rate=0.5):
    """(trials, seeds, prompts) shares of yes, two images a prompt; seeds shift all prompts alike."""
    return rng.binomial(2, np.clip(rate + sd * rng.normal(size=(trials, seeds, 1)), 0, 1), (trials, seeds, prompts)) / 2


def test_the_mean_over_erasure_seeds_is_covered_and_one_seed_claims_no_more_than_itself():
    rng, truth = np.random.default_rng(12), 0.5
    found = [seeds_interval(m) for m in seeded(rng, 3, 20, 0.1, 1000)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.93
    pooled = [rate_interval(m.mean(0)) for m in seeded(rng, 3, 40, 0.1, 1000)]
    assert np.mean([low <= truth <= high for low, high in pooled]) < 0.85, "prompts alone do not know what another seed would give"
    one = seeded(rng, 1, 20, 0.1, 1)[0]
    assert seeds_interval(one)[1:] == tuple(map(float, rate_interval(one[0])))
    shift = [seeds_interval(m - 0.4, difference=True) for m in seeded(rng, 3, 20, 0.1, 500)]
    assert np.mean([low <= 0.1 <= high for _, low, high in shift]) >= 0.93


def test_seeds_that_agree_add_nothing_and_a_prompt_that_one_seed_lacks_is_left_out():
    means = np.random.default_rng(13).integers(0, 2, (1, 12)).repeat(3, axis=0).astype(float)
    assert seeds_interval(means)[1:] == tuple(map(float, rate_interval(means[0])))
    lacking = np.c_[means, [[1.0], [np.nan], [1.0]]]
    assert seeds_interval(lacking) == seeds_interval(means)
    assert np.isnan(seeds_interval(lacking[:, -1:])).all()


def coverage_over_concepts(concepts, nested, between, trials=400):
    """Share of intervals of a mean over concepts, prompts and images that hold the truth 0."""
    rng, hits = np.random.default_rng(1), 0
    for trial in range(trials):
        bootstrap = Bootstrap(400, trial, nested)
        means = [between * rng.normal() + clustered(rng, 15, 2, 0.6).mean(1) for _ in range(concepts)]
        whole = bootstrap.keeps_prompts(concepts)
        draws = np.stack([np.full(400, m.mean()) if whole else bootstrap.prompts(f"c{k}", m) for k, m in enumerate(means)])
        low, high = interval(bootstrap.over_concepts(draws), concepts if concepts >= 8 else 15 * concepts)
        hits += low <= 0 <= high
    return hits / trials


def test_many_concepts_are_a_sample_and_few_are_given():
    assert 0.93 <= coverage_over_concepts(10, False, between=0.5) <= 0.97
    assert 0.93 <= coverage_over_concepts(3, False, between=0.0) <= 0.97


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_intervals_of_rates_over_concepts_prompts_and_seeds_cover_them(rate):
    """The draws of net and of the composites: three concepts of 20 prompts as given, then ten as a sample.

    They know no unseen side: of rates near 0 or 1 three concepts hold 90 % instead of 95, as docs/results.md says.
    """
    rng, trials, hits = np.random.default_rng(12), 100, 0
    for part in range(20):
        bootstrap, means = Bootstrap(500, part), [answers(rng, 20, 2, [rate], trials)[0].mean(-1).T for _ in range(3)]
        draws = np.stack([bootstrap.prompts(f"c{k}", m) for k, m in enumerate(means)])
        low, high = interval(bootstrap.over_concepts(draws), 3 * 20)
        hits += np.sum((low <= rate) & (rate <= high))
    assert (0.93 if rate == 0.5 else 0.89) <= hits / 2000 <= 0.97
    values, hits = answers(rng, 20, 2, [rate], 10 * 400)[0].mean((1, 2)).reshape(10, 400), 0
    for trial in range(400):
        low, high = interval(Bootstrap(500, trial).over_concepts(values[:, [trial]].repeat(500, axis=1)), 10)
        hits += low <= rate <= high
    assert 0.92 <= hits / 400 <= 0.975


def test_resampling_prompts_inside_resampled_concepts_counts_their_noise_twice():
    assert coverage_over_concepts(10, True, between=0.1) > 0.97


def test_treating_images_as_independent_would_be_too_narrow():
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


def test_equal_answers_differ_by_nothing_that_three_in_n_prompts_could_not_change():
    values, groups = np.random.default_rng(2).integers(0, 2, 60).astype(float), np.arange(60) // 2
    assert paired_difference(values, values, groups) == (0.0, -0.1, 0.1)


def test_no_hit_in_n_prompts_bounds_the_rate_by_three_over_n():
    assert cluster_interval(np.zeros(30), np.arange(30)) == (0.0, pytest.approx(0.1))
    assert paired_difference(np.zeros(30), np.ones(30), np.arange(30)) == (-1.0, -1.0, pytest.approx(-0.9))


def test_rates_of_one_image_per_prompt_get_the_interval_of_agresti_and_coull():
    values = np.array([1.0] * 8 + [0.0] * 2)
    centre, half = 10 / 14, stats.t.ppf(0.975, 40) * np.sqrt(10 / 14 * 4 / 14 / 14)
    assert cluster_interval(values, np.arange(10)) == pytest.approx((centre - half, centre + half))
    once, twice = cluster_interval(values, np.arange(10)), cluster_interval(values.repeat(2), np.arange(10).repeat(2))
    assert once == twice, "two images of one prompt that always agree are worth one"


def test_a_measure_of_equal_values_has_an_interval_of_no_width():
    groups = np.arange(30) // 3
    for value in (0.0, 1.0, 0.3):
        assert cluster_interval(np.full(30, value), groups, rate=False) == (value, value)
    values = np.array([1.0] * 8 + [0.0] * 2)
    answered, measured = (cluster_interval(values, np.arange(10), rate=rate) for rate in (True, False))
    assert answered != measured, "a distance that happens to be 0 or 1 is no rate"


def test_a_mean_of_two_rates_has_their_intervals_squared_and_added():
    rng, hits, groups = np.random.default_rng(13), 0, np.repeat(np.arange(27), 2)
    for _ in range(600):
        told = np.concatenate([rng.random(24) < 0.9, rng.random(30) < 0.6])
        low, high = balanced_interval(told, groups, groups < 12)
        hits += low <= 0.75 <= high
    assert 0.93 <= hits / 600 <= 0.985
    low, high = balanced_interval(np.ones(54), groups, groups < 12)
    assert high == 1.0 and low == pytest.approx(1 - np.hypot(3 / 12, 3 / 15) / 2)


def test_leaving_prompts_out_gives_the_interval_of_a_mean_where_that_is_known():
    values = np.random.default_rng(14).normal(size=20)
    left_out = np.array([np.delete(values, k).mean() for k in range(20)])
    half = stats.t.ppf(0.975, 19) * values.std(ddof=1) / 20**0.5
    assert jackknife_interval(values.mean(), left_out) == pytest.approx((values.mean() - half, values.mean() + half))
    assert jackknife_interval(1.0, np.ones(9), UP_TO_ONE) == pytest.approx((1, 1), abs=1e-9)
    assert jackknife_interval(0.99, 0.99 + 0.009 * np.linspace(-1, 1, 9), UP_TO_ONE)[1] < 1
    assert jackknife_interval(0.5, np.array([0.5, np.nan])) == (None, None) == jackknife_interval(0.5, np.array([0.5]))
    dealt = blocks([f"g{k:02d}" for k in range(50) for _ in range(2)])
    assert (dealt[::2] == dealt[1::2]).all() and set(np.bincount(dealt)) == {4, 6}, "prompts stay whole"


def test_images_without_a_judgement_are_left_out():
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


@pytest.mark.parametrize("prompts, repeats, effect", [(12, 2, 0.75), (25, 3, 0.45), (60, 1, 0.3)])
def test_a_planted_effect_is_found_with_the_predicted_power(prompts, repeats, effect):
    """Within 4 points of 4,000 trials. What both methods share cancels, so its size plays no part.

    Allowing for skewness costs 3 points of power where there is none and prompts are few.
    """
    rng, found, trials, parts = np.random.default_rng(7), 0, 200, 20
    predicted = power_of(prompts, effect, sd=1.0, icc=0.5, repeats=repeats)
    for _ in range(parts):
        noise = clustered(rng, prompts * trials, repeats, 0.5).mean(1).reshape(prompts, trials)
        low, high = paired_intervals(effect + noise, rate=False)
        found += np.sum((low > 0) | (high < 0))
    assert 0.4 < predicted < 0.95 and found / (trials * parts) == pytest.approx(predicted, abs=0.04)


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


def test_with_one_image_per_prompt_nothing_is_known_of_the_correlation_within_it_and_none_is_assumed():
    values = np.random.default_rng(3).normal(size=50)
    sd, icc = sd_and_icc(values, np.arange(50))
    assert icc == 0 and sd == pytest.approx(values.std(ddof=1))


def test_seven_concepts_are_given_and_eight_are_a_sample():
    bootstrap = Bootstrap(200)
    draws = np.repeat(np.arange(8.0)[:, None], 200, axis=1)  # each concept has one number, whatever its prompts
    assert np.ptp(bootstrap.over_concepts(draws[:7])) == 0 and np.ptp(bootstrap.over_concepts(draws)) > 0
    assert not bootstrap.keeps_prompts(7) and bootstrap.keeps_prompts(8)


def test_seeds_that_agree_add_no_spread_and_those_of_one_prompt_all_they_have():
    assert seed_spread(np.array([[1.0, 0.0], [0.0, 1.0]])) == 0, "equal means: what differs is the prompts"
    assert seed_spread(np.array([[1.0], [0.0], [0.0]])) == pytest.approx(1 / np.sqrt(6)), "one prompt holds no interaction to take off"
