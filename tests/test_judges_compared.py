"""Agreement of judges and rates freed from their errors: worked examples, simulations, and stored scores."""

import json

import numpy as np
import pandas as pd
import pytest
from made_results import make_places

from vestige.bench.reports import leaderboard, results
from vestige.bench.reports.judges_compared import agreement, corrected_presence
from vestige.bench.reports.score_table import ScoreTable
from vestige.bench.statistics.agreement import cohen_kappa, rogan_gladen


def test_kappa_of_a_worked_table():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, expected 0.5
    a = np.array([1] * 25 + [0] * 25)
    b = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(np.array(["dog", "cat"])[a], np.array(["dog", "cat"])[b]) == pytest.approx(0.4), "labels may be words"


def test_kappa_of_equal_opposite_random_and_constant_judges():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 4000)
    assert cohen_kappa(a, a) == 1 and cohen_kappa(a, 1 - a) < -0.9
    assert abs(cohen_kappa(a, rng.permutation(a))) < 0.05
    assert abs(cohen_kappa((rng.random(4000) < 0.9), (rng.random(4000) < 0.9))) < 0.06, "82 % equal answers by chance are no agreement"
    assert np.isnan(cohen_kappa(np.ones(5), np.ones(5)))
    assert cohen_kappa(np.array([1.0, 0, np.nan, 1]), np.array([1.0, 0, 1, np.nan])) == 1
    with pytest.raises(ValueError, match="got 2 and 3"):
        cohen_kappa([0, 1], [0, 1, 1])


def test_rogan_gladen_recovers_the_true_share_from_a_judge_with_known_errors():
    rng, se, sp = np.random.default_rng(0), 0.85, 0.9
    for share in (0.0, 0.3, 1.0):
        shown = rng.random(200_000) < share
        yes = np.where(shown, rng.random(len(shown)) < se, rng.random(len(shown)) < 1 - sp)
        assert rogan_gladen(yes.mean(), se, sp) == pytest.approx(share, abs=0.01)
        assert abs(yes.mean() - share) > 0.01
    assert rogan_gladen(0.4, 1, 1) == pytest.approx(0.4) and rogan_gladen(0.02, 0.9, 0.95) == 0
    with pytest.raises(ValueError, match="random or the wrong way"):
        rogan_gladen(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"rate=1\.2"):
        rogan_gladen(1.2, 1, 1)


def with_second_judge(records, store, flipped: int):
    """The same images answered by another judge, which differs on `flipped` images of every set."""
    for file in sorted(records.glob("*.json")):
        record = json.loads(file.read_text())
        more = []
        for cell in record["cells"]:
            table = pd.read_csv(store / cell["score"] / "per_image.csv", dtype={"row_id": str})
            table.loc[: flipped - 1, "present"] = 1 - table.loc[: flipped - 1, "present"]
            (store / f"{cell['score']}-b").mkdir()
            table.to_csv(store / f"{cell['score']}-b" / "per_image.csv", index=False)
            more.append(cell | {"judge": "other judge", "score": f"{cell['score']}-b", "value": float(table["present"].mean())})
        file.write_text(json.dumps(record | {"cells": record["cells"] + more}))


def test_two_judges_of_the_same_images_are_compared_and_the_table_says_so(tmp_path):
    records, store = make_places(tmp_path)
    assert agreement(results.load(records, store), ScoreTable(store)).empty, "one judge agrees with nobody"
    with_second_judge(records, store, 1)
    score_table = ScoreTable(store)
    (pair,) = agreement(results.load(records, score_table), score_table).to_dict("records")
    assert (pair["judge"], pair["other"], pair["n"]) == ("judge", "other judge", 5 * 2 * 3 * 10)
    assert pair["agreement"] == pytest.approx(0.9) and 0.7 < pair["kappa"] < 0.9
    text = leaderboard.table(results.load(records, score_table), "md", score_table)
    assert f"Judges judge and other judge agree on 90 % of 300 images (Cohen's kappa {pair['kappa']:.2f})." in text


def test_presence_is_corrected_with_the_original_s_own_rates():
    head = {"model": "m", "sampler": "s", "concept": "dog", "attack": "none", "judge": "j", "metric": "presence", "column": "present"}
    head |= {"protocol": "", "role": "target"}
    cells = [head | {"method": m, "split": "target", "value": v} for m, v in (("original", 0.9), ("uce", 0.14), ("esd", 0.05))]
    leaks = head | {"method": "original", "split": "others", "role": "other", "metric": "answers", "column": "seen", "value": 0.1}
    table = corrected_presence(pd.DataFrame([*cells, leaks])).set_index("method")
    assert table["corrected"].to_dict() == pytest.approx({"original": 1, "uce": 0.05, "esd": 0})
    assert table["raw"]["uce"] == 0.14 and table["specificity"].unique() == [0.9]
    elsewhere = [{**leaks, "value": 0.9, "protocol": "p"}, {**cells[0], "value": 0.2, "protocol": "p"}]
    again = corrected_presence(pd.DataFrame([*cells, leaks, *elsewhere])).set_index("method")
    assert again["corrected"]["uce"] == pytest.approx(0.05), "rates of another protocol calibrate nothing here"
    assert corrected_presence(pd.DataFrame(cells)).empty, "without calibration nothing is corrected"
