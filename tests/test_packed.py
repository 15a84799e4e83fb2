"""Records ship with their scores: the tables come again without the store, and from several stores."""

import json
import shutil

import pandas as pd
import pytest
from made_results import cell, make_places, write_record

from vestige.bench import cli
from vestige.bench.places import CHECKOUT
from vestige.bench.reports import packed, results, stores
from vestige.bench.reports.score_table import ScoreTable


def written(out, *words):
    assert cli.main([*map(str, words), "--out", str(out)]) == 0
    return out.read_bytes()


@pytest.fixture
def both(places, tmp_path):
    """(packed records, store); one cell is of a measure of whole sets, which has no score per image."""
    records, store = places
    whole = cell(store, "dog", "good", "background", "none", 1.0, False) | {"metric": "fid", "column": "fid_real", "value": 14.0}
    (store / whole["score"] / "per_image.csv").unlink()
    (store / whole["score"] / "totals.json").write_text("{}")
    record = json.loads((records / "dog-good.json").read_text())
    (records / "dog-good.json").write_text(
        json.dumps(record | {"cells": [*record["cells"], whole], "error": f"File {CHECKOUT}/bench/x.py"})
    )
    assert cli.main(["pack", "--records", str(records), "--store", str(store), "--out", str(tmp_path / "packed")]) == 0
    return tmp_path / "packed", store


@pytest.mark.parametrize("verb, format", [*(("table", f) for f in ("md", "csv", "html")), *(("robustness", f) for f in ("md", "csv"))])
def test_a_table_comes_back_byte_for_byte_without_the_store(both, tmp_path, verb, format):
    records, store = both
    with_store = written(tmp_path / "with", verb, "--records", records, "--store", store, "--format", format)
    assert b"blunt" in with_store
    shutil.rmtree(store)
    assert written(tmp_path / "without", verb, "--records", records, "--store", store, "--format", format) == with_store
    assert results.load(records, ScoreTable(records / packed.NAME))["diff"].notna().any(), "with paired differences, not without"
    (records / packed.NAME).unlink()
    assert written(tmp_path / "neither", verb, "--records", records, "--store", store, "--format", format) != with_store


def test_packing_twice_gives_the_same_bytes_without_images_or_places_of_this_machine(both, tmp_path):
    records, store = both
    again = tmp_path / "again"
    assert cli.main(["pack", "--records", str(records), "--store", str(store), "--out", str(again)]) == 0
    files = {file.name: file.read_bytes() for file in records.iterdir()}
    assert files == {file.name: file.read_bytes() for file in again.iterdir()} and packed.NAME in files
    assert all(str(CHECKOUT).encode() not in content for content in files.values())
    names = sorted(packed.Packed(records / packed.NAME)._texts)
    assert names and all(name.endswith(".csv") for name in names) and len(files[packed.NAME]) < 20_000


STUDIES = [folder.parent for folder in sorted((CHECKOUT / "results").glob("*/records")) if folder.parent.name != "records"]


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_committed_table_comes_again_from_its_records_byte_for_byte(study, tmp_path):
    nowhere, tables = tmp_path / "no_store", {"leaderboard.md": "md", "leaderboard.csv": "csv", "cells.csv": "csv"}
    found = [name for name in tables if (study / name).exists()]
    for name in found:
        words = "table", "--records", study / "records", "--store", nowhere, "--format", tables[name]
        assert written(tmp_path / name, *words) == (study / name).read_bytes(), name
    assert found or not (study / "records" / packed.NAME).exists(), "records without the tables that rest on them"


def test_a_score_that_is_gone_is_named(both, capsys):
    records, store = both
    shutil.rmtree(store / "score" / "dog-good-target-none")
    (records / packed.NAME).unlink()
    assert cli.main(["pack", "--records", str(records), "--store", str(store), "--out", str(records)]) == 1
    said = capsys.readouterr().out
    assert "not packed  score/dog-good-target-none" in said and said.count("not packed") == 1


def test_a_damaged_file_is_refused_in_a_sentence(both, tmp_path, capsys):
    records, _ = both
    file = records / packed.NAME
    file.write_bytes(file.read_bytes()[:300])
    assert cli.main(["table", "--records", str(records), "--store", str(tmp_path / "none")]) == 2
    assert f"{file} cannot be read" in capsys.readouterr().err


def test_of_several_stores_the_first_that_holds_a_score_wins(tmp_path):
    records, store = make_places(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(store / "score" / "dog-good-target-none", other / "score" / "dog-good-target-none")
    table = other / "score" / "dog-good-target-none" / "per_image.csv"
    pd.read_csv(table, dtype={"row_id": str}).assign(present=1.0).to_csv(table, index=False)

    def diff(*places):
        frame = results.load(records, ScoreTable(*places)).set_index(["key", "split", "attack"])
        return frame.loc[("dog-good", "target", "none"), "diff"]

    assert diff(store, other) == pytest.approx(-0.9) and diff(other, store) == 0
    shutil.move(store / "images", tmp_path / "third" / "images")
    assert diff(store, other, tmp_path / "third") == pytest.approx(-0.9), "images of one store, scores of another"
    words = ["--records", str(records), *(w for place in (store, other, tmp_path / "third") for w in ("--store", str(place)))]
    assert written(tmp_path / "a.csv", "table", "--format", "csv", *words)


def test_stores_that_runs_read_are_read_by_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    assert stores.places_of_scores(tmp_path, None) == [tmp_path / "results" / "store"]
    (tmp_path / "conf" / "local").mkdir(parents=True)
    (tmp_path / "conf" / "local" / "default.yaml").write_text("# @package _global_\nruntime: {read_from: [/shared/store, more]}\n")
    where = stores.places_of_scores(tmp_path, None)
    assert [str(place) for place in where] == [str(tmp_path / "results" / "store"), "/shared/store", "more"]
    assert stores.places_of_scores(tmp_path, [tmp_path / "one"]) == [tmp_path / "one"]


def test_a_line_that_was_cut_is_refused_not_read(places):
    records, store = places
    file = store / "score" / "dog-good-target-none" / "per_image.csv"
    file.write_text(file.read_text()[:-3])
    with pytest.raises(ValueError, match=r"score/dog-good-target-none/per_image\.csv is damaged"):
        results.load(records, store)


def test_private_prompts_stay_hidden(tmp_path):
    """An index never holds them: what is packed is a part of an index."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    made = cell(store, "dog", "good", "target", "none", 0.5, False)
    index = pd.read_csv(store / made["images"] / "index.csv", dtype={"row_id": str}).assign(prompt="(hidden)", secret="a word", sha256="f")
    index.to_csv(store / made["images"] / "index.csv", index=False)
    write_record(records, "dog", "good", [made])
    packed.write(records, ScoreTable(store).text, tmp_path / "out")
    (text,) = (t for name, t in packed.Packed(tmp_path / "out" / packed.NAME)._texts.items() if name.endswith("index.csv"))
    assert text.splitlines()[0] == "row_id,rep,group,prompt,file" and "a word" not in text
