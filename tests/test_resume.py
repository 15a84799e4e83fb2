"""Loops that go on after a kill: what is restored, what is counted, and what is left on disk in the end."""

import pytest
import torch

from vestige.bench.contract import resume
from vestige.bench.contract.resume import Progress
from vestige.bench.run.store import SCRATCH, Store

SPEC = {"stage": "demo"}


def train(progress, history, stop=None, steps=6):
    """A small training run with momentum, noise and a list; raises in the middle of step `stop`."""
    weight, generator, seen = torch.nn.Parameter(torch.zeros(3)), torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam([weight], lr=0.1)
    parts = {"weight": [weight], "optimiser": optimiser, "generator": generator, "seen": seen}
    for step in progress.loop("training", range(steps), history, parts):
        weight.grad = torch.randn(3, generator=generator)
        optimiser.step()
        if step == stop:
            raise KeyboardInterrupt
        seen.append((step, weight.sum().item()))
        history.append({"step": step})
    return weight.detach().clone(), seen, generator.get_state()


def test_a_run_that_was_killed_twice_equals_one_in_peace(tmp_path):
    calm, quiet = [], Progress()
    expected = train(quiet, calm)
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train(Progress(tmp_path, every=0.0), [], stop)
    history = []
    weight, seen, state = train(Progress(tmp_path, every=0.0), history)
    assert torch.equal(weight, expected[0]) and seen == expected[1] and torch.equal(state, expected[2]) and history == calm


def test_the_cost_is_that_of_the_whole_run_and_repeated_work_counts_once(tmp_path):
    calls = {"calls": 0}

    def work(stop=None):
        calls["calls"] = 100  # another process has counters of its own
        progress = Progress(tmp_path, lambda: dict(calls), every=0.0)
        calls["calls"] += 7  # preparation, paid once
        for step in progress.loop("search", range(4), [], {}):
            calls["calls"] += 1
            if step == stop:
                raise KeyboardInterrupt
        return progress.spent()

    for stop in (1, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            work(stop)
    assert work() == {"calls": 7 + 4}


def test_loops_may_be_nested_and_an_inner_one_starts_from_its_own_state(tmp_path):
    def work(stop=None):
        progress, found, history = Progress(tmp_path, every=0.0), [], []
        for row in progress.loop("rows", ["a", "b"], history, {"found": found}):
            inner = {"sum": 0}
            for k in progress.loop(row, range(3), history, {"inner": inner}):
                if (row, k) == stop:
                    raise KeyboardInterrupt
                inner["sum"] += k + 1
                history.append((row, k))
            found.append(inner["sum"])
        return found, history

    with pytest.raises(KeyboardInterrupt):
        work(("b", 1))
    assert work() == ([6, 6], [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)])


def test_checkpoints_are_rare_and_without_a_folder_there_are_none(tmp_path, monkeypatch):
    train(Progress(tmp_path / "rare", every=3600.0), [])
    assert not (tmp_path / "rare").exists()
    now = iter(range(1000))
    monkeypatch.setattr(resume.time, "monotonic", lambda: next(now))
    kept = []
    monkeypatch.setattr(resume.os, "replace", lambda *_: kept.append(1))
    train(Progress(tmp_path / "slow", every=0.0), [], steps=60)
    assert 1 <= len(kept) <= 60 * 2 * resume.SHARE, "a checkpoint that takes a second may come every twenty"


def test_the_state_is_read_without_running_code_from_the_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code from a checkpoint was run",))

    tmp_path.mkdir(exist_ok=True)
    torch.save({"done": 1, "history": [], "spent": {}, "parts": {"x": Bomb()}}, tmp_path / "loop.pt")
    with pytest.raises(Exception, match=r"(?i)weights"):
        next(Progress(tmp_path).loop("loop", range(2), [], {"x": None}))


def test_what_only_an_unfinished_stage_needs_is_gone_in_the_end(tmp_path):
    store = Store(tmp_path)

    def make(folder, stop=None):
        result, _, _ = train(Progress(folder / SCRATCH, every=0.0), [], stop)
        (folder / "result.txt").write_text(str(result.tolist()))

    with pytest.raises(KeyboardInterrupt):
        store.stage("attack", SPEC, "demo", lambda folder: make(folder, 3))
    assert list((tmp_path / "attack" / ".partial").glob(f"*/{SCRATCH}/*.pt"))
    stage = store.stage("attack", SPEC, "demo", make)
    assert sorted(file.name for file in stage.path.iterdir()) == ["result.txt", "stage.json"]
    assert list(stage.meta["files"]) == ["result.txt"]
