"""What a plugin needs of a model: `vestige ls --model` says what applies, `vestige check` runs on each family that has it."""

from pathlib import Path

import pytest

from vestige.bench import cli
from vestige.bench.cli import applicable
from vestige.bench.models import capabilities, families
from vestige.bench.run import contract_checks

NEEDY = """
from dataclasses import dataclass
from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Erasure

@dataclass
class Needy(Method):
    needs = ("draw", "nothing_has_this")

@dataclass
class Raising(Method):
    intervention = "none"
    needs = ("draw",)
    def erase(self, pipe, concepts, ctx):
        raise RuntimeError("no such luck")

@dataclass
class Forgetful(Method):
    intervention = "none"
    def erase(self, pipe, concepts, ctx):
        pipe.denoiser.register_forward_hook(lambda *_: None)
        return Erasure({})
"""


@pytest.fixture
def words(outside, monkeypatch):
    """A folder with methods of one's own, as the words that name it."""
    (outside / "needy.py").write_text(NEEDY)
    for name in ("Needy", "Raising", "Forgetful"):
        (outside / f"conf/method/{name.lower()}.yaml").write_text(f"name: {name.lower()}\n_target_: needy.{name}\n")
    monkeypatch.syspath_prepend(str(outside))
    return ["--config-dir", str(outside / "conf")]


def said(capsys, *argv: str) -> tuple[int, str]:
    code = cli.main(list(argv))
    read = capsys.readouterr()
    return code, read.out + read.err


@pytest.mark.parametrize("family", families.names())
def test_what_does_not_apply_is_listed_with_what_the_family_lacks(words, capsys, family):
    plugin = contract_checks.build("method", "needy", Path(words[1]))
    code, text = said(capsys, "ls", "methods", "needy", "--model", family, *words)
    assert code == 0 and f"does not apply: {capabilities.lacking(plugin, applicable.spec_of(family))}" in text
    assert "the weights 'nothing_has_this'" in text and f"0 of 1 apply to {family}." in text


def test_what_applies_is_listed_with_what_it_asks_for_besides(capsys):
    _, text = said(capsys, "ls", "attacks", "relearning", "--model", "sdxl")
    assert "applies, but: relearning needs model.dtype=float32" in text, "the published SDXL is configured in float16"
    _, text = said(capsys, "ls", "metrics", "presence", "--model", "tiny")
    assert "   applies\n1 of 1 apply to tiny." in text


def test_a_model_whose_folder_the_user_names_is_known_by_its_family(capsys):
    assert said(capsys, "ls", "metrics", "fid", "--model", "local")[0] == 0
    assert applicable.spec_of("local").family == "sd1" and applicable.spec_of("sd21").family == "sd2"


def test_an_unknown_model_is_refused_with_near_names(capsys):
    code, text = said(capsys, "ls", "methods", "uce", "--model", "sdx")
    assert code == 2 and "there is no model and no family 'sdx'. Did you mean sdxl" in text
    code, text = said(capsys, "ls", "concepts", "--model", "sdxl")
    assert code == 2 and "--model is for methods, attacks and metrics, not for concepts" in text


def test_check_names_each_family_before_its_lines_and_those_that_do_not_apply(words, capsys):
    code, text = said(capsys, "check", "method=needy", *words)
    lines = text.splitlines()
    assert code == 0 and lines[::2] == [f"{family}:" for family in families.names()]
    assert all("not checked: Needy needs the weights 'nothing_has_this'" in line for line in lines[1::2])


def test_check_runs_on_the_families_asked_for(words, capsys):
    code, text = said(capsys, "check", "method=mine", "--family", "sdxl", "--family", "sd2", *words)
    assert code == 0 and [line for line in text.splitlines() if line.endswith(":")] == ["sdxl:", "sd2:"] and text.count("ok ") == 16
    code, text = said(capsys, "check", "method=mine", "--family", "sd9", *words)
    assert code == 2 and "'sd9' is not known. Allowed: " in text


def test_check_says_where_a_plugin_raised_and_goes_on_with_the_next_family(words, capsys):
    code, text = said(capsys, "check", "method=raising", "--family", "sd1", "--family", "sdxl", *words)
    line = 1 + NEEDY.splitlines().index('        raise RuntimeError("no such luck")')
    assert code == 1 and text.count(f"BROKEN  it runs: RuntimeError in needy.py, line {line}: no such luck") == 2


def test_a_hook_that_is_left_behind_breaks_the_contract_on_sdxl_too(words, capsys):
    code, text = said(capsys, "check", "method=forgetful", "--family", "sdxl", *words)
    assert code == 1 and "BROKEN  erase leaves the pipe restorable: " in text


@pytest.mark.parametrize("word", ["mine", "method=", "concept=dog"])
def test_check_says_what_can_be_checked(word, capsys):
    code, text = said(capsys, "check", word)
    assert code == 2 and "does not say what to check. Allowed: method=NAME" in text
