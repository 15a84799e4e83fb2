"""Plugins against their interface, on the tiny model. A new YAML file is composed and typed; a new class, or a class whose settings choose
another way (`train: xattn`, `loss: null`), also keeps its contract. So forty more files of known classes cost little."""

import re
from pathlib import Path

import pytest
import yaml

from vestige.bench.places import CONF
from vestige.bench.run import contract_checks


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def settings(group: str, name: str) -> dict:
    """What the file says, over the files that it starts from. Read without Hydra, which takes half a second for each."""
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    started = [settings(group, entry) for entry in content.pop("defaults", []) if entry in names(group)]
    merged = {}
    for part in (*started, content.get(name, content)):
        merged |= part
    return merged


def way(group: str, name: str) -> tuple:
    """The class, and the settings that choose: single words, yes or no, null. Numbers, sentences and lists are no choice."""
    read = settings(group, name)
    chosen = [(key, value) for key, value in sorted(read.items()) if value is None or isinstance(value, bool) or is_word(value)]
    return (group, read["_target_"], *((key, value) for key, value in chosen if key not in ("name", "_target_")))


def is_word(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w+", value) is not None


FILES = [(group, name) for group in contract_checks.KINDS for name in names(group)]
WAYS = {way(group, name): (group, name) for group, name in reversed(FILES)}  # the first file of each
CHECKED = sorted(WAYS.values())


@pytest.mark.slow
@pytest.mark.parametrize("group, name", CHECKED)
def test_every_class_keeps_its_contract_in_each_of_its_ways(group, name, tmp_path):
    plugin = contract_checks.build(group, name)
    try:
        for _promise, check in contract_checks.KINDS[group][1](plugin, tmp_path):
            check()
    except contract_checks.NotApplicable as reason:
        assert len(str(reason)) > 20, "a refusal must be a sentence"
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("group, name", [file for file in FILES if file not in CHECKED])
def test_every_other_file_is_composed_and_typed(group, name):
    plugin = contract_checks.build(group, name)
    module, _, kind = settings(group, name)["_target_"].rpartition(".")
    assert (type(plugin).__module__, type(plugin).__name__) == (module, kind)


def test_every_class_that_a_file_names_is_checked():
    named = {settings(group, name)["_target_"] for group, name in FILES}
    assert named == {settings(group, name)["_target_"] for group, name in CHECKED} and len(CHECKED) < len(FILES)


def test_what_chooses_a_way_is_told_from_what_does_not():
    assert way("method", "esd_u") != way("method", "esd_x")
    assert way("method", "sld_weak") == way("method", "sld_max")


@pytest.mark.parametrize("name", names("method"))
def test_method_files_are_named_like_their_name_key(name):
    text = (CONF / "method" / f"{name}.yaml").read_text()
    assert f"\nname: {name}\n" in f"\n{text}\n"


def test_files_that_are_slow_as_a_whole_exist():
    from conftest import SLOW

    assert {file.stem for file in Path(__file__).parent.rglob("test_*.py")} >= SLOW
