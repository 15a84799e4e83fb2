"""Hydra's launchers give the same records, the same lines on the parent's screen and the same exit codes: in this process, in worker
processes (joblib) and as jobs of a cluster (submitit, here on this machine)."""

import json

import pytest
from newcomer import run_words, vestige

from vestige.bench.run import sweep
from vestige.bench.run.outcomes import Outcome, exit_code, read

OF_THE_MACHINE = ("provenance", "cost", "code", "command", "error", "cells")
ELSEWHERE = ["joblib", "submitit_local"]
BREAKS = """
import os
from dataclasses import dataclass
from vestige.bench.contract.plugin import Method

@dataclass
class Breaks(Method):
    how: str
    def erase(self, pipe, concepts, ctx):
        if self.how == "killed":
            os._exit(1)
        raise RuntimeError("no erasure today")
"""


def needed(launcher: str) -> None:
    if launcher != "basic" and not sweep.installed(launcher):
        pytest.skip(f"hydra/launcher={launcher} is not installed: pip install 'vestige[{sweep.LAUNCHERS[launcher]}]'")


def swept(outside, launcher, *words):
    """A grid of a job that ends well and one that fails."""
    needed(launcher)
    (outside / "breaking.py").write_text(BREAKS)
    (outside / "conf/method/breaks.yaml").write_text("name: breaks\n_target_: breaking.Breaks\nhow: raises\n")
    grid = ["-m", f"hydra/launcher={launcher}", "method=breaks,mine", "runtime.threads=1", *words]
    if launcher == "joblib":
        grid.append("hydra.launcher.n_jobs=2")
    return vestige(*run_words(outside, *grid), path=outside)


def records(outside) -> dict:
    return {(record := json.loads(file.read_text()))["method"]: record for file in (outside / "records").glob("*.json")}


def same(record: dict) -> dict:
    """What of a record does not depend on where and when it was made."""
    kept = {name: value for name, value in record.items() if name not in OF_THE_MACHINE}
    kept["steps"] = [{name: value for name, value in step.items() if name != "seconds"} for step in record["steps"]]
    return kept | {"values": [(cell["split"], cell["column"], cell["value"]) for cell in record["cells"]]}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ELSEWHERE)
def test_a_sweep_elsewhere_gives_the_records_lines_and_exit_code_of_one_here(outside, launcher, tmp_path):
    elsewhere = swept(outside, launcher)
    found = records(outside)
    places = [f"runtime.store={tmp_path}/here/store", f"runtime.records={tmp_path}/here/records"]
    here = swept(outside, "basic", *places)
    known = records(tmp_path / "here")

    assert elsewhere.returncode == here.returncode == 1
    assert elsewhere.stdout == here.stdout and "done        mine x dog" in here.stdout and "failed      breaks x dog" in here.stdout
    assert "failed: breaks x dog: RuntimeError: no erasure today" in elsewhere.stderr
    assert found.keys() == known.keys() == {"mine", "breaks"}
    for method, record in found.items():
        assert same(record) == same(known[method])
        assert record["command"].startswith("vestige run --config-dir"), "the command as typed, not that of the worker"
        assert record["provenance"]["threads"] == 1, "runtime.threads holds in workers"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ELSEWHERE)
def test_a_plan_elsewhere_runs_nothing_and_says_what_one_here_says(outside, launcher):
    needed(launcher)
    words = run_words(outside, "-m", "method=original,mine", "concept=dog")[1:]
    elsewhere = vestige("plan", *words, f"hydra/launcher={launcher}", path=outside)
    here = vestige("plan", *words, path=outside)
    assert elsewhere.returncode == here.returncode == 0
    assert elsewhere.stdout == here.stdout and "in all: 2 jobs" in here.stdout
    assert not (outside / "records").exists() and not list((outside / "store").glob("*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", *ELSEWHERE])
def test_bad_input_is_refused_with_a_sentence_wherever_the_job_runs(outside, launcher):
    needed(launcher)
    words = run_words(outside, "-m", "method=original,mine", "model.sampler.steps=many", f"hydra/launcher={launcher}")
    done = vestige(*words, path=outside)
    assert done.returncode == 2
    assert done.stderr.count("could not be converted to Integer") == 2 and "Traceback" not in done.stderr + done.stdout
    assert not (outside / "records").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_in_a_sentence(outside):
    killed = swept(outside, "joblib", "method.how=killed", "method=breaks")
    assert killed.returncode == 1
    assert "the launcher stopped with" in killed.stderr and "Type the same again" in killed.stderr


def test_a_launcher_that_is_not_installed_is_named_with_what_to_install(monkeypatch):
    def nothing(name):
        raise ModuleNotFoundError("No module named 'hydra_plugins'")

    monkeypatch.setattr(sweep.importlib.util, "find_spec", nothing)
    with pytest.raises(ValueError, match=r"hydra/launcher=submitit_slurm .* pip install 'vestige\[slurm\]'"):
        sweep.launch("plan", ["method=original", "hydra/launcher=submitit_slurm"])


def test_a_results_folder_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("VESTIGE_RESULTS", "/proc/nowhere")
    with pytest.raises(ValueError, match=r"/proc/nowhere.*VESTIGE_RESULTS"):
        sweep.launch("plan", ["model=tiny", "method=original"])


@pytest.mark.parametrize(
    "words, said",
    [
        (["runtime.colour=blue"], "colour"),
        (["model=tiny", "metod=uce"], "metod"),
        (["model=tiny", "method"], "method"),
        (["--config-dir", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_hydra_cannot_compose_is_bad_input_and_no_traceback(words, said):
    with pytest.raises(ValueError, match=said) as mistake:
        sweep.launch("run", words)
    assert "\n" not in str(mistake.value)


def test_the_worst_end_of_a_job_is_the_exit_code():
    ends = [Outcome("done"), Outcome("unsupported")]
    assert exit_code([]) == exit_code(ends) == 0
    assert exit_code([*ends, Outcome("busy")]) == 3
    assert exit_code([*ends, Outcome("busy"), Outcome("failed")]) == 1
    assert exit_code([*ends, Outcome("failed"), Outcome("refused")]) == 2


def test_outcomes_are_read_in_the_order_of_the_grid(tmp_path):
    for number in (10, 9, 0):
        Outcome("done", facts={"number": number}).write(tmp_path, number)
    assert [outcome.facts["number"] for outcome in read(tmp_path)] == [0, 9, 10]


def test_nothing_is_left_of_the_outcomes_of_a_sweep(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path))
    assert sweep.main("plan", ["model=tiny", "method=original", "split=[target]"]) == 0
    assert "in all: 1 jobs" in capsys.readouterr().out
    assert not list((tmp_path / "hydra").glob("outcomes-*"))
