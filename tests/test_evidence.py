"""The evidence that `vestige ls` shows names tests that exist, programs that the plugin's docstring cites, and published values."""

import ast
import importlib

import pytest

from vestige.bench.cli import evidence, listing
from vestige.bench.papers import mapping
from vestige.bench.papers import published as printed
from vestige.bench.places import CHECKOUT

FILES = [*listing.files("method"), *listing.files("attack")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_what_the_class_says_and_names_files_that_exist(file):
    module, name = evidence.target(file)
    found = evidence.of(file)
    own = vars(getattr(importlib.import_module(module), name)).get("evidence", ())
    assert found.comparisons == own
    docstring = ast.get_docstring(ast.parse((CHECKOUT / f"{module.replace('.', '/')}.py").read_text()))
    for line in found.comparisons:
        assert evidence.COMPARISON.fullmatch(line), line
        repository, commit = line.split(":")[0].split("@")
        assert repository in docstring and f"@{commit}" in docstring, f"{module} does not cite what it was compared with: {line}"
    assert found.tests is None or (
        "def test_" in (CHECKOUT / found.tests).read_text() and module.rpartition(".")[2] in (CHECKOUT / found.tests).read_text()
    )


@pytest.mark.parametrize(
    "line", ["no commit: equal", "owner/name: equal", "owner/name@zzzzzzz: equal", "owner/name@abc1234:", "owner/name@abc12: e"]
)
def test_a_comparison_names_repository_commit_and_result(line):
    assert not evidence.COMPARISON.fullmatch(line)


def test_published_values_are_those_of_the_settings_that_stand_for_a_papers_method():
    assert evidence.published()["speed"] == sum(
        mapping.load(paper).methods.get(row.method) == "speed" for paper in mapping.mapped() for row in printed.load(paper)
    )
    assert evidence.of(CHECKOUT / "conf/method/speed.yaml").published > 0
    assert evidence.of(CHECKOUT / "conf/method/spm_static.yaml").published == 0, "its numbers stand in no paper's table"


def test_settings_that_start_from_others_have_their_evidence(capsys):
    assert evidence.of(CHECKOUT / "conf/method/esd_x.yaml").comparisons == evidence.of(CHECKOUT / "conf/method/esd.yaml").comparisons != ()
    assert evidence.of(CHECKOUT / "conf/method/sequential_uce.yaml").comparisons == (), "another class, another algorithm"
    assert listing.main(["methods", "rece"]) == 0
    name, shown = capsys.readouterr().out.strip().split("\n")
    assert name.startswith("rece ") and "tests/methods/test_rece.py; CharlesGong12/RECE@403a67f: " in shown


def test_a_plugin_from_outside_has_none_listed(tmp_path):
    (tmp_path / "method").mkdir()
    file = tmp_path / "method" / "mine.yaml"
    file.write_text("name: mine\n_target_: my_methods.Mine\n")
    assert str(evidence.of(file)) == "no evidence is listed"
    file.write_text("defaults: [sld, _self_]\nname: mine\n")
    assert evidence.target(file) == ("vestige.methods.sld", "SLD")
