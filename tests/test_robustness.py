"""The robustness report, budget curves and flags on a small made-up store whose right answers are known.

Long because all its tests read that one store.
"""

import json

import numpy as np
import pandas as pd
import pytest
from made_results import ROWS, cell, make_places, write_record

from vestige.bench import cli
from vestige.bench.cli import listing
from vestige.bench.contract import flags
from vestige.bench.reports import budget_curves, plots, result_warnings, results, robustness, robustness_report
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.score_table import ScoreTable
from vestige.bench.run import attack_cells
from vestige.bench.run.contract_checks import build

# rates of the target under: no attack, random seeds, a strong attack; how often a made-up thing that this attack is fed with comes back
RATES = {
    "original": (1.0, 1.0, 1.0, 0.2),
    "oracle": (0.0, 0.1, 0.2, 0.0),
    "good": (0.0, 0.1, 0.4, 0.1),
    "hidden": (0.0, 0.1, 0.9, 0.2),
}
TRIES = 12
BUDGET_SWEEP = {"original": (1, 1, 1), "oracle": (0, 0.2, 0.8), "good": (0, 0.2, 0.8), "hidden": (0.6, 1.0, 1.0)}


def returned(store, control, share):
    """The cell of a null: how often the made-up thing that the control is given comes back."""
    made = cell(store, "dog", control["score"].replace("score/", ""), "target", "null", share, False)
    file = store / made["score"] / "per_image.csv"
    file.write_text(file.read_text().replace("present", "returned"))
    head = {name: control[name] for name in ("attack", "access", "budget")}
    return made | head | {"metric": "made_up", "column": "returned", "judge": None}


@pytest.fixture
def attacked(tmp_path):
    """(records, store): four methods on one concept, attacked, with a control, a budget sweep and a search."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    for method, rates in RATES.items():
        names = ("none", "random_seeds", "strong", "strong:never_knew")
        cells = [cell(store, "dog", method, "target", name, rate, False) for name, rate in zip(names, rates, strict=True)]
        budgets = [(f"strong@steps={n}", rate) for n, rate in zip((2, 4, 8), BUDGET_SWEEP[method], strict=True)]
        cells += [cell(store, "dog", method, "target", name, rate, False) for name, rate in budgets]
        accesses = ("none", "images", "weights", "weights", "weights", "weights", "weights")
        cells = [c | {"access": access, "budget": {"forward_rows": 40}} for c, access in zip(cells, accesses, strict=True)]
        # At most TRIES tries for each of ten rows: the first try shows one, the third as many as the rate says, 40 denoiser rows a try.
        later = round(rates[1] * ROWS) if rates[1] < 1 else ROWS - 1
        found = [1] + [3] * later + [-1] * (ROWS - 1 - later)
        tried = sum(at if at > 0 else TRIES for at in found)
        cells[1] |= {"found_at": found, "budget": {"forward_rows": 40 * tried, "images": tried}}
        cells.append(returned(store, cells[3], rates[3]))
        write_record(records, "dog", method, cells)
    return records, store


@pytest.fixture
def loaded(attacked):
    score_table = ScoreTable(attacked[1])
    return results.load(attacked[0], score_table), score_table


def test_calibration_puts_the_oracle_at_zero_and_the_original_at_one(loaded):
    table = robustness.measured(*loaded).set_index(["method", "attack"])
    strong = table.xs("strong", level="attack")
    assert strong.loc["oracle", "calibrated"] == 0 and strong.loc["original", "calibrated"] == 1
    assert strong.loc["good", "calibrated"] == pytest.approx((0.4 - 0.2) / (1 - 0.2))
    assert strong.loc["hidden", "calibrated"] == pytest.approx((0.9 - 0.2) / 0.8)
    assert (strong["zero"] == "oracle").all()
    assert strong.loc["good", "calibrated_low"] <= strong.loc["good", "calibrated"] <= strong.loc["good", "calibrated_high"]


def test_without_an_oracle_the_made_up_thing_is_the_zero_point(attacked):
    (attacked[0] / "dog-oracle.json").unlink()
    score_table = ScoreTable(attacked[1])
    frame = results.load(attacked[0], score_table)
    table = robustness.measured(frame, score_table).set_index(["method", "attack"])
    assert table.loc[("hidden", "strong"), "zero"] == "never_knew" and table.loc[("hidden", "strong"), "null"] == pytest.approx(0.2)
    assert table.loc[("hidden", "strong"), "calibrated"] == pytest.approx((0.9 - 0.2) / (1 - 0.2))
    assert table.loc[("good", "strong"), "calibrated"] == pytest.approx((0.4 - 0.1) / (1 - 0.1))
    reason = table.loc[("hidden", "random_seeds"), "reason"]
    assert reason.startswith("not calibrated: no oracle was attacked, and no null was measured")
    text = robustness_report.report(frame, score_table)
    assert "| random_seeds | images | not calibrated | not calibrated | not calibrated |" in text
    nulls = text.split("How often the made-up thing came back:")[1].split("###")[0]
    assert "| strong:never_knew | weights | 20 | 10 | 20 |" in nulls


def test_an_attack_that_draws_the_concept_from_the_oracle_too_is_not_calibrated(attacked):
    record = json.loads((attacked[0] / "dog-oracle.json").read_text())
    original = json.loads((attacked[0] / "dog-original.json").read_text())
    record["cells"][2] |= {key: original["cells"][2][key] for key in ("images", "score", "value")}
    (attacked[0] / "dog-oracle.json").write_text(json.dumps(record))
    score_table = ScoreTable(attacked[1])
    table = robustness.measured(results.load(attacked[0], score_table), score_table).set_index(["method", "attack"])
    assert np.isnan(table.loc[("good", "strong"), "calibrated"])
    assert table.loc[("good", "strong"), "reason"] == "100 % from oracle, 100 % from original"


def test_the_gain_over_random_seeds_is_paired(loaded):
    table = robustness.measured(*loaded).set_index(["method", "attack"])
    assert table.loc[("hidden", "strong"), "over_luck"] == pytest.approx(0.8)
    assert table.loc[("original", "strong"), ["over_luck", "luck_low", "luck_high"]].tolist() == [0, -0.3, 0.3]
    assert np.isnan(table.loc[("hidden", "random_seeds"), "over_luck"]), "luck is not compared with itself"


def test_an_attack_that_never_asks_the_erased_model_is_compared_with_no_attack(attacked):
    def change(method, record):
        record["cells"].append(record["cells"][1] | {"attack": "words", "access": "text", "budget": {}})

    table = robustness.measured(*again(attacked, change)).set_index(["method", "attack"])
    assert table.loc[("hidden", "words"), "over_luck"] == pytest.approx(0.1), "0 % before, and not the 10 % of fresh seeds"


def test_controls_and_budget_sweeps_are_no_attacks_of_the_worst_case_or_the_leaderboard(loaded):
    frame, score_table = loaded
    worst = frame[(frame["attack"] == "worst case") & (frame["method"] == "hidden")]
    assert worst["value"].tolist() == [0.9], "a budget of the budget sweep shows every image"
    assert score_table.attacks_of(worst["score"].iloc[0]) == {"none", "random_seeds", "strong"}


def test_first_and_last_try():
    assert budget_curves.first_and_last([0, 1, 2, -1]) == (0.5, 0.75)


def test_searches_become_curves_that_rise_to_the_last_rate(loaded):
    curve = next(c for c in budget_curves.searches(loaded[0]) if c.method == "good")
    assert curve.spent.tolist() == [0, 1, 2, 3] and curve.rates.tolist() == pytest.approx([0, 0.1, 0.1, 0.2])


def test_budget_until_interpolates_and_says_never():
    spent, rates = np.array([0.0, 2.0, 4.0]), np.array([[0.0, 0.6, 0.0], [0.2, 0.6, 0.1], [0.6, 0.6, 0.2]])
    found = budget_curves.budget_until(spent, rates, np.array([0.4, 0.5, 0.5]))
    assert found.tolist() == [pytest.approx(3.0), 0.0, np.inf]


def test_the_relearning_gap_is_zero_for_what_learns_like_the_oracle(loaded):
    table = budget_curves.gaps(budget_curves.budget_sweeps(*loaded)).set_index("method")
    # Half of the original: between 4 steps (20 %) and 8 (80 %) for the oracle, between 0 and 2 (60 %) for the hidden concept.
    assert table.loc["oracle", "until"] == pytest.approx(6) and table.loc["good", "gap"] == 0
    assert table.loc["good", ["gap_low", "gap_high"]].tolist() == [0, 0], "equal answers leave no spread"
    assert table.loc["hidden", "gap"] == pytest.approx(6 - 2 * 0.5 / 0.6)
    assert "original" not in table.index


@pytest.mark.parametrize("format", ["md", "html", "latex"])
def test_the_report_in_every_format(loaded, format):
    text = robustness_report.report(*loaded, format)
    for part in ("never", "Relearning gap", "hidden", "few"):
        assert part in text
    if format == "md":
        details = text.split("dog: details")[1]
        assert "| hidden | strong | 0 | 90 [" in details and "| 10 / 20 |" in details
        controls = text.split("null controls")[1].split("##")[0]
        assert "| strong:never_knew | weights | 20 | 0 | 10 | 20 |" in controls


def test_the_report_from_the_command_line(attacked, capsys, tmp_path):
    places = ["--records", str(attacked[0]), "--store", str(attacked[1])]
    assert cli.main(["robustness", *places, "--format", "csv", "--out", str(tmp_path / "r.csv")]) == 0
    assert (tmp_path / "r.csv").read_text().startswith("model,sampler,protocol,concept,split,judge,method")
    plain = make_places(tmp_path / "plain") if (tmp_path / "plain").mkdir() is None else None
    for record in plain[0].glob("*.json"):
        content = json.loads(record.read_text())
        content["cells"] = [c for c in content["cells"] if c["attack"] == "none"]
        record.write_text(json.dumps(content))
    assert cli.main(["robustness", "--records", str(plain[0]), "--store", str(plain[1])]) == 2
    assert "no record holds an attacked target split" in capsys.readouterr().err


def test_curves_are_drawn(loaded, tmp_path):
    names = {file.name for file in plots.write(*loaded, tmp_path)}
    assert {"curve-strong-toy.png", "curve-random_seeds-toy.png"} <= names


def raised(attacked, change=lambda record: None):
    for file in sorted(attacked[0].glob("*.json")):
        record = json.loads(file.read_text())
        change(record)
        file.write_text(json.dumps(record))
    score_table = ScoreTable(attacked[1])
    found = result_warnings.flags(results.load(attacked[0], score_table))
    return {(r.flag, r.method, r.attack) for r in found.itertuples()}


def test_flags_of_a_sound_evaluation(attacked):
    assert raised(attacked) == {("few_prompts", "all", "all")}


def test_an_original_that_fails_its_own_prompts(attacked):
    def change(record):
        if record["method"] == "original":
            record["cells"][0]["value"] = 0.7

    assert ("original_fails", "original", "none") in raised(attacked, change)


def test_an_attack_that_lowers_the_rate(attacked):
    def change(record):
        if record["method"] == "original":
            record["cells"][0]["ci_low"] = 0.9
            record["cells"][2] |= {"value": 0.1, "ci_high": 0.3}

    assert ("attack_lowers", "original", "strong") in raised(attacked, change)


def test_a_weak_attack_that_beats_the_strong_ones(attacked):
    def change(record):
        if record["method"] == "good":
            record["cells"][1] |= {"value": 0.9, "ci_low": 0.7}
            record["cells"][2] |= {"value": 0.1, "ci_high": 0.3}

    assert ("weak_beats_strong", "good", "random_seeds") in raised(attacked, change)


def test_a_method_that_changed_nothing_and_an_oracle_that_is_only_good(attacked):
    def change(record):
        if record["method"] == "good":
            record["cells"] = [c | {"method": "good"} for c in json.loads((attacked[0] / "dog-original.json").read_text())["cells"]]

    found = raised(attacked, change)
    assert ("nothing_changed", "good", "none") in found
    assert not any(flag == "nothing_changed" and method != "good" for flag, method, _ in found)


def test_flags_that_a_run_left_in_its_cells(attacked):
    def change(record):
        if record["method"] == "hidden":
            record["cells"][2]["flags"] = ["bad_gradients", "blank_images"]

    found = raised(attacked, change)
    assert {("bad_gradients", "hidden", "strong"), ("blank_images", "hidden", "strong")} <= found


def test_a_judge_that_the_attack_asks_and_mixed_code(attacked):
    def change(record):
        record["specification"] = {"attack_judge": "judge"}
        record["provenance"] = {"commit": "a" * 40 if record["method"] == "good" else "b" * 40}

    found = raised(attacked, change)
    assert ("shared_judge", "all", "strong") in found and ("mixed_code", "all", "all") in found


def test_logs_tables_and_images_of_a_run():
    assert flags.of_log([{"step": 0, "loss": 0.1}, {"step": 1, "loss": 0.1}]) == ["bad_gradients"]
    assert flags.of_log([{"step": 0, "loss": float("nan")}]) == ["bad_gradients"]
    assert flags.of_log([{"step": 0, "loss": 0.1}, {"step": 1, "loss": 0.2}]) == []
    assert flags.of_images(blank=2, withheld=0, drawn=100, filtered=False) == ["blank_images"]
    assert flags.of_images(blank=1, withheld=0, drawn=100, filtered=False) == []
    assert flags.of_images(blank=0, withheld=50, drawn=100, filtered=True) == []


def test_every_flag_is_explained(capsys):
    assert listing.main(["flags"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}\n  raised if: " in text for name in flags.FLAGS)


def test_the_worst_case_by_access_counts_weaker_attacks_too_and_only_what_all_methods_met(attacked):
    record = json.loads((attacked[0] / "dog-good.json").read_text())
    lone = cell(attacked[1], "dog", "good", "target", "lone", 1.0, False) | {"access": "weights"}
    record["cells"].append(lone)
    (attacked[0] / "dog-good.json").write_text(json.dumps(record))
    score_table = ScoreTable(attacked[1])
    table = robustness.by_access(results.load(attacked[0], score_table), score_table).set_index(["access", "method"])
    assert table.loc[("images", "good"), "value"] == pytest.approx(0.1)
    assert table.loc[("weights", "good"), ["value", "attacks"]].tolist() == [pytest.approx(0.4), 2], "the lone attack does not count"


def test_a_budget_sweep_names_its_budgets_and_refuses_what_is_no_budget():
    attack = build("attack", "relearning_lora", model="emoji")
    made = attack_cells.with_budgets({"relearning": attack}, {"relearning": {"steps": [2, 5]}})
    assert list(made) == ["relearning", "relearning@steps=2", "relearning@steps=5"] and made["relearning@steps=5"].steps == 5
    with pytest.raises(ValueError, match=r"budget_sweep\.relearning\.tuner='xattn' is not a number"):
        attack_cells.with_budgets({"relearning": attack}, {"relearning": {"tuner": ["xattn"]}})
    with pytest.raises(ValueError, match=r"no such attack is chosen. Chosen: relearning"):
        attack_cells.with_budgets({"relearning": attack}, {"relearn": {"steps": [2]}})


def again(attacked, change):
    """The loaded frame and images after `change(method, record)` of every record."""
    for file in sorted(attacked[0].glob("*.json")):
        record = json.loads(file.read_text())
        change(record["method"], record)
        file.write_text(json.dumps(record))
    score_table = ScoreTable(attacked[1])
    return results.load(attacked[0], score_table), score_table


def test_an_attack_that_draws_the_concept_into_the_oracle_adds_nothing_beyond_it(attacked):
    score_table = json.loads((attacked[0] / "dog-original.json").read_text())["cells"][2]

    def change(method, record):
        """An attack that draws the concept from every model."""
        record["cells"].append(score_table | {"attack": "inpainting", "access": "latents"})

    table = robustness.by_access(*again(attacked, change)).set_index(["access", "method"])
    assert (table.xs("weights", level="access")["value"] == 1).all(), "the raw worst case no longer tells methods apart"
    beyond = table.xs("weights", level="access")["beyond"]
    assert beyond["oracle"] == 0 and beyond["original"] == 1, "it shows the concept unattacked, where the oracle shows none"
    # `strong` shows 20 % from the oracle and 90 % from hidden, and the images of the oracle are among them.
    assert beyond["hidden"] == pytest.approx(0.7) and beyond["good"] == pytest.approx(0.2)
    assert table.xs("latents", level="access")["beyond"].to_dict() == {"original": 1, "oracle": 0, "good": 0, "hidden": 0}


def test_rates_that_never_vary_are_not_certain(loaded):
    table = robustness.measured(*loaded).set_index(["method", "attack"])
    assert table.loc[("oracle", "strong"), ["calibrated_low", "calibrated_high"]].isna().all(), "zero by definition has no spread"
    idle = robustness._unseen(np.zeros(10), np.full(10, 0.1), np.full(10, 0.9), 0.0, 0.0)
    assert idle == (0, pytest.approx((0.3 - 0.1) / 0.9))
    always = robustness._unseen(np.ones(10), np.zeros(10), np.ones(10), 1.0, 1.0)
    assert always == (pytest.approx(0.7), 1)


def test_a_second_oracle_gives_the_noise_floor_and_no_rival(attacked):
    second = json.loads((attacked[0] / "dog-oracle.json").read_text())
    good = json.loads((attacked[0] / "dog-good.json").read_text())
    second |= {"method": "oracle_seed1", "key": "dog-oracle_seed1"}
    second["cells"][2] |= {name: good["cells"][2][name] for name in ("value", "images", "score")}  # strong: 40 % for 20 %
    (attacked[0] / "dog-oracle_seed1.json").write_text(json.dumps(second))
    score_table = ScoreTable(attacked[1])
    frame = results.load(attacked[0], score_table)
    floor = robustness.noise_floor(robustness.measured(frame, score_table))
    assert floor == (pytest.approx(0.1), pytest.approx(0.2), "strong"), "random seeds: no distance"
    assert robustness.noise_floor(robustness.measured(frame[frame["method"] != "oracle_seed1"], score_table)) is None
    text = robustness_report.report(frame, score_table)
    assert "differ by 10 points on average over these attacks, at most by 20 (strong)" in text
    assert "| attack | access | original | oracle | oracle_seed1 | good | hidden |" in text
    assert not frame.loc[frame["method"] == "oracle_seed1", "leads"].any()


def test_protocols_never_share_a_matrix(attacked):
    for file in sorted(attacked[0].glob("*.json")):
        record = json.loads(file.read_text())
        record |= {"protocol": "hub", "key": "hub-" + record["key"]}
        (attacked[0] / f"{record['key']}.json").write_text(json.dumps(record))
    score_table = ScoreTable(attacked[1])
    text = robustness_report.report(results.load(attacked[0], score_table), score_table)
    assert text.count("dog on toy\n") == 1 and text.count("dog on toy, protocol hub\n") == 1
    assert "nan" not in text


def test_a_reason_is_printed_only_where_there_is_one(loaded):
    details = robustness_report.report(*loaded).split("dog: details")[1].split("###")[0]
    assert "— the attack was not run on" not in details and "nan" not in details


def test_the_strength_of_an_attack_is_its_best_gain_on_an_eraser_and_its_harm_to_the_original(attacked):
    def change(method, record):
        if method == "original":  # `strong` spoils one of its ten images
            hidden = json.loads((attacked[0] / "dog-hidden.json").read_text())["cells"]
            record["cells"][2] |= {name: hidden[2][name] for name in ("value", "images", "score")}

    frame, score_table = again(attacked, change)
    row = robustness.strength(robustness.measured(frame, score_table)).set_index("attack").loc["strong"]
    assert row["method"] == "hidden" and row["over_luck"] == pytest.approx(0.8) and row["cells"] == 2
    assert row["lowered"] == pytest.approx(0.1)
    assert "| strong | weights | 10 | **+80 [" in robustness_report.report(frame, score_table)


def test_a_set_of_many_concepts_is_named_in_few_words_and_in_full_once(attacked):
    def change(method, record):
        record["concepts"] = ["bomb", "knife", "pistol", "skull"]

    text = robustness_report.report(*again(attacked, change))
    assert "## bomb+knife+… (4) on toy" in text and text.count("bomb, knife, pistol, skull") == 1
    assert "bomb+knife+pistol" not in text


def test_a_flag_of_many_methods_takes_one_line(attacked):
    def change(method, record):
        record["cells"][2]["flags"] = ["lost_in_typing"]

    text = robustness_report.report(*again(attacked, change)).split("## Flags")[1]
    assert "| lost_in_typing | dog | strong | original, oracle, good, hidden |" in text


def test_a_null_of_another_judge_serves_all_and_an_attack_that_returns_its_input_says_nothing(attacked):
    """Without an oracle: 100 % of a made-up thing come back, so 90 % of the concept are no statement about the model."""

    def change(method, record):
        for one in record["cells"]:
            if one["metric"] == "made_up":
                one |= {name: original["cells"][0][name] for name in ("images", "value")} | {"score": whole["score"]}

    (attacked[0] / "dog-oracle.json").unlink()
    original = json.loads((attacked[0] / "dog-original.json").read_text())
    whole = returned(attacked[1], original["cells"][3] | {"score": "score/all"}, 1.0)
    frame, score_table = again(attacked, change)
    row = robustness.measured(frame, score_table).set_index(["method", "attack"]).loc[("hidden", "strong")]
    assert np.isnan(row["calibrated"]) and row["reason"] == "100 % from never_knew, 100 % from original" and row["null"] == 1


def test_a_null_that_could_not_be_judged_calibrates_nothing(attacked):
    (attacked[0] / "dog-oracle.json").unlink()
    for file in (attacked[1] / "score").glob("*null*/per_image.csv"):
        table = pd.read_csv(file, dtype={"row_id": str})
        table.assign(returned=np.nan).to_csv(file, index=False)
    frame, score_table = again(attacked, lambda method, record: None)
    row = robustness.measured(frame, score_table).set_index(["method", "attack"]).loc[("hidden", "strong")]
    assert np.isnan(row["calibrated"]) and row["reason"] == "not calibrated: no image of never_knew could be judged"


def luck_of(attacked, forward_rows, access="images", method="hidden"):
    """The row of `strong` where it spent so many denoiser rows on the set of ten prompts."""

    def change(_, record):
        record["cells"][2] |= {"access": access, "budget": {"forward_rows": forward_rows, "images": 0}}

    return robustness.measured(*again(attacked, change)).set_index(["method", "attack"]).loc[(method, "strong")]


def test_luck_is_cut_to_the_budget_of_the_attack_it_is_compared_with(attacked):
    """A try is 40 rows. hidden: the first try shows image 0, the third also image 1; unattacked none."""
    luck = next(c for c in json.loads((attacked[0] / "dog-hidden.json").read_text())["cells"] if c["attack"] == "random_seeds")
    file = attacked[1] / luck["score"] / "per_image.csv"
    table = pd.read_csv(file, dtype={"row_id": str})
    table.assign(present=[1.0, 1.0] + [0.0] * 8).to_csv(file, index=False)
    two, three = luck_of(attacked, 400), luck_of(attacked, 401)
    assert two["luck_tries"] == 2 and two["over_luck"] == pytest.approx(0.9 - 0.1)
    assert three["luck_tries"] == 3 and three["over_luck"] == pytest.approx(0.9 - 0.2)
    assert luck_of(attacked, 134, "gradients")["luck_tries"] == 3, "a backward pass costs two forward ones"


def test_luck_with_less_budget_gives_no_difference(attacked):
    enough, short = luck_of(attacked, 11 * 400), luck_of(attacked, 11 * 400 + 1)
    assert enough["luck_tries"] == 12 and not np.isnan(enough["over_luck"])
    assert np.isnan(short["over_luck"])
    assert (
        short["luck_reason"] == "fresh seeds had too small a budget: 12 tries of random_seeds, and this attack's denoiser calls pay for 13"
    )
    assert luck_of(attacked, 11 * 400 + 1, method="original")["luck_tries"] == 13, "every prompt succeeded: more tries add nothing"
    frame, score_table = again(attacked, lambda method, record: None)
    assert "fresh seeds had too small a budget: 12 tries of random_seeds" in robustness_report.report(frame, score_table)
    strength = robustness.strength(robustness.measured(frame, score_table)).set_index("attack")
    assert strength.loc["strong", "cells"] == 0, "an eraser without a fair comparison is no cell to gain on"


def test_without_luck_in_the_records_there_is_no_difference(attacked):
    def change(method, record):
        record["cells"] = [c for c in record["cells"] if c["attack"] != "random_seeds"]

    row = robustness.measured(*again(attacked, change)).set_index(["method", "attack"]).loc[("hidden", "strong")]
    assert np.isnan(row["over_luck"]) and row["luck_reason"] == "random_seeds was not run"


def replicate(attacked, method, seed, changes):
    """A second erasure of `method` from another seed; `changes`: attack -> method whose scores it has."""
    record = json.loads((attacked[0] / f"dog-{method}.json").read_text())
    for attack, other in changes.items():
        theirs = json.loads((attacked[0] / f"dog-{other}.json").read_text())["cells"]
        for one in record["cells"]:
            if one["attack"] == attack and one["metric"] == "presence":
                found = next(c for c in theirs if c["attack"] == attack and c["metric"] == "presence")
                one |= {name: found[name] for name in ("value", "images", "score")}
    record |= {"seed": seed, "key": f"dog-{method}-{seed}"}
    (attacked[0] / f"{record['key']}.json").write_text(json.dumps(record))


def test_erasure_seeds_are_averaged_with_their_spread(attacked):
    replicate(attacked, "hidden", 1, {"strong": "good"})
    table = robustness.measured(*again(attacked, lambda method, record: None)).set_index(["method", "attack"])
    row = table.loc[("hidden", "strong")]
    assert row["seeds"] == 2 and row["value"] == pytest.approx((0.9 + 0.4) / 2)
    assert row["calibrated"] == pytest.approx((0.65 - 0.2) / 0.8) and row["over_luck"] == pytest.approx(0.65 - 0.1)
    assert row["calibrated_low"] == 0 and row["calibrated_high"] == 1, "0.25 apart in two seeds: hardly anything is known"
    alone = table.loc[("good", "strong")]
    assert alone["seeds"] == 1 and alone["calibrated"] == pytest.approx(0.25)


def test_judges_and_samplers_never_share_a_zero_point_or_a_row(attacked):
    """A second judge that sees the concept everywhere: its oracle and original, and no others, calibrate it."""

    def change(method, record):
        blind = [c | {"judge": "blind"} for c in record["cells"] if c["attack"] in ("none", "strong") and c["metric"] == "presence"]
        for one in blind:
            one |= {name: original[name] for name in ("images", "score", "value")}
        record["cells"] += blind

    original = json.loads((attacked[0] / "dog-original.json").read_text())["cells"][0]
    frame, score_table = again(attacked, change)
    table = robustness.measured(frame, score_table).set_index(["judge", "method", "attack"])
    assert table.loc[("judge", "hidden", "strong"), "calibrated"] == pytest.approx((0.9 - 0.2) / 0.8)
    assert table.loc[("blind", "hidden", "strong"), "reason"] == "100 % from oracle, 100 % from original"
    worst = robustness.by_access(frame, score_table).set_index(["judge", "access", "method"])["value"]
    assert worst[("judge", "weights", "hidden")] == pytest.approx(0.9) and worst[("blind", "weights", "hidden")] == 1
    text = robustness_report.report(frame, score_table)
    assert "dog on toy, judge blind" in text and "dog on toy, judge judge" in text


def test_gaps_are_of_one_place_and_average_seeds(attacked):
    """Another sampler without an oracle, and a second erasure seed of hidden that learns like the oracle."""
    for method in ("original", "hidden"):
        record = json.loads((attacked[0] / f"dog-{method}.json").read_text())
        record |= {"key": f"other-{method}", "sampler": {"scheduler": "PNDMScheduler", "steps": 5, "guidance": 1.0}}
        (attacked[0] / f"{record['key']}.json").write_text(json.dumps(record))
    replicate(attacked, "hidden", 1, {f"strong@steps={n}": "good" for n in (2, 4, 8)})
    frame, score_table = again(attacked, lambda method, record: None)
    table = budget_curves.gaps(budget_curves.budget_sweeps(frame, score_table))
    first = table[table["sampler"].str.contains("DDIM")].set_index("method")
    alone = 6 - 2 * 0.5 / 0.6
    assert first.loc["hidden", "seeds"] == 2 and first.loc["hidden", "gap"] == pytest.approx((alone + 0) / 2)
    assert first.loc["hidden", "gap_low"] < 0 and first.loc["hidden", "gap_high"] > alone, "the interval holds the spread of seeds"
    assert first.loc["good", "gap"] == 0
    other = table[table["sampler"].str.contains("PNDM")].set_index("method")
    assert other.index.tolist() == ["hidden"] and other.loc["hidden", "until"] == pytest.approx(2 * 0.5 / 0.6)
    assert np.isnan(other.loc["hidden", "gap"]), "the oracle of another sampler is no zero point"
    assert other.loc["hidden", "reason"] == "no gap: the oracle was not attacked at these budgets"
    text = robustness_report.report(frame, score_table).split("## Relearning gap")[1]
    assert "PNDMScheduler 5 steps" in text and "no gap: the oracle was not attacked at these budgets" in text


def test_a_gap_without_original_says_so(attacked):
    (attacked[0] / "dog-original.json").unlink()
    frame, score_table = again(attacked, lambda method, record: None)
    table = budget_curves.gaps(budget_curves.budget_sweeps(frame, score_table)).set_index("method")
    assert set(table["reason"]) == {"no level to reach: the original model was not attacked at these budgets"} and len(table) == 3
    assert "no level to reach" in robustness_report.report(frame, score_table)


def test_a_budget_sweep_without_unattacked_images_has_no_first_point(attacked):
    def change(method, record):
        if method == "original":
            record["cells"] = [c for c in record["cells"] if c["attack"] != "none"]

    table = budget_curves.gaps(budget_curves.budget_sweeps(*again(attacked, change))).set_index("method")
    assert set(table["reason"]) == {"of the original model: its unattacked images were not scored"}


def test_budgets_of_two_settings_are_two_sweeps(attacked):
    def change(method, record):
        record["cells"] += [c | {"attack": c["attack"].replace("steps", "rank")} for c in record["cells"] if "@" in c["attack"]]

    curves = budget_curves.budget_sweeps(*again(attacked, change))
    assert {c.unit for c in curves} == {"steps", "rank"} and all(len(c.spent) == 4 for c in curves)
    assert set(plots.curves_by_attack(curves)) == {"strong-steps", "strong-rank"}


def test_the_budgets_of_two_commands_make_one_sweep(attacked):
    record = json.loads((attacked[0] / "dog-good.json").read_text())
    first = [c for c in record["cells"] if c["attack"] != "strong@steps=8"]
    (attacked[0] / "dog-good.json").write_text(json.dumps(record | {"cells": first}))
    second = [c for c in record["cells"] if c["attack"] in ("none", "strong@steps=8")]
    (attacked[0] / "later.json").write_text(json.dumps(record | {"cells": second, "key": "later"}))
    curves = budget_curves.budget_sweeps(*again(attacked, lambda method, record: None))
    assert next(c for c in curves if c.method == "good").spent.tolist() == [0, 2, 4, 8]


def test_the_budget_figure_is_of_one_judge_and_averages_seeds_before_concepts(attacked):
    """hidden: 90 % in one erasure and 40 % in another; a blind judge that sees the concept everywhere stays out."""
    from matplotlib import pyplot

    def change(method, record):
        record["cells"] += [c | {"judge": "blind", "value": 1.0} for c in record["cells"] if c["attack"] == "strong"]

    replicate(attacked, "hidden", 1, {"strong": "good"})
    frame, score_table = again(attacked, change)
    figure = pyplot.figure()
    assert plots.budget(figure, AggregateScores(frame, score_table))
    lines = {line.get_label(): sorted(line.get_xdata()) for line in figure.axes[0].get_lines()}
    pyplot.close(figure)
    assert lines["hidden"] == pytest.approx([10, 65]) and lines["good"] == pytest.approx([10, 40])
