"""One load of a model per process, handed from job to job, and what happens when a plugin leaves it changed."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from test_reruns import job

from vestige.bench.contract.plugin import Attack, Method
from vestige.bench.contract.types import Adversary, Erasure
from vestige.bench.models import loading
from vestige.bench.places import CHECKOUT
from vestige.bench.run import loaded_model, runner
from vestige.bench.run.stages import Stages

LAYER = "unet.conv_out.weight"


@pytest.fixture
def loads(monkeypatch):
    """The names of the models that are loaded from now on, in order."""
    seen, load = [], loading.load
    monkeypatch.setattr(loaded_model, "_FREE", {})
    monkeypatch.setattr(loading, "load", lambda spec, device="cpu": seen.append(spec.name) or load(spec, device))
    return seen


@dataclass
class Halving(Method):
    """Scales a layer in place, and asks for the original while it does."""

    def erase(self, pipe, concepts, ctx):
        before = pipe.parameter(LAYER).detach().clone()
        pipe.parameter(LAYER).data.mul_(0.5)
        assert torch.equal(ctx.original().parameter(LAYER), before), "the original has changed with the pipe"
        ctx.original().counts["forward_rows"] += 3
        return Erasure({LAYER: before * 0.5})


@dataclass
class Leaking(Halving):
    """Leaves something behind that the harness cannot restore."""

    leak: str = "hook"

    def erase(self, pipe, concepts, ctx):
        if self.leak == "hook":
            pipe.module("unet.conv_out").register_forward_hook(lambda *_: None)
        return super().erase(pipe, concepts, ctx)

    @contextmanager
    def attach(self, pipe, erasure):
        if self.leak == "weight":
            pipe.parameter(LAYER).data.mul_(0.5)
        yield pipe


def erasing(place, method, *words):
    return replace(job(place, "concept=[dog]", "until=generate", *words), method=method, method_name=type(method).__name__)


def images_of(place) -> list[bytes]:
    return sorted(file.read_bytes() for file in (place / "store" / "images").glob("*/png/*.png"))


def test_the_jobs_of_a_process_load_a_model_once_and_draw_as_if_each_had_its_own(tmp_path, loads, monkeypatch):
    relearning = ["attack=[none,relearning]", "attack.relearning.steps=1", "attack.relearning.images=1"]
    jobs = [["method=original"], ["method=uce", *relearning], ["method=esd_x", "method.iterations=1", "method.bins=4"]]

    def run(place):
        for words in jobs:
            made = runner.run_job(job(place, "concept=[dog]", "until=generate", *words))
            assert made["status"] == "done", made["error"]

    run(tmp_path / "shared")
    assert loads == ["tiny"]
    monkeypatch.setattr(loaded_model, "give_back", lambda *_: None)
    run(tmp_path / "alone")  # of which the first takes the model that is free
    assert len(loads) == len(jobs) and images_of(tmp_path / "shared") == images_of(tmp_path / "alone") != []


def test_another_model_is_loaded_and_the_first_makes_room_for_it(tmp_path, loads):
    tiny = job(tmp_path).model
    emoji = replace(tiny, name="emoji", repo=str(CHECKOUT / "bench" / "world" / "weights" / "generator"))
    for spec in (tiny, emoji, emoji, replace(emoji, prompt_style="emoji"), tiny):
        loaded_model.give_back(loaded_model.take(spec, "cpu"), "cpu")
        assert len(loaded_model._FREE) == 1
    assert loads == ["tiny", "emoji", "emoji", "tiny"]


def test_who_has_not_given_a_model_back_has_it_alone(tmp_path, loads):
    spec = job(tmp_path).model
    first, second = loaded_model.take(spec, "cpu"), loaded_model.take(spec, "cpu")
    assert first is not second and len(loads) == 2


@pytest.mark.parametrize("leak, changed", [("hook", "a hook, a module, a rule or a word"), ("weight", LAYER)])
def test_a_plugin_that_leaves_the_model_changed_is_named_and_the_next_user_gets_a_fresh_one(tmp_path, loads, capsys, leak, changed):
    made = runner.run_job(erasing(tmp_path, Leaking(leak=leak), "until=generate"))
    assert made["status"] == "done", made["error"]
    assert f"Leaking left {changed} changed in model tiny: it is loaded again." in capsys.readouterr().err
    with Stages(job(tmp_path)).models.attached([]) as pipe:
        assert pipe.fingerprint() == loading.load(pipe.spec).fingerprint()


def test_a_method_is_given_an_original_that_does_not_change_and_is_no_second_load(tmp_path, loads):
    made = runner.run_job(erasing(tmp_path, Halving()))
    assert made["status"] == "done", made["error"]
    assert loads == ["tiny"] and made["cost"]["erase_forward_rows"] == 3, "what a method asks the original costs it"


@dataclass
class Asking(Attack):
    """Compares its victim with the original."""

    access = "gradients"

    def attack(self, victim, prompts, ctx):
        same = ctx.original() is victim.pipe
        victim.pipe.counts["forward_rows"] += 1
        return Adversary(prompts.with_prompts([f"{prompt}!" for prompt in prompts.prompts]), meta={"same": same})


@pytest.mark.parametrize("method, same", [("original", True), ("uce", False)])
def test_an_attack_on_the_original_has_one_pipe_and_one_budget(tmp_path, loads, method, same):
    made = replace(job(tmp_path, "concept=[dog]", f"method={method}"), attacks={"asking": Asking()})
    stages = Stages(made)
    erased, asked = stages.erase(), made.prompts_of(made.splits["target"])
    found = stages.attack(erased, made.attacks["asking"], "asking", asked)
    adversary = Adversary.load(found.path)
    assert adversary.meta == {"same": same} and adversary.budget["forward_rows"] == 1
    assert adversary.budget["original_forward_rows"] == 0 and loads == ["tiny"]
