"""A grid that is killed again and again, and a grid that two processes run at once, end like one that ran in peace."""

import random
import signal
import subprocess
import sys
import time

from newcomer import environment_for, run_words, vestige

GRID = ["-m", "method=original,mine", "concept=dog,cat", "attack=none,shout"]
KILLS = 6


def start(outside, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "vestige", *words_for(outside, name)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment_for(outside), cwd=outside, **quiet)


def words_for(outside, name: str) -> list[str]:
    """The grid with a store and records of its own."""
    places = [f"runtime.store={outside}/{name}", f"runtime.records={outside}/{name}-records"]
    return run_words(outside, *GRID, "split.small.rows=24", "model.sampler.steps=6", places=places)


def leaderboard(outside, name: str) -> str:
    done = vestige("table", "--store", str(outside / name), "--records", str(outside / f"{name}-records"), path=outside)
    assert done.returncode == 0, done.stderr
    numbers, _, cost = done.stdout.partition("## Cost")
    assert cost, "the table has a cost section, whose seconds differ between runs"
    return numbers


def stamps(store) -> dict:
    return {file: file.stat().st_mtime_ns for file in store.glob("*/*/stage.json")}


def test_a_grid_killed_at_random_moments_ends_with_the_same_table(outside):
    begun = time.time()
    assert start(outside, "calm").wait() == 0
    length, draw, seen = time.time() - begun, random.Random(1), {}
    for _ in range(KILLS):
        run = start(outside, "killed")
        time.sleep(draw.uniform(0.5, 1.0) * length)
        run.send_signal(signal.SIGKILL)
        run.wait()
        now = stamps(outside / "killed")
        assert seen.items() <= now.items(), "a finished stage was computed again"
        seen = now
    assert start(outside, "killed").wait() == 0
    assert seen.items() <= stamps(outside / "killed").items()
    assert leaderboard(outside, "killed") == leaderboard(outside, "calm")
    assert not list((outside / "killed").glob("*/.partial/*")), "no unfinished stage is left behind"


def test_two_processes_share_a_grid_and_both_finish(outside):
    both = [start(outside, "shared") for _ in range(2)]
    assert [run.wait() for run in both] == [0, 0]
    names = [f.parent.name for f in stamps(outside / "shared")]
    assert len(names) == len(set(names))
    first = leaderboard(outside, "shared")
    before = stamps(outside / "shared")
    assert start(outside, "shared").wait() == 0
    assert stamps(outside / "shared") == before and leaderboard(outside, "shared") == first
