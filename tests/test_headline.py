"""The headline score: its bounds, what may never raise it, and intervals that hold."""

import numpy as np
import pytest

from vestige.bench.statistics import headline
from vestige.bench.statistics.headline import FEW_THINGS, Rates, difference, headline_interval, over_concepts
from vestige.bench.statistics.resampling import Bootstrap

PARTS = ("target", "synonyms", "leak")


def made(r, o, z=None, kept=(0.9, 0.9), units=20, things=10, name="method", bootstrap=None, place="dog", **more):
    """A method whose prompts all have these rates; `r`, `o`, `z` one for each part."""
    full = {part: np.full(units, x) for part, x in zip(PARTS, r, strict=True)}
    parts = {part: Rates(full[part], np.full(units, o[k]), None if z is None else np.full(units, z[k])) for k, part in enumerate(PARTS)}
    stayed = Rates(*(np.full(things, x) for x in kept))
    return headline_interval(parts, stayed, bootstrap or Bootstrap(300), place, name, **more)


ORIGINAL = (0.9, 0.8, 0.6)


def test_the_original_scores_exactly_zero():
    found = made(ORIGINAL, ORIGINAL, kept=(0.9, 0.9), name="original")
    assert found.erased == found.score == (0, 0, 0) and found.kept == (1, 1, 1)


def test_blank_images_score_zero_and_a_perfect_method_one():
    assert made((0, 0, 0), ORIGINAL, kept=(0.0, 0.9)).score.value == 0
    perfect = made((0, 0, 0), ORIGINAL, kept=(0.9, 0.9))
    assert perfect.score.value == perfect.score.high == 1 and perfect.score.low < 1
    assert made((0, 0, 0), ORIGINAL, collapsed=True).score == (0, 0, 0)


def test_the_score_is_the_published_formula():
    found = made((0.3, 0.5, 0.2), ORIGINAL, (0.1, 0.05, 0.1), kept=(0.6, 0.8))
    shares = [(0.9 - 0.3) / 0.8, (0.8 - 0.5) / 0.75, (0.6 - 0.2) / 0.5]
    assert [found.parts[part].value for part in PARTS] == pytest.approx(shares)
    erased, kept = np.mean(shares), 0.75
    assert found.erased.value == pytest.approx(erased) and found.kept.value == pytest.approx(kept)
    assert found.score.value == pytest.approx(2 * erased * kept / (erased + kept))


def test_over_erasing_and_drawing_more_than_the_original_earn_nothing():
    z = (0.2, 0.1, 0.15)
    at, below = (made(r, ORIGINAL, z, kept=(0.95, 0.9)) for r in (z, (0.0, 0.0, 0.0)))
    assert at.erased.value == below.erased.value == pytest.approx(1) and at.kept.value == 1


def test_the_score_never_rises_with_a_leak_a_target_or_a_synonym_rate_and_never_falls_with_what_is_kept():
    rng = np.random.default_rng(0)
    for _ in range(300):
        o, z = rng.uniform(0.5, 1, 3), rng.uniform(0, 0.2, 3)
        r, kept = rng.uniform(0, 1, 3), rng.uniform(0, 1)

        def value(r, kept, o=o, z=z):
            e = np.mean(headline.erased(r, o, z))
            return float(headline.score(e, headline.kept(kept, 0.8)))

        now = value(r, kept)
        assert 0 <= now <= 1
        for part in range(3):
            worse = r.copy()
            worse[part] = rng.uniform(r[part], 1)
            assert value(worse, kept) <= now + 1e-12
        assert value(r, rng.uniform(0, kept)) <= now + 1e-12


def test_a_part_with_nothing_to_erase_is_left_out_and_none_left_is_no_score():
    found = made((0.1, 0.2, 0.05), (0.9, 0.3, 0.1), (0.0, 0.2, 0.0))
    assert set(found.parts) == {"target"} and "30 %" in found.left_out["synonyms"] and "20 %" in found.left_out["synonyms"]
    assert found.erased.value == pytest.approx(8 / 9)
    none = made((0.1, 0.1, 0.1), (0.1, 0.1, 0.1))
    assert none.reason.startswith("no score: target: nothing to erase") and np.isnan(none.score.value)
    assert np.isnan(difference(none, found).value) and over_concepts([found, none], Bootstrap(300)).reason == none.reason
    assert "nothing of what should stay" in made((0, 0, 0), ORIGINAL, kept=(0.0, 0.0)).reason


def test_a_span_of_exactly_a_fifth_counts():
    assert headline.erased(0.1, 0.3, 0.1) == 1, "0.3 - 0.1 is less than 0.2 by rounding"
    assert np.isnan(headline.erased(0.1, 0.29, 0.1))


def test_eight_equal_answers_have_an_unseen_side_and_differ_by_nothing_sure():
    bootstrap = Bootstrap(1000)
    one, two = (made((0, 0, 0), ORIGINAL, kept=(0.9, 0.9), units=8, things=8, name=name, bootstrap=bootstrap) for name in ("uce", "esd"))
    assert one.erased.value == 1 and one.erased.low < 0.97
    gap = difference(one, two)
    assert gap.value == 0 and gap.low < -0.02 and gap.high > 0.02
    original = made(ORIGINAL, ORIGINAL, name="original", bootstrap=bootstrap)
    assert difference(original, original) == (0, 0, 0)


def test_kept_rests_on_things_and_says_on_how_many():
    rng = np.random.default_rng(1)
    rates = rng.integers(0, 2, 4).astype(float)
    few = headline_interval({"target": Rates(np.zeros(8), np.ones(8))}, Rates(rates, np.ones(4)), Bootstrap(500))
    many = headline_interval({"target": Rates(np.zeros(8), np.ones(8))}, Rates(np.tile(rates, 8), np.ones(32)), Bootstrap(500))
    assert few.things == 4 < FEW_THINGS <= many.things == 32
    assert few.kept.value == many.kept.value and few.kept.high - few.kept.low > 1.5 * (many.kept.high - many.kept.low)


def test_prompts_that_a_judge_could_not_judge_are_left_out_for_all_models():
    r, o = np.array([0.0, np.nan, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, np.nan])
    found = headline_interval({"target": Rates(r, o)}, Rates(np.ones(8), np.ones(8)), Bootstrap(300))
    assert found.erased.value == 0.5 and found.units == 2
    with pytest.raises(ValueError, match="same units"):
        Rates(np.zeros(3), np.zeros(4)).judged()
    never = Rates(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    lost = headline_interval({"leak": never}, Rates(np.ones(8), np.ones(8)), Bootstrap(300))
    assert lost.reason == "no score: leak: no prompt was judged for every model" and np.isnan(lost.score.value)
    assert (lost.things, lost.units) == (0, 0), "it rests on nothing"


def test_seeds_that_differ_widen_the_interval():
    rng, things = np.random.default_rng(2), Rates(np.ones((3, 10)), np.ones(10))
    same = rng.integers(0, 2, 20).astype(float) * 0.5
    apart = np.clip(same + np.array([[-0.3], [0.0], [0.3]]), 0, 1)
    widths = []
    for method in (np.stack([same] * 3), apart):
        score = headline_interval({"target": Rates(method, np.ones(20))}, things, Bootstrap(1000)).score
        widths.append(score.high - score.low)
    assert widths[1] > 1.5 * widths[0]


def test_few_concepts_are_given_and_many_are_a_sample():
    bootstrap, rng = Bootstrap(1000), np.random.default_rng(3)
    each = [made((rate,) * 3, ORIGINAL, place=str(k), bootstrap=bootstrap) for k, rate in enumerate(rng.uniform(0, 0.5, 10))]
    few, many = over_concepts(each[:3], bootstrap), over_concepts(each, bootstrap)
    for found, some in ((few, each[:3]), (many, each)):
        assert found.score.value == pytest.approx(np.mean([h.score.value for h in some]))
        assert found.score.low < found.score.value < found.score.high
    spread = np.std([h.score.value for h in each], ddof=1) / 10**0.5
    assert (many.score.high - many.score.low) / 2 == pytest.approx(2.26 * spread, rel=0.15)


def test_a_difference_reaches_no_further_than_the_two_intervals():
    """A method of 0.9 beside one of 1 cannot lead by more than the 0 to 0.1 that its interval leaves."""
    bootstrap, n = Bootstrap(), 20
    asked = {"target": Rates((np.arange(n) < 2).astype(float), np.ones(n), np.zeros(n))}
    best = {"target": Rates(np.zeros(n), np.ones(n), np.zeros(n))}
    things = Rates(np.ones(8), np.ones(8))
    one, two = (headline_interval(parts, things, bootstrap, name=name) for parts, name in ((asked, "one"), (best, "oracle")))
    gap = difference(one, two)
    assert two.score.value == 1 and gap.value < 0
    assert one.score.low - two.score.high <= gap.low <= gap.value <= gap.high <= one.score.high - two.score.low <= 0.1
