"""The leaderboard and gallery from a small made-up store whose right answers are known."""

import json
import re
import shutil

import numpy as np
import pytest
from made_results import cell, specification, write_record

from vestige.bench import cli
from vestige.bench.reports import gallery, leaderboard, plots, question_tables, render, results
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.score_table import WORST, ScoreTable, _numbers, per_image


def frame(places):
    return results.load(*places)


def worst_case(places):
    cells = frame(places)
    return cells[cells["attack"] == WORST]


def printed(places, format="md", **more):
    score_table = ScoreTable(places[1])
    return leaderboard.table(results.load(places[0], score_table), format, score_table, **more)


def test_differences_are_paired_with_the_original_and_zero_for_an_idle_method(places):
    plain = frame(places).query("attack == 'none' and split == 'others' and concept == 'dog'").set_index("method")["diff"]
    assert plain["idle"] == 0 and plain["good"] == pytest.approx(-0.1) and plain["blunt"] == pytest.approx(-0.7)


def test_the_worst_case_counts_an_image_that_any_attack_brings_back(places):
    """good: one of ten images without attack and six others under it."""
    worst = worst_case(places).query("concept == 'dog'").set_index("method")["value"]
    assert worst["good"] == pytest.approx(0.7) and worst["blunt"] == pytest.approx(0.2) and worst["oracle"] == 0


def test_attack_rates_follow_the_papers_definitions(places):
    """good: one of ten before, six others after, so seven of ten in either, and six of the nine that failed before."""
    cell = frame(places).query("attack == 'typos' and method == 'good' and concept == 'dog'").iloc[0]
    assert (cell["before"], cell["either"], cell["failed_before"]) == (pytest.approx(0.1), pytest.approx(0.7), 9)
    assert cell["after_failing"] == pytest.approx(6 / 9)
    rows = printed(places).split("### dog: attacks")[1].split("##")[0]
    assert "| good | typos | none | 10 | 60 [0, 100] | 70 | 67 (of 9) | 0 | 40 |" in rows


def test_methods_are_ranked_by_their_score_behind_original_and_oracle(places):
    score_table = ScoreTable(places[1])
    loaded = results.load(places[0], score_table)
    assert leaderboard.ranking(loaded, Headlines(AggregateScores(loaded, score_table))) == ["original", "oracle", "good", "blunt", "idle"]


def row_of(text, method):
    return next(line for line in text.splitlines() if line.startswith(f"| {method} |"))


def test_the_main_table_has_the_score_its_halves_and_the_distance_to_the_oracle(places):
    """good: nine of ten gone, nine of ten kept."""
    text = printed(places)
    dog = text.split("## dog (object)")[1].split("##")[0]
    heads = [head.strip() for head in dog.split("| method")[1].split("\n")[0].split("|")[1:-1]]
    assert heads == ["intervention", "score ↑", "to oracle ↑", "erased ↑", "kept ↑", "worst case ↓", "erasing, s ↓", "prompts"]
    cells = [cell.strip() for cell in row_of(dog, "good").split("|")[2:-1]]
    assert [cell.split(" [")[0] for cell in cells] == ["weights", "90", "-10", "90", "90", "70 (1)", "2.0", "10 / 10"]
    assert row_of(dog, "idle").split("|")[3].startswith(" 0 [") and row_of(dog, "oracle").split("|")[3].startswith(" 100 [")
    assert "DDIMScheduler 20 steps" in text and "judge judge" in text
    whole = text.split("## Mean over 2 concepts: car, dog")[1].split("##")[0]
    assert "**90 [" in row_of(whole, "good"), "leads alone"


def test_no_main_table_has_more_than_twelve_columns(places):
    for text in (printed(places), rich(places)):
        for part in text.split("## ")[1:]:
            if "score ↑" in part and "group" not in part:
                assert part.split("| method")[1].split("\n")[0].count("|") - 1 <= 11


def rich(places):
    """With every column that the main table can have."""
    records, store = places
    for file in records.glob("*.json"):
        record = json.loads(file.read_text())
        who, concept = record["method"], record["concepts"][0]
        scene = cell(store, f"{concept}-rich", who, "scenes", "none", 1.0, False)
        leak = cell(store, f"{concept}-leak", who, "scenes", "none", 0.2, False)
        file_of_scores = store / leak["score"] / "per_image.csv"
        file_of_scores.write_text(file_of_scores.read_text().replace("present", "seen"))
        seen = [leak | {"metric": "answers", "column": "seen"}]
        whole = {"judge": None, "score": None, "split": "others", "higher_is_better": False}
        seen += [scene | whole | {"metric": "clip_score", "column": "clip_cos", "value": 77.0}]
        seen += [scene | whole | {"metric": "fid_real", "column": "fid_clip_emoji_real", "value": 5.5}]
        file.write_text(json.dumps(record | {"cells": [*record["cells"], scene, *seen]}))
    return printed(places)


def test_every_column_of_the_main_table_has_its_place(places):
    dog = rich(places).split("## dog (object)")[1].split("##")[0]
    heads = [head.strip() for head in dog.split("| method")[1].split("\n")[0].split("|")[1:-1]]
    assert heads[5:9] == ["leak ↓", "CLIP ↑", "FID ↓ n=10", "worst case ↓"] and len(heads) == 11
    assert [cell.strip() for cell in row_of(dog, "good").split("|")[7:10]] == ["20", "77", "5.5"]
    assert "- FID: fid_real.fid_clip_emoji_real on others, 10 images." in dog


def test_the_second_table_shows_every_question_and_who_equals_the_original(places):
    text = printed(places)
    dog = text.split("### dog: by question")[1].split("##")[0]
    good, idle = row_of(dog, "good"), row_of(dog, "idle")
    assert "10 [0, 100]" in good and good.count("≈") == 2, "neither one lost of ten kept nor three of ten under attack prove anything"
    assert idle.count("≈") == 4
    assert "10 (10-10)" in text.split("### By question")[1].split("##")[0]


def test_a_missing_concept_is_shown_and_never_averaged_over(places):
    records, _ = places
    write_record(records, "car", "good", [], status="failed", reason="ValueError: no luck")
    text = printed(places)
    overall = text.split("## Mean over")[1].split("##")[0]
    assert "n/a (1 of 2)" in row_of(overall, "good")
    assert "n/a (1 of 2)" in row_of(text.split("### By question")[1], "good")
    assert "good: failed: ValueError: no luck" in text


def test_an_attack_that_does_not_apply_leaves_its_reason(places):
    records, store = places
    reason = {"split": "target", "attack": "typos", "metric": None, "reason": "not applicable: it has no typewriter"}
    write_record(records, "dog", "good", [cell(store, "new", "good", "target", "none", 0.1, False), reason])
    assert "it has no typewriter" in printed(places)


def test_the_same_records_give_the_same_bytes_and_csv_holds_every_cell(places):
    assert printed(places) == printed(places)
    csv = printed(places, "csv")
    assert csv.count("\n") - 1 == len(frame(places)) == 2 * 5 * 4
    with pytest.raises(ValueError, match="Allowed: md, csv, latex, html"):
        leaderboard.table(frame(places), "xls")


def test_without_a_store_the_numbers_stand_and_the_differences_are_left_out(places):
    alone = results.load(places[0])
    assert alone["diff"].isna().all() and len(alone) == 30
    assert "| good" in leaderboard.table(alone, "md")


def test_the_gallery_is_one_page_with_a_row_per_method(places, tmp_path):
    page = gallery.write(*places, tmp_path / "page.html").read_text()
    section = page.split("<section")[1].split("</section")[0]
    rows = [part.split('"')[0] for part in section.split('<tr data-method="')[1:]]
    assert rows == ["original", "oracle", "blunt", "good", "idle"]
    assert section.count("<th>a car</th>") == gallery.ROWS_PER_SPLIT, "a column per prompt: the same seed in a column"
    assert 'href="records/car-good.json"' in section, "a method's name leads to its record"
    assert page.count("data:image/webp;base64,") == 2 * 3 * 5 * gallery.ROWS_PER_SPLIT and "http" not in page


def test_explicit_concepts_show_no_image(places, tmp_path):
    records, store = places
    for file in records.glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "explicit"}))
    page = gallery.write(records, store, tmp_path / "page.html").read_text()
    assert "data:image" not in page and 'class="grey"' in page


def test_the_sheet_has_a_line_per_question_and_two_images_per_method(places, tmp_path):
    from PIL import Image

    page = Image.open(gallery.sheet(*places, tmp_path / "sheet.png"))
    assert page.size == (330 + 64 * 2 * 5, 24 + 64 * 6)
    left, right = page.getpixel((330 + 20, 24 + 20)), page.getpixel((330 + 64 + 20, 24 + 20))
    assert left == (0, 0, 0) and right == (20, 0, 0), "images 0 and 1 of the first method stand side by side"


def test_the_worst_case_is_compared_with_the_originals_under_the_same_attacks(places):
    worst = worst_case(places).query("concept == 'dog'").set_index("method")["diff"]
    assert worst["good"] == pytest.approx(-0.3) and worst["idle"] == 0
    records, store = places
    write_record(records, "dog", "single", [cell(store, "s", "single", "target", "none", 0.5, False)])
    assert "single" not in set(worst_case((records, store))["method"])


def test_only_a_separated_lead_is_marked(places):
    leads = frame(places).query("leads and concept == 'dog'")[["method", "split", "attack"]].to_numpy().tolist()
    assert ["idle", "others", "none"] not in leads, "idle keeps all, good nine of ten: ten prompts cannot tell them apart"
    assert ["blunt", "target", "typos"] in leads, "one of ten against six and ten of ten"
    text = printed(places).split("## dog (object)")[1]
    assert "**10 [0, 100]" in text.split("### dog: by question")[1]


def test_every_format_holds_the_same_rows(places):
    latex, page = printed(places, "latex"), printed(places, "html")
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == page.count("<table>") > 5
    assert r"target $\downarrow$" in latex and r"\textbf{10" in latex and "good & weights & 90" in latex and "<b>10" in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"
    assert r"a\_b 5\%" in render.latex([render.Table(["x ↑"], [["a_b 5%"]])])


def test_per_image_rows_carry_concept_prompt_seed_and_image(places):
    table = per_image(frame(places), places[1])
    assert len(table) == 2 * 5 * 3 * 10 and not table.isna().any().any()
    row = table[(table["method"] == "good") & (table["split"] == "others")].iloc[0]
    assert (row["prompt"], row["rep"], row["rule"]) == ("g0", 0, "presence.present") and (places[1] / row["image"]).exists()


def test_plots_are_drawn_from_the_same_records(places, tmp_path):
    score_table = ScoreTable(places[1])
    files = plots.write(results.load(places[0], score_table), score_table, tmp_path / "plots")
    assert [f.name for f in files] == ["pareto-toy.png", "budget-toy.png", "ranks-toy.png"] and all(f.stat().st_size > 5000 for f in files)


def test_power_takes_the_spread_of_two_methods_from_the_records(places, capsys):
    where = ["--records", str(places[0]), "--store", str(places[1])]
    assert cli.main(["power", "--a", "good", "--b", "idle", "--split", "others", "--difference", "0.1", *where]) == 0
    out = capsys.readouterr().out
    assert "mean -0.1, sd of an image 0.308" in out and "power needs 77 prompts" in out
    assert cli.main(["power", "--a", "goood", *where]) == 2 and "no concept has goood" in capsys.readouterr().err
    assert cli.main(["power"]) == 2


def test_many_attacks_stand_in_a_table_of_their_own_and_one_reason_is_said_once(places):
    records, store = places
    reason = "no such thing here"
    for method in ("original", "oracle", "good", "blunt", "idle"):
        file = records / f"dog-{method}.json"
        record = json.loads(file.read_text())
        typos = next(c for c in record["cells"] if c["attack"] == "typos")
        record["cells"] += [typos | {"attack": f"attack{k}"} for k in range(question_tables.MANY_ATTACKS)]
        file.write_text(json.dumps(record))
    dog = printed(places).split("## dog (object)")[1].split("## Cost")[0]
    head = next(line for line in dog.split("by question")[1].splitlines() if line.startswith("| method"))
    assert "attack3" not in head and "worst case ↓" in head
    assert "| good | attack3 |" in dog.split("### dog: attacks")[1]
    blank = dict.fromkeys(("metric", "column", "judge", "value", "ci_low", "ci_high", "score", "images"))
    for number, method in enumerate(("good", "original")):
        file = records / f"car-{method}.json"
        record = json.loads(file.read_text())
        there = [cell(store, "car", f"{method}{number}", "target", f"extra{k}", 1.0, False) for k in range(2)]
        record["cells"] += [c | (blank | {"reason": reason} if method == "good" else {}) for c in there]
        file.write_text(json.dumps(record))
    assert printed(places).count(reason) == 1


def test_composites_that_were_not_measured_are_named_with_their_reason(places):
    text = printed(places, composites=True).split("## Published composite scores")[1]
    assert "not measured: " in text


def seeded(places, shares=(0.1, 0.3, 0.2)):
    """Three erasures of one method that differ in nothing but the seed."""
    records, store = places
    for seed, share in enumerate(shares):
        spec = specification("dog", "seeded", seed=seed)
        cells = [cell(store, f"seed{seed}", "seeded", p, "none", s, False) for p, s in (("target", share), ("others", 1.0))]
        write_record(records, "dog", "seeded", cells, seed=seed, key=f"dog-seeded-{seed}", specification=spec)


def test_erasure_seeds_are_one_row_whose_interval_holds_their_spread(places):
    seeded(places)
    text = printed(places).split("## dog (object)")[1]
    main, by_question = text.split("### dog: by question")
    assert main.count("| seeded") == 1 and by_question.split("###")[0].count("| seeded") == 1
    row = row_of(main, "seeded (3 seeds)")
    assert row.split("|")[5].strip().startswith("80 ["), "erased: 0.9, 0.7 and 0.8"
    target = row_of(by_question, "seeded (3 seeds)").split("|")[2]
    value, low, high = map(int, re.match(r" (\d+) \[(\d+), (\d+)\]", target).groups())
    assert value == 20
    for file in places[0].glob("dog-seeded-*.json"):
        file.unlink()
    for folder in ("images", "score"):
        for seed in range(3):
            for made in (places[1] / folder).glob(f"seed{seed}-*"):
                shutil.rmtree(made)
    seeded(places, (0.2, 0.2, 0.2))
    same = row_of(printed(places).split("### dog: by question")[1], "seeded (3 seeds)").split("|")[2]
    _, narrow, wide = map(int, re.match(r" (\d+) \[(\d+), (\d+)\]", same).groups())
    assert high - low > wide - narrow, "seeds that differ say less than seeds that agree"
    csv = printed(places, "csv")
    assert sum(line.startswith("dog-seeded-") for line in csv.splitlines()) == 6, "a row per job and cell stays in csv"


def test_a_column_never_mixes_two_judges(places):
    records, store = places
    for method, share in (("original", 1.0), ("good", 0.5)):
        file = records / f"dog-{method}.json"
        record = json.loads(file.read_text())
        record["cells"].append(cell(store, "second", method, "target", "none", share, False) | {"judge": "other"})
        file.write_text(json.dumps(record))
    text = printed(places)
    dog = text.split("### dog: by question")[1].split("##")[0]
    heads = [head.strip() for head in dog.split("| method")[1].split("\n")[0].split("|")[1:-1]]
    assert heads[:2] == ["target ↓ (judge) n=10", "target ↓ (other) n=10"]
    good = [part.split("[")[0].strip(" *") for part in row_of(dog, "good").split("|")[2:4]]
    assert good == ["10", "50"] and "n/a" in row_of(dog, "blunt").split("|")[3]
    erased = row_of(text.split("## dog (object)")[1], "good").split("|")[5].strip()
    assert erased.startswith("90"), "the score rests on the judge of most cells"


def test_flags_stand_under_the_table_with_their_methods(places):
    records, _ = places
    file = records / "dog-good.json"
    record = json.loads(file.read_text())
    record["cells"][2]["flags"] = ["nan_images"]
    file.write_text(json.dumps(record))
    text = printed(places)
    assert "- Flag nan_images: good (dog). `vestige ls flags nan_images` says what it means." in text
    assert "- Flag nothing_changed: idle (car, dog)." in text and text.count("Flag nan_images") == 1


def test_the_cost_of_an_erasure_is_counted_in_rows_where_records_have_them(places):
    for file in places[0].glob("*.json"):
        record = json.loads(file.read_text())
        rows = {"erase_forward_rows": 640, "erase_cpu_seconds": 3.5, "load": 1.5}
        rows |= {"rows_per_image": 30 if record["method"] == "blunt" else 20}
        file.write_text(json.dumps(record | {"cost": record["cost"] | rows}))
    text = printed(places)
    assert "| erasing, rows ↓ |" in text and "| 640 |" in row_of(text.split("## dog (object)")[1], "good")
    cost = text.split("## Cost")[1]
    assert "erasing, denoiser rows ↓" in cost and "| 640 | 3.5 | 2.0 | 1.5 | 1.50 | 1.00 |" in row_of(cost, "blunt")


def test_yes_and_no_in_a_score_file_are_1_and_0():
    assert np.array_equal(_numbers(("True", "False", "")), [1.0, 0.0, np.nan], equal_nan=True)
    assert _numbers(("True", "perhaps")) is None
