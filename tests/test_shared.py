"""Work that depends on no concept: made once for a model, read by all jobs, known to plan and gc."""

import json
import re
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from test_reruns import job

from vestige.bench import cli
from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.shared import Shared, made_in
from vestige.bench.contract.types import Erasure
from vestige.bench.models import loading
from vestige.bench.run import contract_checks, plan, runner, shared_work
from vestige.bench.run.stages import Stages
from vestige.bench.run.store import Store

MADE = []  # one entry for each time the work was done


def norms(power: int, pipe, folder, ctx: Context) -> None:
    """Norms of some weights, and what a generator of this work draws."""
    MADE.append(power)
    with torch.no_grad():
        pipe.parameter("unet.conv_out.weight").mul_(2)  # left dirty: the harness restores it
    pipe.counts["forward_rows"] += 5
    seed = ctx.seed("order")
    (folder / "norms.json").write_text(json.dumps({"norm": float(pipe.parameter("unet.conv_in.weight").norm() ** power), "seed": seed}))


@dataclass
class Reading(Method):
    """A method that scales a layer by a number it shares with all jobs on the model."""

    power: int
    declared: bool = True

    @property
    def work(self) -> Shared:
        return Shared("norms", {"power": self.power}, partial(norms, self.power))

    def shares(self) -> list[Shared]:
        return [self.work] if self.declared else []

    def erase(self, pipe, concepts, ctx):
        told = json.loads((ctx.shared(*self.work) / "norms.json").read_text())
        return Erasure({"unet.conv_out.weight": pipe.parameter("unet.conv_out.weight") * 0.5}, told)


@pytest.fixture(autouse=True)
def nothing_made():
    MADE.clear()


def reading(place, *words, **settings):
    return replace(job(place, "until=erase", *words), method=Reading(**{"power": 1, **settings}), method_name="reading")


def facts(place) -> list[dict]:
    return [json.loads((f / "meta.json").read_text()) for f in (place / "store" / "erase").iterdir() if not f.name.startswith(".")]


def test_two_concepts_and_two_seeds_share_one_folder(tmp_path):
    for words in (("concept=[dog]",), ("concept=[cat]",), ("concept=[dog]", "seed=1")):
        made = runner.run_job(reading(tmp_path, *words))
        assert made["status"] == "done", made["error"]
    assert MADE == [1] and len(facts(tmp_path)) == 3 and len({str(f) for f in facts(tmp_path)}) == 1
    (stage,) = [s for s in Store(tmp_path / "store").stages() if s["kind"] == "shared"]
    assert stage["specification"]["name"] == "norms" and "concepts" not in json.dumps(stage["specification"])
    assert stage["code"] and stage["facts"]["forward_rows"] == 5


def test_it_is_nobodys_own_cost_and_leaves_the_original_as_it_was(tmp_path):
    first = runner.run_job(reading(tmp_path))
    second = runner.run_job(reading(tmp_path, "concept=[cat]"))
    assert first["cost"]["erase_forward_rows"] == second["cost"]["erase_forward_rows"] == 0
    stages = Stages(reading(tmp_path, "seed=2"))
    stages.erase()
    shared_work.find_or_make(stages, Reading(2).work, contract_checks.context(tmp_path, "sd1"))
    assert stages.models.untouched.fingerprint() == loading.load(stages.job.model).fingerprint()


def test_another_spec_is_other_work_with_other_seeds(tmp_path):
    runner.run_job(reading(tmp_path))
    runner.run_job(reading(tmp_path, power=2))
    assert MADE == [1, 2] and len({f["seed"] for f in facts(tmp_path)}) == 2


def test_plan_tells_whether_it_is_cached(tmp_path, capsys):
    plan.plan_job(reading(tmp_path))
    assert any("shared" in line and "norms" in line and line.endswith("missing") for line in capsys.readouterr().out.splitlines())
    runner.run_job(reading(tmp_path))
    capsys.readouterr()
    plan.plan_job(reading(tmp_path, "concept=[cat]"))
    told = capsys.readouterr().out
    assert any("norms" in line and line.endswith("cached") for line in told.splitlines()) and "erase missing" in told


def test_gc_keeps_it_while_a_record_leads_to_it_and_no_longer(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "empty"))
    runner.run_job(reading(tmp_path))
    runner.run_job(reading(tmp_path, power=2))
    records = sorted(
        (tmp_path / "records").glob("*.json"),
        key=lambda file: json.loads(file.read_text())["specification"]["method"][1]["params"]["power"],
    )
    records[1].unlink()
    assert cli.main(["gc", "--store", f"{tmp_path}/store", "--records", f"{tmp_path}/records", "--delete"]) == 0
    (left,) = [s for s in Store(tmp_path / "store").stages() if s["kind"] == "shared"]
    assert left["specification"]["spec"] == {"power": 1}


def test_a_damaged_one_is_made_again_and_one_of_other_code_is_stale(tmp_path):
    stages = Stages(reading(tmp_path))
    stages.erase()
    work = stages.job.method.work
    found = shared_work.find(stages, work)
    (found.path / "norms.json").write_text("{}")
    again = Stages(reading(tmp_path, "seed=1"))
    assert shared_work.find(again, work) is None
    again.erase()
    assert MADE == [1, 1] and shared_work.find(again, work).digest == found.digest
    assert not again.store.kept
    other = work._replace(make=partial(other_norms, 1))
    assert shared_work.find(again, other) is not None and "code" in again.store.kept[found.reference]


def other_norms(power: int, pipe, folder, ctx: Context) -> None:
    (folder / "norms.json").write_text("{}")


def test_killed_work_goes_on_from_what_it_had_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(Reading, "work", property(lambda self: Shared("norms", {}, in_two_parts)))
    with pytest.raises(KeyboardInterrupt):
        runner.run_job(reading(tmp_path))
    assert not list((tmp_path / "store" / "shared").glob("*/stage.json"))
    assert runner.run_job(reading(tmp_path))["status"] == "done" and MADE == ["first", "second"]


def in_two_parts(pipe, folder, ctx: Context) -> None:
    if not (folder / "first").exists():
        (folder / "first").write_text("1")
        MADE.append("first")
        raise KeyboardInterrupt
    MADE.append("second")
    (folder / "norms.json").write_text("{}")


def test_work_that_the_plugin_does_not_name_is_refused(tmp_path):
    said = r"Reading asks for the shared work 'norms'.*shares\(\)"
    made = runner.run_job(reading(tmp_path, declared=False))
    assert made["status"] == "failed" and re.search(said, made["reason"]) and not MADE
    with pytest.raises(ValueError, match=said):
        list(contract_checks.method_checks(Reading(1, declared=False), tmp_path))


def test_work_whose_code_cannot_be_followed_is_refused(tmp_path, context):
    with pytest.raises(ValueError, match=r"whose code cannot be followed.*functools\.partial"):
        context().shared("norms", {}, lambda pipe, folder, ctx: None)


def test_shared_work_has_no_sampler_of_a_job(tmp_path, context):
    with pytest.raises(AttributeError, match=r"asked for sampler\.steps.*into its spec"):
        context().shared("steps", {}, reads_the_sampler)


def reads_the_sampler(pipe, folder, ctx: Context) -> None:
    ctx.sampler.steps  # noqa: B018


def test_without_a_store_a_folder_serves(tmp_path, context):
    ctx = replace(context(), find_or_make=made_in(tmp_path))
    folders = {ctx.shared(*Reading(power).work) for power in (1, 1, 2)}
    assert MADE == [1, 2] and len(folders) == 2 and all((f / "norms.json").exists() for f in folders)
    assert (context().shared(*Reading(3).work) / "norms.json").exists(), "and a temporary one where none is given"
