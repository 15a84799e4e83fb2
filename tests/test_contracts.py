"""Every plugin file against its interface, on the tiny model. Adding a YAML adds its tests."""

import pytest

from vestige.bench.places import CONF
from vestige.bench.run import contract_checks


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("group, name", [(group, name) for group in contract_checks.KINDS for name in names(group)])
def test_plugin_keeps_its_contract(group, name, tmp_path):
    plugin = contract_checks.build(group, name)
    try:
        for _promise, check in contract_checks.KINDS[group][1](plugin, tmp_path):
            check()
    except contract_checks.NotApplicable as reason:
        assert len(str(reason)) > 20, "a refusal must be a sentence"
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", names("method"))
def test_method_files_are_named_like_their_name_key(name):
    text = (CONF / "method" / f"{name}.yaml").read_text()
    assert f"\nname: {name}\n" in f"\n{text}\n"
