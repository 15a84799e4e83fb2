"""The command line as a user meets it: start-up time, mistakes, a method from outside the repository, sharing."""

import json
import subprocess
import sys
import time

import pytest
from newcomer import run_words, vestige

from vestige.bench.places import CHECKOUT


@pytest.mark.parametrize("words", [["--help"], ["ls", "methods"]])
def test_starting_up_is_quick_and_imports_no_torch(words):
    best = 9.0
    for _ in range(3):
        begun = time.time()
        done = vestige(*words)
        best = min(best, time.time() - begun)
    assert done.returncode == 0 and done.stdout
    assert best < 0.5, f"{best:.2f} s"
    code = f"import sys; from vestige.bench.cli import main; main({words!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "method=orignal"], "Did you mean original"),
        (["run", "concept=dogg"], "Did you mean dog"),
        (["run", "attack=nonne"], "Did you mean none"),
        (["run", "model=tiny", "method=original", "until=scored"], "Did you mean score"),
        (["run", "model=tiny", "method=original", "model.sampler.steps=many"], "could not be converted to Integer"),
        (["run", "model=tiny", "method=original", "+model.sampler.stepps=3"], "Did you mean steps"),
        (["run", "model=tiny", "method=original", "model.sampler.scheduler=DDIMSchedular"], "DDIMScheduler"),
        (["run", "model=local", "model.repo=/nowhere/at/all", "method=original"], "no such folder"),
        (["run", "model=sd14", "method=original"], "HF_HOME"),
        (["run", "model=tiny", "method=original", "runtime.store=/proc/nowhere"], "runtime.store"),
        (["runn"], "Did you mean run"),
    ],
)
def test_a_mistake_gets_a_sentence(words, said):
    done = vestige(*words)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout


def test_a_method_from_outside_runs_and_keeps_its_contract(outside):
    checked = vestige("check", "method=mine", "--config-dir", str(outside / "conf"), path=outside)
    assert checked.returncode == 0 and "BROKEN" not in checked.stdout, checked.stdout + checked.stderr
    done = vestige(*run_words(outside, "method=mine"), path=outside)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(f.read_text()) for f in (outside / "records").glob("*.json")]
    assert record["status"] == "done" and record["cells"][0]["value"] is not None


def test_a_sweep_trains_each_model_once_and_repeats_for_free(outside):
    words = run_words(outside, "-m", "method=original,mine", "concept=dog,cat", "attack=none,shout")
    done = vestige(*words, path=outside)
    assert done.returncode == 0, done.stderr
    store = outside / "store"
    assert len(list((store / "erase").glob("Scale-*"))) == 2, "one trained model per concept"
    assert len(list((store / "attack").glob("shout-*"))) == 4, "one attack per model and concept"
    assert len(list((store / "images").glob("original-*"))) == 4, "original images, plain and attacked, once per concept"
    assert len(list((store / "images").glob("Scale-*"))) == 4
    stamps = {file: file.stat().st_mtime_ns for file in store.rglob("stage.json")}
    again = vestige(*words, path=outside)
    assert again.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in store.rglob("stage.json")} == stamps, "nothing is computed again"


def test_a_list_of_attacks_and_a_sweep_of_attacks_both_compose(outside):
    for choice in ("attack=none", "attack=[none,shout]"):
        done = vestige("plan", *run_words(outside, "method=mine", choice)[1:], path=outside)
        assert done.returncode == 0, done.stderr
        assert "erase missing" in done.stdout


@pytest.mark.parametrize("concept", ["church", "van_gogh", "nudity"])
def test_the_default_probes_plan_for_every_kind_of_concept_on_a_photographic_model(concept):
    done = vestige("plan", "model=sd14", "method=uce", f"concept={concept}")
    assert done.returncode == 0, done.stderr
    assert "target" in done.stdout and "left out: prompts='background' has no templates" in done.stdout
