"""Jobs that are run again: from another store, with other code, failing, and what gc leaves in peace."""

import json
from pathlib import Path

import pytest
from newcomer import quick_words

from vestige.bench import cli
from vestige.bench.run import composing, generate, record, runner, tree
from vestige.bench.run.stages import Stages
from vestige.bench.run.store import Store
from vestige.bench.run.store_locks import Busy


def words_of(place, *words):
    return quick_words(place, "concept=[dog]", "method=original", *words)


def job(place, *words):
    return composing.build_job(tree.composed(words_of(place, *words)))


def only_record(folder: Path) -> dict:
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("error, status", [(RuntimeError("out of memory"), "failed"), (Busy("it is being computed"), "busy")])
def test_a_rerun_that_fails_stands_beside_the_finished_record_until_one_succeeds(tmp_path, monkeypatch, capsys, error, status):
    done = runner.run_job(job(tmp_path))
    assert done["status"] == "done", done["error"]

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Stages, "erase", fails)
    assert runner.run_job(job(tmp_path))["status"] == status
    assert only_record(tmp_path / "records") == json.loads(json.dumps(done)), "the finished one stands"
    assert only_record(tmp_path / "records" / record.FAILED)["status"] == status
    asked = ["--records", str(tmp_path / "records"), "--store", str(tmp_path / "store")]
    assert cli.main(["status", *asked]) == 0
    told = capsys.readouterr().out
    assert f"{status:<11} a later run of {done['key']}; its earlier result is kept" in told and str(error) in told
    monkeypatch.undo()
    assert runner.run_job(job(tmp_path))["status"] == "done"
    assert not list((tmp_path / "records" / record.FAILED).glob("*"))


def test_a_first_run_that_fails_is_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(Stages, "erase", lambda self: 1 / 0)
    runner.run_job(job(tmp_path))
    assert only_record(tmp_path / "records")["status"] == "failed"
    monkeypatch.undo()
    runner.run_job(job(tmp_path))
    assert only_record(tmp_path / "records")["status"] == "done"


def test_a_job_whose_images_lie_in_another_store_reads_them_there(tmp_path, monkeypatch):
    first = runner.run_job(job(tmp_path / "there"))
    monkeypatch.setattr(generate, "draw", lambda *_: pytest.fail("an image was drawn"))
    again = runner.run_job(job(tmp_path / "here", f"runtime.read_from=[{tmp_path}/there/store]"))
    assert again["status"] == "done", again["error"]
    assert again["cost"] == first["cost"] and again["cost"]["rows_per_image"] > 0
    assert [c["value"] for c in again["cells"]] == [c["value"] for c in first["cells"]]
    assert not Store(tmp_path / "here" / "store").stages(), "nothing was made here"


def test_a_relative_place_to_read_from_counts_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    assert job(tmp_path, "runtime.read_from=[other]").runtime.open_store().read_from == [tmp_path / "other"]


def test_images_that_were_deleted_in_a_store_that_is_only_read_are_drawn_here(tmp_path):
    runner.run_job(job(tmp_path / "there", "until=generate"))
    there = Store(tmp_path / "there" / "store")
    (reference,) = [f"images/{s['folder'].name}" for s in there.stages() if s["kind"] == "images"]
    there.strip(there.open(reference), "png/*")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "there" / "store").glob("*/*/*")}
    again = runner.run_job(job(tmp_path / "here", f"runtime.read_from=[{tmp_path}/there/store]"))
    assert again["status"] == "done", again["error"]
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "there" / "store").glob("*/*/*")}
    assert len(list((tmp_path / "here" / "store" / "images").glob("*/png/*.png"))) == 2


def test_the_record_tells_the_code_of_its_stages(tmp_path):
    made = runner.run_job(job(tmp_path))
    codes = {f"{s['kind']}/{s['folder'].name}": s["code"] for s in Store(tmp_path / "store").stages()}
    assert set(made["code"]) == {"erase", "images"} and made["stale"] == []
    for cell in made["cells"]:
        assert cell["code"]["images"] == codes[cell["images"]] == made["code"]["images"]
        assert cell["code"]["score"] == codes[cell["score"]]


# Command line


def vestige(verb, place, *words, capsys):
    code = cli.main([verb, *words_of(place, f"hydra.run.dir={place}/hydra", *words)])
    return code, *capsys.readouterr()


def of_other_code(place) -> None:
    """As if today's code had made none of the stages."""
    from vestige.bench.run.store_folder import sealed

    for file in (place / "store").glob("*/*/stage.json"):
        meta = json.loads(file.read_text())
        meta.pop("seal")
        file.write_text(sealed(meta | {"code": "0" * 16}))


def test_stale_results_are_named_by_plan_and_run_refused_or_made_again(tmp_path, capsys):
    code, out, _ = vestige("run", tmp_path, capsys=capsys)
    assert code == 0 and "stale" not in out
    of_other_code(tmp_path)
    done = only_record(tmp_path / "records")
    code, out, _ = vestige("plan", tmp_path, capsys=capsys)
    assert code == 0 and "cached, stale (the code that makes it has changed since): kept" in out
    assert "stale: 2 results were made by earlier code; they are kept (runtime.stale)" in out
    code, out, _ = vestige("run", tmp_path, capsys=capsys)
    assert code == 0 and "results made by other code were used, first erase/" in out
    kept = only_record(tmp_path / "records")
    assert {reference.partition("/")[0] for reference in kept["stale"]} == {"erase", "images", "score"}
    assert kept["code"] == {"erase": "0" * 16, "images": "0" * 16}, "the code that made them, not today's"
    code, out, _ = vestige("plan", tmp_path, "runtime.stale=refuse", capsys=capsys)
    assert code == 0 and "they are refused" in out
    code, out, err = vestige("run", tmp_path, "runtime.stale=refuse", capsys=capsys)
    assert code == 2 and "is stale: the code that makes it has changed since" in err and "runtime.stale=recompute" in err
    assert only_record(tmp_path / "records") == kept
    code, out, _ = vestige("run", tmp_path, "runtime.stale=recompute", capsys=capsys)
    assert code == 0 and "stale" not in out
    fresh = only_record(tmp_path / "records")
    assert fresh["stale"] == [] and fresh["code"] == done["code"]
    assert vestige("run", tmp_path, "runtime.stale=refuse", capsys=capsys)[0] == 0


def test_a_store_of_another_schema_is_refused_before_anything_runs(tmp_path, capsys):
    old = tmp_path / "store" / "erase" / "x"
    old.mkdir(parents=True)
    (old / "stage.json").write_text(json.dumps({"schema": 1, "files": {}}))
    for words in ((), (f"runtime.store={tmp_path}/new", f"runtime.read_from=[{tmp_path}/store]")):
        code, _, err = vestige("run", tmp_path, *words, capsys=capsys)
        assert code == 2 and "written in schema 1" in err and "runtime.store=/path" in err
    assert cli.main(["status", "--store", str(tmp_path / "store")]) == 2


def test_a_rule_for_stale_results_that_is_none_is_refused(tmp_path, capsys):
    code, _, err = vestige("run", tmp_path, "runtime.stale=maybe", capsys=capsys)
    assert code == 2 and "Allowed: keep, refuse, recompute" in err


def test_status_names_a_damaged_stage_and_verify_reads_every_file(tmp_path, capsys):
    runner.run_job(job(tmp_path))
    asked = ["status", "--records", str(tmp_path / "records"), "--store", str(tmp_path / "store")]
    assert cli.main([*asked, "--verify"]) == 0
    image = next((tmp_path / "store" / "images").glob("*/png/*.png"))
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    assert cli.main(asked) == 0, "its size is right"
    assert cli.main([*asked, "--verify"]) == 1
    assert image.name in capsys.readouterr().out
    image.write_bytes(content[:-5])
    assert cli.main(asked) == 1


# gc


def collected(capsys, *words) -> tuple[int, str, str]:
    return cli.main(["gc", *map(str, words)]), *capsys.readouterr()


def test_gc_keeps_what_any_folder_of_records_needs_and_says_which_it_considered(tmp_path, monkeypatch, capsys):
    project = tmp_path / "project"
    monkeypatch.setenv("VESTIGE_RESULTS", str(project / "results"))
    store = project / "results" / "store"
    for name in ("records", "study/records", "deep/er/records"):
        number = len(list(project.glob("results/**/records")))
        runner.run_job(
            job(tmp_path, f"runtime.store={store}", f"runtime.records={project}/results/{name}", f"split.target.rows={2 + number}")
        )
    elsewhere = tmp_path / "elsewhere"
    runner.run_job(job(tmp_path, f"runtime.store={store}", f"runtime.records={elsewhere}", "split.target.rows=6"))
    before = set(store.glob("*/*/stage.json"))
    code, out, _ = collected(capsys, "--store", store, "--records", elsewhere, "--delete")
    assert code == 0 and set(store.glob("*/*/stage.json")) == before and out.count("kept: the results of 1 records in") == 4
    code, out, _ = collected(capsys, "--store", store)
    assert "1 stages" not in out and len(set(store.glob("*/*/stage.json"))) == len(before) and "not needed" in out
    code, out, _ = collected(capsys, "--store", store, "--delete")
    gone = before - set(store.glob("*/*/stage.json"))
    assert {file.parent.parent.name for file in gone} == {"images", "features", "score"} and str(elsewhere) not in out
    left = set(store.glob("*/*/stage.json"))
    for rows in (2, 3, 4):
        runner.run_job(job(tmp_path, f"runtime.store={store}", f"runtime.records={tmp_path}/again", f"split.target.rows={rows}"))
    assert set(store.glob("*/*/stage.json")) == left, "what the records of the project need was all there"


def test_gc_deletes_nothing_where_no_record_is_considered(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "empty"))
    runner.run_job(job(tmp_path))
    code, _, err = collected(capsys, "--store", tmp_path / "store", "--delete")
    assert code == 2 and "--records FOLDER" in err and Store(tmp_path / "store").stages()


def test_gc_keeps_what_a_kept_stage_was_made_from(tmp_path, monkeypatch, capsys):
    """Images of the original that an eraser asked for are named by no record."""
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "empty"))
    from dataclasses import replace

    from test_cost import Asking

    runner.run_job(replace(job(tmp_path, "until=erase"), method=Asking()))
    (images,) = (tmp_path / "store" / "images").glob("*/stage.json")
    code, _, _ = collected(capsys, "--store", tmp_path / "store", "--records", tmp_path / "records", "--delete")
    assert code == 0 and images.exists()


def test_gc_leaves_what_another_process_is_reading(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "empty"))
    runner.run_job(job(tmp_path))
    store = Store(tmp_path / "store")
    stage = store.stage("erase", {"stage": "unused"}, "unused", lambda folder: None)
    with store.reading(stage):
        _, out, _ = collected(capsys, "--store", store.root, "--records", tmp_path / "records", "--delete")
        assert "left: " in out and stage.path.exists()
    collected(capsys, "--store", store.root, "--records", tmp_path / "records", "--delete")
    assert not stage.path.exists()
