"""The worst case over attacks: what is united, what is not, and what is compared, on made-up scores whose answers are known."""

import json

import numpy as np
import pandas as pd
import pytest
from made_results import ROWS, cell, write_record

from vestige.bench.reports import results, robustness, worst_case
from vestige.bench.reports.score_table import WORST, ScoreTable


@pytest.fixture
def places(tmp_path):
    (tmp_path / "records").mkdir()
    return tmp_path / "records", tmp_path / "store"


def attacked(store, method, attack, shown, access="images", key=""):
    """A cell whose images in `shown` (numbers, or NaN by "n<number>") show the concept."""
    made = cell(store, f"dog{key}", method, "target", attack, 0.0, False) | {"access": "none" if attack == "none" else access}
    values = np.zeros(ROWS)
    for one in shown:
        values[int(str(one).lstrip("n"))] = np.nan if str(one).startswith("n") else 1.0
    file = store / made["score"] / "per_image.csv"
    pd.read_csv(file, dtype={"row_id": str}).assign(present=values).to_csv(file, index=False)
    return made | {"value": float(np.nanmean(values))}


def loaded(places):
    score_table = ScoreTable(places[1])
    return results.load(places[0], score_table), score_table


def worst(places, **chosen):
    frame = loaded(places)[0]
    found = frame[frame["attack"] == WORST]
    for name, value in chosen.items():
        found = found[found[name] == value]
    return found


def test_attacks_of_two_commands_on_one_model_are_united(places):
    records, store = places
    plain = attacked(store, "good", "none", [0])
    write_record(records, "dog", "good", [plain, attacked(store, "good", "a", [1, 2])], key="first")
    write_record(records, "dog", "good", [plain, attacked(store, "good", "b", [2, 3])], key="second")
    found = worst(places)
    assert found["value"].tolist() == [pytest.approx(0.4)], "images 0 to 3, and not the mean of 0.3 and 0.3"
    assert found["worst_attacks"].tolist() == ["a, b"]


def test_records_whose_unattacked_images_differ_are_of_other_models(places):
    records, store = places
    for k in range(2):
        cells = [attacked(store, "good", "none", [], key=k), attacked(store, "good", "a", [k], key=k)]
        write_record(records, "dog", "good", cells, key=str(k))
    assert worst(places)["value"].tolist() == [pytest.approx(0.1)] * 2


def test_erasure_seeds_are_no_attacks(places):
    """Each of two seeds gives way on other images: 0.3 and 0.5, and not 0.8 in one."""
    records, store = places
    for seed, shown in enumerate(([0, 1, 2], [3, 4, 5, 6, 7])):
        cells = [attacked(store, "good", "none", [], key=seed), attacked(store, "good", "a", shown, key=seed)]
        write_record(records, "dog", "good", cells, key=str(seed), seed=seed)
    assert sorted(worst(places)["value"]) == [pytest.approx(0.3), pytest.approx(0.5)]
    table = robustness.by_access(*loaded(places)).set_index("method")
    assert table.loc["good", ["value", "seeds"]].tolist() == [pytest.approx(0.4), 2]
    assert table.loc["good", "ci_low"] < 0.3 and table.loc["good", "ci_high"] > 0.5, "the interval holds the spread of seeds"


def test_the_unattacked_images_count_at_every_access(places):
    """Unattacked 1.0 can never be a worst case of 0.5."""
    records, store = places
    cells = [attacked(store, "good", "none", range(ROWS))]
    cells += [attacked(store, "good", "a", [0], "text"), attacked(store, "good", "b", [1], "weights")]
    write_record(records, "dog", "good", cells)
    table = robustness.by_access(*loaded(places))
    assert table["value"].tolist() == [1.0, 1.0] and table["access"].tolist() == ["text", "weights"]


def test_a_worst_case_never_falls_with_more_access(places):
    records, store = places
    cells = [attacked(store, "good", "none", [0])]
    cells += [attacked(store, "good", "a", [1, 2], "text"), attacked(store, "good", "b", [], "images")]
    cells += [attacked(store, "good", "c", [3], "weights")]
    write_record(records, "dog", "good", cells)
    assert robustness.by_access(*loaded(places))["value"].tolist() == pytest.approx([0.3, 0.3, 0.4])


def test_an_image_that_one_judgement_misses_counts_by_the_others(places):
    records, store = places
    cells = [attacked(store, "good", "none", [0, "n1", "n2"])]
    cells += [attacked(store, "good", "a", ["n0", 1, "n2"]), attacked(store, "good", "b", ["n0", "n2"])]
    write_record(records, "dog", "good", cells)
    frame = loaded(places)[0]
    found = frame[frame["attack"] == WORST].iloc[0]
    assert found["value"] == pytest.approx(2 / 9), "images 0 and 1 are successes; image 2 was never judged"
    assert found["ci_low"] <= found["value"] <= found["ci_high"]
    rates = frame[frame["attack"] == "a"].iloc[0]
    assert rates["either"] == pytest.approx(2 / 9) and rates["before"] == pytest.approx(1 / 8)
    assert rates["failed_before"] == 7 and rates["after_failing"] == 0
    assert robustness.by_access(frame, ScoreTable(places[1]))["value"].tolist() == pytest.approx([2 / 9])


def test_a_union_is_empty_only_where_nothing_was_judged():
    a, b = np.array([0, np.nan, np.nan, 1.0]), np.array([np.nan, 1.0, np.nan, 0.0])
    assert np.array_equal(worst_case.union([a, b]), [0, 1, np.nan, 1], equal_nan=True)


def test_methods_are_compared_on_the_attacks_that_all_of_them_met(places):
    """filter has no weights to tune: relearning counts for none in `value`, and stands apart for those that met it."""
    records, store = places
    for method, relearnt in (("original", range(ROWS)), ("weights", [1, 2, 3])):
        cells = [attacked(store, method, "none", []), attacked(store, method, "words", [0])]
        write_record(records, "dog", method, [*cells, attacked(store, method, "relearning", relearnt, "weights")])
    write_record(records, "dog", "filter", [attacked(store, "filter", "none", []), attacked(store, "filter", "words", [0, 1])])
    found = worst(places).set_index("method")
    assert found["value"].to_dict() == pytest.approx({"original": 0.1, "weights": 0.1, "filter": 0.2})
    assert set(found["worst_attacks"]) == {"words"} and found.loc["weights", "own_attacks"] == "relearning, words"
    assert found["own_value"].to_dict() == pytest.approx({"original": 1.0, "weights": 0.4, "filter": 0.2})
    assert found.loc["filter", "diff"] == pytest.approx(0.1), "against the original under the same attack"


def test_methods_without_an_attack_in_common_are_not_compared(places):
    records, store = places
    for method, attack in (("one", "a"), ("other", "b")):
        write_record(records, "dog", method, [attacked(store, method, "none", []), attacked(store, method, attack, [0])])
    found = worst(places)
    assert found["value"].isna().all() and found["own_value"].tolist() == pytest.approx([0.1, 0.1])
    assert set(found["reason"]) == {"no attack was run on every method, see each method's own worst case"}
    assert not found["leads"].any()


def test_two_judges_of_one_record_are_never_joined(places):
    records, store = places
    first = [attacked(store, "good", "none", []), attacked(store, "good", "a", [0])]
    second = [c | {"judge": "strict"} for c in (attacked(store, "good", "none", [], key=1), attacked(store, "good", "a", [], key=1))]
    write_record(records, "dog", "good", first + second)
    assert dict(zip(worst(places)["judge"], worst(places)["value"], strict=True)) == {"judge": pytest.approx(0.1), "strict": 0}


def test_a_method_that_was_never_attacked_does_not_empty_the_common_set(places):
    records, store = places
    write_record(records, "dog", "original", [attacked(store, "original", "none", range(ROWS))])
    write_record(records, "dog", "good", [attacked(store, "good", "none", []), attacked(store, "good", "a", [0])])
    found = worst(places)
    assert found["method"].tolist() == ["good"] and found["worst_attacks"].tolist() == ["a"]
    assert json.dumps(found["value"].tolist()) == "[0.1]"
