"""The store under hits, crashes, two writers and tampering.

Long because each way to lose a stage is a test, on one made-up store.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import time
from contextlib import suppress

import pytest

from vestige.bench.contract.types import canonical_hash
from vestige.bench.run import store as store_module
from vestige.bench.run import store_folder
from vestige.bench.run.store import Stale, Store
from vestige.bench.run.store_folder import Damaged, first_difference, folder_name
from vestige.bench.run.store_locks import Busy, locked

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


def another_specification(stage):
    """As if two specifications had one name: the seal is right, the content is another's."""
    meta = json.loads((stage.path / "stage.json").read_text())
    meta.pop("seal")
    meta["specification"]["params"]["lr"] = 0.2
    (stage.path / "stage.json").write_text(store_folder.sealed(meta))


DAMAGES = {
    "another specification": (another_specification, r"params\.lr: 0\.1 requested, 0\.2 stored"),
    "half a stage.json": (lambda stage: (stage.path / "stage.json").write_text("{"), "unreadable"),
    "no stage.json": (lambda stage: (stage.path / "stage.json").unlink(), "missing"),
    "a lost file": (lambda stage: (stage.path / "a.txt").unlink(), r"lost its file a\.txt"),
    "a cut file": (lambda stage: (stage.path / "a.txt").write_text("do"), r"changed after it was written: a\.txt"),
    "a file of the same length": (lambda stage: (stage.path / "a.txt").write_text("dine"), r"changed after it was written: a\.txt"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stage_is_named_set_aside_and_made_again(tmp_path, damage, capsys):
    store = Store(tmp_path)
    stage, other = store.stage("erase", SPEC, "demo", write_one), store.stage("erase", {**SPEC, "steps": 4}, "demo", write_one)
    harm, said = DAMAGES[damage]
    harm(stage)
    assert store.find("erase", SPEC, "demo") is None and stage.path.exists(), "looking it up changes nothing"
    again = store.stage("erase", SPEC, "demo", write_one)
    assert (again.path / "a.txt").read_text() == "done" and store.open(other.reference).meta == other.meta
    (aside,) = store.set_aside()
    told = capsys.readouterr().err
    assert re.search(said, told) and str(stage.path) in told and str(aside) in told


def test_a_file_is_read_again_when_it_was_changed_and_its_size_and_times_put_back(tmp_path):
    store = Store(tmp_path)
    stage = store.stage("erase", SPEC, "demo", write_one)
    file = stage.path / "a.txt"
    time.sleep(0.2)  # so that its digest is remembered
    assert store.find("erase", SPEC, "demo")
    facts = file.stat()
    file.write_text("dine")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert store.find("erase", SPEC, "demo") is None


def test_a_table_reads_no_file_that_was_cut(tmp_path):
    stage = Store(tmp_path).stage("score", SPEC, "demo", lambda f: (f / "per_image.csv").write_text("row_id\n" + "1\n" * 100) and None)
    assert store_folder.text_of(stage.path, "per_image.csv").count("1") == 100
    (stage.path / "per_image.csv").write_text("row_id\n" + "1\n" * 10)
    with pytest.raises(Damaged, match="per_image"):
        store_folder.text_of(stage.path, "per_image.csv")


def make_some(folder):
    (folder / "png").mkdir()
    for k in range(3):
        (folder / "png" / f"{k}.png").write_bytes(random.Random(k).randbytes(200))
    (folder / "index.csv").write_text("row_id,rep\n" + "".join(f"{k},0\n" for k in range(3)))


def kill(file, draw):
    file.unlink()


def truncate(file, draw):
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def flip(file, draw):
    content, place = bytearray(file.read_bytes()), draw.randrange(file.stat().st_size)
    content[place] ^= 1 << draw.randrange(8)
    facts = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_fifty_random_damages_are_each_found_named_and_mended_and_nothing_else_is_touched(tmp_path, capsys):
    specs = [{**SPEC, "steps": k} for k in range(4)]
    first = {k: Store(tmp_path).stage("images", spec, f"n{k}", make_some) for k, spec in enumerate(specs)}
    truth = {file: file.read_bytes() for stage in first.values() for file in stage.path.rglob("*") if file.is_file()}
    draw = random.Random(7)
    for _ in range(50):
        hit = draw.randrange(4)
        file = draw.choice(sorted(f for f in first[hit].path.rglob("*") if f.is_file()))
        before = json.loads(file.read_bytes()) if file.name == "stage.json" else file.read_bytes()
        draw.choice([kill, truncate, flip])(file, draw)
        if file.exists() and file.name == "stage.json":
            try:
                if json.loads(file.read_bytes()) == before:
                    continue  # between the words, where nothing is read
            except ValueError:
                pass
        stamps = {f: f.stat().st_mtime_ns for k in first if k != hit for f in first[k].path.rglob("*")}
        store = Store(tmp_path)
        assert store.open(first[hit].reference) is None, f"{file} was read"
        assert store.find("images", specs[hit], f"n{hit}") is None, f"{file} was read"
        capsys.readouterr()
        found = [store.stage("images", spec, f"n{k}", make_some) for k, spec in enumerate(specs)]
        assert store.computed == [first[hit].reference] and first[hit].path.name in capsys.readouterr().err
        assert stamps == {f: f.stat().st_mtime_ns for f in stamps}, "another stage was touched"
        for stage in found:
            assert all((stage.path / name).read_bytes() == truth[stage.path / name] for name in stage.meta["files"])
    assert len(Store(tmp_path).set_aside()) >= 40


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
    busy = Store(tmp_path, on_busy="skip")
    with locked(tmp_path, folder_name(SPEC, "demo"), wait=False), pytest.raises(Busy):
        busy.stage("erase", SPEC, "demo", write_one)


def test_integers_and_floats_are_different_specifications():
    assert first_difference({"a": 1}, {"a": 1.0}) == "a: 1 requested, 1.0 stored"
    assert first_difference(SPEC, SPEC) is None


def test_an_unwritable_folder_is_refused_with_the_setting_to_change(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=r"store cannot be written.*VESTIGE_RESULTS=/path.*runtime\.store=/path"):
        Store(blocked / "store").check()


# Kills in the middle of a change


class Dying:
    """Calls that change the disk; the one of this number kills the process instead."""

    def __init__(self, monkeypatch, number: int) -> None:
        self.left = number
        for place, name in (
            (os, "replace"),
            (shutil, "rmtree"),
            (shutil, "copy2"),
            (store_module, "write_synced"),
            (store_folder, "write_synced"),
        ):
            monkeypatch.setattr(place, name, self.before(getattr(place, name)))

    def before(self, honest):
        def call(*given, **named):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return honest(*given, **named)

        return call


def stripped(root):
    store = Store(root)
    store.strip(store.find("images", SPEC, "demo"), "png/*")


def made_again(root):
    Store(root, stale="recompute").stage("images", SPEC, "demo", make_some, code="new")


def removed(root):
    store = Store(root)
    store.remove(store.find("images", SPEC, "demo").path)


@pytest.mark.parametrize("change", [stripped, made_again, removed])
def test_a_kill_at_any_step_of_a_change_leaves_the_old_stage_the_new_one_or_none(tmp_path, change):
    for number in range(100):
        root = tmp_path / str(number)
        Store(root).stage("images", SPEC, "demo", make_some, code="old")
        with pytest.MonkeyPatch.context() as patch:
            dying = Dying(patch, number)
            with suppress(KeyboardInterrupt):
                change(root)
            over = dying.left >= 0
        store = Store(root)
        found = store.find("images", SPEC, "demo")
        assert not store.damaged
        assert found is None or (list(found.meta["files"]) == ["index.csv"] if found.stripped else read_whole(found))
        again = store.stage("images", SPEC, "demo", make_some, code="old", usable=lambda stage: not stage.stripped)
        assert read_whole(again)
        store.strip(again, "png/*")
        store.sweep()
        assert not list(root.glob("*/*/*/*.png")) and not list(root.glob("*/.trash/**/*.png")), "an image is left somewhere"
        if over:
            break
    assert over and number >= 2


# Readers and writers of one stage


def read_whole(stage) -> bool:
    """All three images, none of them half."""
    return [(stage.path / "png" / f"{k}.png").read_bytes() for k in range(3)] == [random.Random(k).randbytes(200) for k in range(3)]


def strip_again_and_again(root, until):
    store = Store(root)
    while not until.is_set():
        store.strip(store.stage("images", SPEC, "demo", make_some), "png/*")


def test_two_processes_strip_and_read_and_nobody_sees_half_a_stage(tmp_path):
    until = multiprocessing.Event()
    other = multiprocessing.Process(target=strip_again_and_again, args=(tmp_path, until))
    other.start()
    try:
        store, whole = Store(tmp_path), lambda stage: not stage.stripped
        for _ in range(60):
            with store.reading(lambda: store.stage("images", SPEC, "demo", make_some, usable=whole)) as stage:
                assert read_whole(stage)
                time.sleep(0.002)  # time to be stripped, were it not held
                assert read_whole(stage)
    finally:
        until.set()
        other.join(30)
    assert other.exitcode == 0 and store.computed, "the other one did strip"
    assert not store.damaged and not store.set_aside()


def test_what_a_stage_in_the_making_holds_stays_until_it_is_finished(tmp_path):
    store = Store(tmp_path)
    stage = store.stage("images", SPEC, "demo", make_some)

    def make(folder):
        store.held(lambda: stage)
        with pytest.raises(Busy, match="being read"):
            Store(tmp_path).remove(stage.path)
        write_one(folder)

    made = store.stage("score", {**SPEC, "stage": "score"}, "demo", make)
    assert made.meta["inputs"] == {stage.reference: stage.digest}
    Store(tmp_path).remove(stage.path)
    assert not stage.path.exists() and not list(tmp_path.glob("*/.trash/*"))


def test_a_stripped_stage_keeps_the_digest_of_the_whole_and_is_not_damaged(tmp_path):
    store = Store(tmp_path)
    stage = store.stage("images", SPEC, "demo", make_some)
    store.strip(stage, "png/*")
    lean = store.find("images", SPEC, "demo")
    assert lean.stripped and lean.digest == stage.digest and list(lean.meta["files"]) == ["index.csv"]
    assert not list(tmp_path.glob("images/**/*.png")), "nor is any left in a bin"


# Other stores


def test_a_store_that_is_only_read_gives_its_stages_and_is_never_changed(tmp_path):
    there = Store(tmp_path / "there")
    stage = there.stage("images", SPEC, "demo", make_some)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "there").rglob("*.png")}
    here = Store(tmp_path / "here", read_from=[tmp_path / "there"])
    found = here.stage("images", SPEC, "demo", make_some)
    assert found.path == stage.path and here.open(stage.reference).path == stage.path
    here.strip(found, "png/*")
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "there").rglob("*.png")} == before
    there.strip(stage, "png/*")
    again = here.stage("images", SPEC, "demo", make_some, usable=lambda stage: not stage.stripped)
    assert again.path.is_relative_to(tmp_path / "here") and read_whole(again)


def test_a_store_of_another_schema_is_refused_and_left_as_it_is(tmp_path):
    old = tmp_path / "erase" / f"demo-{canonical_hash(SPEC)}"
    old.mkdir(parents=True)
    meta = {"schema": 1, "kind": "erase", "key": "k", "specification": SPEC, "files": {}, "digest": "d"}
    (old / "stage.json").write_text(json.dumps(meta))
    for ask in (Store(tmp_path).check, Store(tmp_path / "new", read_from=[tmp_path]).check, Store(tmp_path).stages):
        with pytest.raises(ValueError, match="schema 1, and this version of Vestige reads schema 2"):
            ask()
    with pytest.raises(ValueError, match="schema 1"):
        Store(tmp_path).stage("erase", SPEC, "demo", write_one)
    assert [f.name for f in old.iterdir()] == ["stage.json"]


def test_a_place_to_read_from_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"runtime\.read_from.*nowhere"):
        Store(tmp_path / "here", read_from=[tmp_path / "nowhere"]).check()


# Other code


def test_a_stage_of_other_code_is_kept_and_named_refused_or_made_again(tmp_path):
    first = Store(tmp_path).stage("erase", SPEC, "demo", write_one, code="old")
    keep = Store(tmp_path)
    assert keep.stage("erase", SPEC, "demo", pytest.fail, code="new").digest == first.digest
    assert list(keep.kept) == [first.reference] and not Store(tmp_path).kept
    with pytest.raises(Stale, match=r"the code that makes it has changed.*runtime\.stale=recompute"):
        Store(tmp_path, stale="refuse").stage("erase", SPEC, "demo", pytest.fail, code="new")
    again = Store(tmp_path, stale="recompute")
    assert again.stage("erase", SPEC, "demo", write_one, code="new").meta["code"] == "new"
    assert again.computed == [first.reference] and len(Store(tmp_path).stages()) == 1
    assert not again.kept and Store(tmp_path, stale="refuse").find("erase", SPEC, "demo", "new")
    with pytest.raises(ValueError, match=r"runtime\.stale='maybe'.*keep, refuse, recompute"):
        Store(tmp_path, stale="maybe")


def chain(store, text, code):
    """A stage, and one made from it."""
    first = store.stage("erase", SPEC, "first", lambda folder: (folder / "a.txt").write_text(text) and None, code=code)

    def make(folder):
        with store.reading(first) as stage:
            (folder / "b.txt").write_text((stage.path / "a.txt").read_text() * 2)

    return store.stage("images", {**SPEC, "stage": "images"}, "second", make, code="same")


def test_what_was_made_from_a_stage_that_came_out_otherwise_is_made_again_too(tmp_path):
    chain(Store(tmp_path), "one", "old")
    equal = Store(tmp_path, stale="recompute")
    chain(equal, "one", "equal")
    assert len(equal.computed) == 1, "the same result: nothing follows from it"
    other = Store(tmp_path, stale="recompute")
    assert (chain(other, "two", "new").path / "b.txt").read_text() == "twotwo" and len(other.computed) == 2


def test_half_a_stage_of_other_code_is_not_continued(tmp_path):
    def dies(folder):
        (folder / "0.txt").write_text("by old code")
        raise KeyboardInterrupt

    for code, left in (("old", ["0.txt", "a.txt"]), ("new", ["a.txt"])):
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path).stage("images", {**SPEC, "for": code}, "demo", dies, code="old")
        made = Store(tmp_path).stage("images", {**SPEC, "for": code}, "demo", write_one, code=code)
        assert list(made.meta["files"]) == left
