"""What is published can be drawn again: the randomness of erasures does not follow names that may change."""

import copy
import dataclasses
import importlib
import json
from types import SimpleNamespace

import pytest

from vestige.bench.places import CHECKOUT
from vestige.bench.run import composing, tree
from vestige.bench.run.seeds import RENAMED, model_as_published, seed_word
from vestige.bench.run.stages import Stages

RECORDS = [json.loads(file.read_text()) for file in sorted((CHECKOUT / "results/demo/records").glob("*.json"))]


def stages(tmp_path, *words: str) -> Stages:
    places = [f"runtime.store={tmp_path}/store", f"runtime.records={tmp_path}/records"]
    return Stages(composing.build_job(tree.composed([*words, *places])))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record['method']}-{record['concepts'][0]}-{record['seed']}")
def test_the_published_erasures_have_the_seeds_of_today(record, tmp_path):
    concept, method = record["concepts"][0], record["method"]
    of = stages(tmp_path, "experiment=demo", f"concept={concept}", f"method={method}", f"seed={record['seed']}")
    assert seed_word(of.erase_spec([]), "emoji") == record["stages"]["erase"]["key"]


def test_seeds_follow_settings_and_not_packages_or_files_of_judges(tmp_path):
    of = stages(tmp_path, "method=uce", "concept=dog", "attack=[none,circumventing]")
    spec = of.erase_spec([])
    word = seed_word(spec, "emoji")
    elsewhere = copy.deepcopy(spec)
    elsewhere["method"]["plugin"] = elsewhere["method"]["plugin"].removeprefix("vestige.")
    assert seed_word(elsewhere, "emoji") == word != seed_word(spec | {"seed": 1}, "emoji")
    erased = SimpleNamespace(meta={"specification": spec})
    attack = {"stage": "attack", "model": spec["model"], "erasure": "any", "attack": {"plugin": "mine.Mine"}, "inputs": {"judge": "a"}}
    first = seed_word(attack, "emoji", [erased])
    assert seed_word(attack | {"inputs": {"judge": "a", "settings": "x", "b: settings": "y"}}, "emoji", [erased]) == first
    assert seed_word(attack | {"inputs": {"judge": "b"}}, "emoji", [erased]) != first
    other = SimpleNamespace(meta={"specification": spec | {"seed": 1}})
    assert seed_word(attack, "emoji", [other]) != first, "of another erased model"


def test_seeds_do_not_follow_the_name_of_an_arithmetic_but_the_arithmetic(tmp_path):
    spec = stages(tmp_path, "method=uce", "concept=dog").erase_spec([])
    named = {
        name: seed_word({**spec, "model": {**spec["model"], "numerics": name}}, "emoji") for name in ("reference", "deterministic", "fast")
    }
    assert spec["model"]["numerics"] == "reference" and named["reference"] == named["deterministic"] != named["fast"]
    assert spec["model"]["numerics"] == "reference", "the specification itself is left as it is"
    assert model_as_published(spec["model"]) == {**spec["model"], "numerics": "deterministic"}


@pytest.mark.parametrize("plugin", RENAMED)
def test_renamed_settings_are_settings_of_today(plugin):
    module, _, name = f"vestige.{plugin}".rpartition(".")
    known = {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
    assert RENAMED[plugin].keys() <= known and not set(RENAMED[plugin].values()) & known
