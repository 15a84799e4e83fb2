"""The store under hits, crashes, two writers and tampering."""

import json
import multiprocessing
import os
import time

import pytest

from bench.store import Busy, Store, first_difference

SPEC = {"stage": "demo", "steps": 3, "params": {"lr": 0.1}}


def write_one(folder):
    (folder / "a.txt").write_text("done")


def test_a_second_request_computes_nothing(tmp_path):
    store, calls = Store(tmp_path), []
    for _ in range(2):
        stage = store.stage("erase", SPEC, "demo", lambda folder: calls.append(1) or write_one(folder))
    assert calls == [1] and (stage.path / "a.txt").read_text() == "done"


def test_another_specification_is_another_stage(tmp_path):
    store = Store(tmp_path)
    one = store.stage("erase", SPEC, "demo", write_one)
    two = store.stage("erase", {**SPEC, "steps": 4}, "demo", write_one)
    assert one.path != two.path


def test_a_failed_stage_is_never_final_and_is_continued(tmp_path):
    store = Store(tmp_path)

    def fails(folder):
        (folder / "first").write_text("1")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        store.stage("erase", SPEC, "demo", fails)
    assert store.find("erase", SPEC, "demo") is None
    seen = []
    store.stage("erase", SPEC, "demo", lambda folder: seen.extend(sorted(f.name for f in folder.iterdir())))
    assert seen == ["first"]


def test_a_stage_made_for_another_specification_is_named_and_not_used(tmp_path):
    store = Store(tmp_path)
    stage = store.stage("erase", SPEC, "demo", write_one)
    meta = json.loads((stage.path / "stage.json").read_text())
    meta["specification"]["params"]["lr"] = 0.2
    (stage.path / "stage.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"params\.lr: 0\.1 requested, 0\.2 stored"):
        store.stage("erase", SPEC, "demo", write_one)
    assert stage.path.exists()


@pytest.mark.parametrize("damage", [lambda f: f.write_text("{"), lambda f: f.unlink()])
def test_a_corrupted_stage_is_named_and_not_deleted(tmp_path, damage):
    store = Store(tmp_path)
    stage = store.stage("erase", SPEC, "demo", write_one)
    damage(stage.path / "stage.json")
    with pytest.raises(ValueError, match="move it away"):
        store.stage("erase", SPEC, "demo", write_one)
    assert (stage.path / "a.txt").exists()


def slow_worker(root, counter, die_after=None):
    def make(folder):
        for k in range(6):
            file = folder / f"{k}.txt"
            if not file.exists():
                with open(counter, "a") as handle:
                    handle.write(f"{k}\n")
                file.write_text(str(k))
                if k == die_after:
                    os._exit(9)
            time.sleep(0.02)

    Store(root).stage("images", SPEC, "demo", make)


def test_two_processes_compute_a_stage_once(tmp_path):
    counter = tmp_path / "count"
    workers = [multiprocessing.Process(target=slow_worker, args=(tmp_path / "store", counter)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(counter.read_text().split()) == list("012345")


def test_the_next_worker_finishes_what_a_killed_one_began(tmp_path):
    counter = tmp_path / "count"
    first = multiprocessing.Process(target=slow_worker, args=(tmp_path / "store", counter, 3))
    first.start()
    first.join(30)
    assert first.exitcode == 9
    slow_worker(tmp_path / "store", counter)
    assert sorted(counter.read_text().split()) == list("012345")


def test_a_busy_stage_is_skipped_when_asked(tmp_path):
    busy, free = Store(tmp_path, on_busy="skip"), Store(tmp_path)
    from bench.store import folder_name

    with free._locked(folder_name(SPEC, "demo")), pytest.raises(Busy):
        busy.stage("erase", SPEC, "demo", write_one)


def test_integers_and_floats_are_different_specifications():
    assert first_difference({"a": 1}, {"a": 1.0}) == "a: 1 requested, 1.0 stored"
    assert first_difference(SPEC, SPEC) is None


def test_an_unwritable_folder_is_refused_with_the_setting_to_change(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=r"runtime\.store"):
        Store(blocked / "store").check_writable()
