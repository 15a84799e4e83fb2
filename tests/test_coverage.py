"""Intervals hold the truth: a part of benchmarks/coverage.py with bars. The whole of it is in results/bench/coverage.md."""

import numpy as np

from benchmarks import coverage
from benchmarks.coverage import Cell, cells, distinct, shipped


def held(cells: list[Cell], trials: int, asked=distinct) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for cell in cells:
        for what, share in coverage.coverage(cell, trials, asked).items():
            found.setdefault(what, []).append(share)
    return found


def some(*names: str, seeds: int = 1, edge: bool = False) -> list[Cell]:
    return [c for c in cells() if c.what in names and c.repeats != 2 and c.seeds == seeds and c.edge == edge and c.correlation != 0.3]


def test_rates_distances_differences_and_the_worst_case_are_held():
    asked = some("rate", "distance", "difference of rates", "difference of distances", "worst case over three attacks")
    for what, shares in held([cell for cell in asked if cell.prompts != 20], 600).items():
        assert 0.93 <= np.mean(shares) <= 0.98 and min(shares) >= 0.9, (what, np.mean(shares), min(shares))


def test_truths_of_0_and_1_are_held():
    for what, shares in held(some("rate", "difference of rates", edge=True), 200).items():
        assert min(shares) >= 0.95, what
    scores = [Cell("score", 8, 1, 0.0, case, True) for case in coverage.SCORES if case.endswith(")")]
    for what, shares in held(scores, 150).items():
        assert min(shares) >= 0.95, what


def test_the_score_and_its_parts_are_held():
    for what, shares in held([c for c in some("score") if c.case != "well erased" and c.prompts == 20], 250).items():
        assert np.mean(shares) >= 0.92 and min(shares) >= 0.9, (what, shares)


def test_three_erasure_seeds_are_held():
    for what, shares in held([c for c in some("rate", "distance", "difference of rates", seeds=3) if c.prompts == 20], 400).items():
        assert min(shares) >= 0.9, what
    assert min(held([Cell("score", 20, 1, 0.0, "half erased", seeds=3)], 250)["score"]) >= 0.9


def test_the_shipped_prompts_give_intervals_that_hold():
    asked = [Cell("rate", n, repeats, correlation, "0.3") for n in (8, 20, 40) for repeats, correlation in ((1, 0.0), (4, 0.6))]
    assert min(held(asked, 500, shipped)["rate"]) >= 0.9


def test_a_sentence_asked_again_as_another_prompt_would_be_caught():
    """Six sentences that count as sixteen prompts."""
    again = coverage.Asked(np.arange(16) % 6, np.arange(16))
    assert held([Cell("rate", 8, 1, 0.6, "0.3")], 500, lambda rows: again)["rate"][0] < 0.93
