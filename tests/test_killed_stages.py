"""A job whose attack or erasure is killed goes on from its checkpoint; the finished stage tells nothing of it."""

import json
from functools import partial

import pytest

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.resume import Progress
from vestige.bench.contract.types import Adversary, Erasure
from vestige.bench.places import CONF
from vestige.bench.run import composing, resolvers, runner, stages
from vestige.bench.run.store import SCRATCH, Store

SETTINGS = [
    "model=tiny",
    "concept=[dog]",
    "method=esd",
    "tuned@method=emoji/esd",
    "method.iterations=4",
    "attack=[circumventing]",
    "tuned@attack=emoji/attacks",
    "attack.circumventing.images=2",
    "attack.circumventing.steps=5",
    "split=[target]",
    "split.target.rows=2",
    "split.target.repeats=1",
    "until=attack",
]


def job(place):
    from hydra import compose, initialize_config_dir

    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        places = [f"runtime.store={place}/store", f"runtime.records={place}/records", "model.sampler.steps=2"]
        return composing.build_job(compose("run", [*SETTINGS, *places]))


def test_a_killed_job_ends_with_the_artefacts_and_the_budget_of_one_in_peace(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "Progress", partial(Progress, every=0.0))
    monkeypatch.setattr("vestige.bench.contract.resume.SHARE", float("inf"))
    assert runner.run_job(job(tmp_path / "calm"))["status"] == "done"

    log, calls = Context.log, []

    def killing(self, step, **numbers):
        log(self, step, **numbers)
        calls.append(step)
        if len(calls) in (3, 8):  # in the middle of the erasure, and then of the attack
            raise KeyboardInterrupt

    monkeypatch.setattr(Context, "log", killing)
    for kind in ("erase", "attack"):
        with pytest.raises(KeyboardInterrupt):
            runner.run_job(job(tmp_path / "killed"))
        assert list((tmp_path / "killed" / "store" / kind / ".partial").glob(f"*/{SCRATCH}/*.pt"))
    assert runner.run_job(job(tmp_path / "killed"))["status"] == "done"
    assert len(calls) == 4 + 5 + 2, "only the step that was killed is run twice"

    calm, killed = ({s["kind"]: s for s in Store(tmp_path / name / "store").stages()} for name in ("calm", "killed"))
    for kind, load in (("erase", Erasure.load), ("attack", Adversary.load)):
        one, two = (load(stages[kind]["folder"]) for stages in (calm, killed))
        assert one.tensors.keys() == two.tensors.keys() and all((one.tensors[key] == two.tensors[key]).all() for key in one.tensors)
        logs = [json.loads((stages[kind]["folder"] / "log.json").read_text()) for stages in (calm, killed)]
        assert logs[0] == logs[1] and calm[kind]["digest"] == killed[kind]["digest"]
        assert not list(killed[kind]["folder"].glob(f"**/{SCRATCH}")) and not any(SCRATCH in name for name in killed[kind]["files"])
    budgets = [dict(stages["attack"]["facts"]["budget"]) for stages in (calm, killed)]
    seconds = [budget.pop(name) for budget in budgets for name in ("seconds", "cpu_seconds")]
    assert budgets[0] == budgets[1] and budgets[0]["forward_rows"] > 0 and min(seconds) > 0
