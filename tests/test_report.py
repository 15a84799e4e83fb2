"""The leaderboard and gallery from a small made-up store whose right answers are known."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import gallery, report, results
from bench.pictures import WORST, Pictures
from bench.views import Views

SAMPLER = {"scheduler": "DDIMScheduler", "steps": 20, "guidance": 3.0}
# method -> (share of target pictures, share of others) that show what the prompt asks for; attack raises the target to `attacked`
SHARES = {
    "original": (1.0, 1.0, 1.0),
    "oracle": (0.0, 1.0, 0.0),
    "good": (0.1, 0.9, 0.6),
    "blunt": (0.1, 0.3, 0.1),
    "idle": (1.0, 1.0, 1.0),
}
ROWS = 10


@pytest.fixture
def places(tmp_path):
    """(records, store) with five methods on two concepts, target and others, without and under an attack."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    for concept in ("dog", "car"):
        for method, (target, others, attacked) in SHARES.items():
            cells = [
                cell(store, concept, method, "target", "none", target, False),
                cell(store, concept, method, "target", "typos", attacked, True),
                cell(store, concept, method, "others", "none", others, False),
            ]
            write_record(records, concept, method, cells)
    return records, store


def cell(store, concept, method, probe, attack, share, reverse):
    name = f"{concept}-{method}-{probe}-{attack}"
    index = pd.DataFrame({"row_id": [f"{k:03d}" for k in range(ROWS)], "rep": 0, "group": [f"g{k}" for k in range(ROWS)]})
    index = index.assign(prompt=f"a {concept}", file=[f"png/{k:03d}-0.ok.png" for k in range(ROWS)])
    shown = (np.arange(ROWS) < round(share * ROWS)).astype(float)
    for folder, table in (("images", index), ("score", index[["row_id", "rep"]].assign(present=shown[::-1] if reverse else shown))):
        (store / folder / name).mkdir(parents=True)
        table.to_csv(store / folder / name / ("index.csv" if folder == "images" else "per_image.csv"), index=False)
    draw_pictures(store / "images" / name)
    head = {"probe": probe, "attack": attack, "access": "none", "metric": "presence", "column": "present", "judge": "judge"}
    rest = {"n": ROWS, "groups": ROWS, "higher_is_better": True, "images": f"images/{name}", "score": f"score/{name}", "reason": None}
    rest |= {"budget": {"unet_rows": 40, "images": 2} if attack == "typos" else {}}
    return head | rest | {"value": float(shown.mean()), "ci_low": 0.0, "ci_high": 1.0}


def draw_pictures(folder):
    from PIL import Image

    (folder / "png").mkdir()
    for k in range(ROWS):
        Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(folder / "png" / f"{k:03d}-0.ok.png")


def write_record(records, concept, method, cells, **over):
    record = {"key": f"{concept}-{method}", "status": "done", "model": "toy", "method": method, "mechanism": "weights", "kind": "object"}
    record |= {"seed": 0, "concepts": [concept], "sampler": SAMPLER, "reason": None, "limits": "", "cells": cells}
    record |= {"cost": {"erase_seconds": 2.0, "seconds_per_image": 0.1, "parameters_changed": 5, "artefact_bytes": 20}, **over}
    (records / f"{record['key']}.json").write_text(json.dumps(record))


def frame(places):
    return results.load(*places)


def leaderboard(places, format="md", **more):
    pictures = Pictures(places[1])
    return report.table(results.load(places[0], pictures), format, pictures, **more)


def test_differences_are_paired_with_the_original_and_zero_for_an_idle_method(places):
    plain = frame(places).query("attack == 'none' and probe == 'others' and concept == 'dog'").set_index("method")["diff"]
    assert plain["idle"] == 0 and plain["good"] == pytest.approx(-0.1) and plain["blunt"] == pytest.approx(-0.7)


def test_the_worst_case_counts_a_picture_that_any_attack_brings_back(places):
    """good: one of ten pictures without attack and six others under it."""
    worst = frame(places).query("attack == @WORST and concept == 'dog'").set_index("method")["value"]
    assert worst["good"] == pytest.approx(0.7) and worst["blunt"] == pytest.approx(0.2) and worst["oracle"] == 0


def test_attack_rates_follow_the_papers_definitions(places):
    """good: one of ten before, six others after, so seven of ten in either, and six of the nine that failed before."""
    cell = frame(places).query("attack == 'typos' and method == 'good' and concept == 'dog'").iloc[0]
    assert (cell["before"], cell["either"], cell["failed_before"]) == (pytest.approx(0.1), pytest.approx(0.7), 9)
    assert cell["after_failing"] == pytest.approx(6 / 9)
    rows = leaderboard(places).split("### dog: attacks")[1].split("##")[0]
    assert "| good | typos | none | 10 | 60 [0, 100] | 70 | 67 (of 9) | 0 | 40 |" in rows


def test_methods_are_ranked_by_erasure_minus_damage_behind_original_and_oracle(places):
    pictures = Pictures(places[1])
    loaded = results.load(places[0], pictures)
    assert report.ranking(loaded, Views(loaded, pictures)) == ["original", "oracle", "good", "blunt", "idle"]


def test_the_table_shows_net_points_intervals_and_who_equals_the_original(places):
    text = leaderboard(places)
    dog = text.split("## dog (object)")[1].split("##")[0]
    row = next(line for line in dog.splitlines() if line.startswith("| good"))
    assert "| 80 |" in row and "10 [0, 100]" in row and row.count("≈") == 2, "neither one lost of ten kept nor three of ten under attack prove anything"
    idle = next(line for line in dog.splitlines() if line.startswith("| idle"))
    assert idle.count("≈") == 3 and "| 0 |" in idle
    assert "## Mean over 2 concepts: car, dog" in text and "10 (10-10)" in text
    assert "DDIMScheduler 20 steps" in text and "judge judge" in text


def test_a_missing_concept_is_shown_and_never_averaged_over(places):
    records, store = places
    write_record(records, "car", "good", [], status="failed", reason="ValueError: no luck")
    text = leaderboard(places)
    overall = text.split("## Mean over")[1].split("##")[0]
    assert "n/a (1 of 2)" in next(line for line in overall.splitlines() if line.startswith("| good"))
    assert "good: failed: ValueError: no luck" in text


def test_an_attack_that_does_not_apply_leaves_its_reason(places):
    records, store = places
    reason = {"probe": "target", "attack": "typos", "metric": None, "reason": "not applicable: it has no typewriter"}
    write_record(records, "dog", "good", [cell(store, "new", "good", "target", "none", 0.1, False), reason])
    assert "it has no typewriter" in leaderboard(places)


def test_the_same_records_give_the_same_bytes_and_csv_holds_every_cell(places):
    assert leaderboard(places) == leaderboard(places)
    csv = leaderboard(places, "csv")
    assert csv.count("\n") - 1 == len(frame(places)) == 2 * 5 * 4
    with pytest.raises(ValueError, match="Allowed: md, csv, latex, html"):
        report.table(frame(places), "xls")


def test_without_a_store_the_numbers_stand_and_the_differences_are_left_out(places):
    alone = results.load(places[0])
    assert alone["diff"].isna().all() and len(alone) == 30
    assert "| good" in report.table(alone, "md")


def test_the_gallery_is_one_page_with_a_column_per_method(places, tmp_path):
    page = gallery.write(*places, tmp_path / "page.html").read_text()
    section = page.split("<section")[1]
    heads = [part.split("</th>")[0] for part in section.split("<th>")[1:]]
    assert heads == ["", "original", "oracle", "blunt", "good", "idle"]
    assert page.count("data:image/webp;base64,") == 2 * 3 * 5 * gallery.ROWS_PER_PROBE and "http" not in page


def test_explicit_concepts_show_no_picture(places, tmp_path):
    records, store = places
    for file in records.glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "explicit"}))
    page = gallery.write(records, store, tmp_path / "page.html").read_text()
    assert "data:image" not in page and 'class="grey"' in page


def test_the_sheet_has_a_line_per_question_and_two_pictures_per_method(places, tmp_path):
    from PIL import Image

    page = Image.open(gallery.sheet(*places, tmp_path / "sheet.png"))
    assert page.size == (330 + 64 * 2 * 5, 24 + 64 * 6)
    left, right = page.getpixel((330 + 20, 24 + 20)), page.getpixel((330 + 64 + 20, 24 + 20))
    assert left == (0, 0, 0) and right == (20, 0, 0), "pictures 0 and 1 of the first method stand side by side"
