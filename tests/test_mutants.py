"""The tool that changes the code line by line: what it changes, what it leaves alone, and that tests are seen to fail."""

import ast
import subprocess
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import AREAS, applied, drawn, files_of, mutants_of

SOURCE = '''
class Thing:
    """A docstring with 1 + 1."""

    version: ClassVar[int] = 2
    share: Literal[3] = 0.5

    def f(self, a: int, b=True) -> "x < 1":
        if not a < 2 or b in self.c:
            raise ValueError(f"{a + 1} is too small")
        return min(g(a, b), a.x.sum(dim=-1)) if a == 1 else a.clamp(0, 1) - b
'''
WANTED = {
    "not a < 2": "a < 2",
    "a < 2": "a <= 2",
    "not a < 2 or b in self.c": "not a < 2 and b in self.c",
    "b in self.c": "b not in self.c",
    "0.5": "1.0",
    "True": "False",
    "g(a, b)": "g(b, a)",
    "min(g(a, b), a.x.sum(dim=-1))": "max(g(a, b), a.x.sum(dim=-1))",
    "dim=-1": "dim=0",
    "clamp(0, 1)": "clamp(0, 2)",
    "a.clamp(0, 1) - b": "a.clamp(0, 1) + b",
    "a == 1": "a != 1",
}


def test_each_kind_of_change_is_made_and_every_change_is_one_line_of_valid_code():
    made = {applied(SOURCE, mutant) for mutant in mutants_of(SOURCE, "drawing", "thing.py")}
    trees = {ast.dump(ast.parse(source)) for source in made}
    for before, after in WANTED.items():
        assert SOURCE.count(before) == 1
        assert ast.dump(ast.parse(SOURCE.replace(before, after))) in trees, (before, after)
    assert ast.dump(ast.parse(SOURCE)) not in trees
    for source in made:
        assert sum(a != b for a, b in zip(source.split("\n"), SOURCE.split("\n"), strict=True)) == 1


def test_messages_annotations_and_versions_are_left_alone():
    changed = {mutant.line for mutant in mutants_of(SOURCE, "drawing", "thing.py")}
    lines = SOURCE.split("\n")
    assert {lines[k - 1].strip()[:6] for k in changed} == {"share:", "def f(", "if not", "return"}
    assert not any("Literal[4]" in mutant.after or "x < 2" in mutant.after for mutant in mutants_of(SOURCE, "drawing", "thing.py"))


def test_draws_follow_the_seed_take_areas_in_turns_and_lines_once():
    first = drawn(mutants.ROOT, list(AREAS), 12, 3)
    assert first == drawn(mutants.ROOT, list(AREAS), 12, 3) != drawn(mutants.ROOT, list(AREAS), 12, 4)
    assert [mutant.area for mutant in first] == list(AREAS) * 3
    assert len({(mutant.file, mutant.line) for mutant in first}) == 12
    for mutant in first:
        source = (mutants.ROOT / mutant.file).read_text()
        assert ast.dump(ast.parse(applied(source, mutant))) != ast.dump(ast.parse(source)), mutant


@pytest.mark.parametrize("area", AREAS)
def test_areas_name_files_and_tests_that_exist(area):
    assert all(list(mutants.ROOT.glob(pattern)) for pattern in AREAS[area].files) and files_of(mutants.ROOT, area)
    assert all((mutants.ROOT / test).exists() for test in AREAS[area].tests)


def test_tests_that_import_a_changed_module_under_its_name_in_the_package_are_found():
    changed = next(mutant for mutant in drawn(mutants.ROOT, list(AREAS), 12, 3) if mutant.area == "drawing")
    module = changed.file.removesuffix(".py").replace("/", ".")
    package, _, name = module.rpartition(".")
    listed = mutants.tests_of(mutants.ROOT, changed)
    import_of = f"from vestige.{module} import ", f"from vestige.{package} import {name}"
    own = [file for file in (mutants.ROOT / "tests").rglob("test_*.py") if any(words in file.read_text() for words in import_of)]
    assert own and {str(file.relative_to(mutants.ROOT)) for file in own} <= set(listed)


def test_a_copy_has_the_links_of_the_package(tmp_path):
    mutants.copied(mutants.ROOT, tmp_path)
    assert (tmp_path / "vestige" / "bench").is_symlink() and (tmp_path / "vestige" / "bench" / "places.py").is_file()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of one module with a test that sees half of its faults, under git."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "thing.py").write_text("def double(n):\n    return n + n\n\n\ndef unwatched(n):\n    return n + 1\n")
    test = "from thing import double\n\ndef test_double():\n    assert double(3) == 6\n"
    (root / "tests" / "test_thing.py").write_text(test)
    (root / "tests" / "test_broken.py").write_text("from thing import double\n\ndef test_broken():\n    assert not double(3)\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "AREAS", {"all": mutants.Area(("thing.py",), ("tests/test_broken.py", "tests/test_thing.py"))})
    return root


def test_a_test_that_hangs_is_named_and_a_slow_machine_kills_nothing(project, tmp_path, monkeypatch):
    sleepy = "def test_double():\n    time.sleep(0 if double(3) == 6 else 99)\n"
    text = f"import time\nfrom thing import double\n\ndef test_quick():\n    pass\n\n{sleepy}"
    (project / "tests" / "test_thing.py").write_text(text)
    mutant = next(m for m in mutants_of((project / "thing.py").read_text(), "all", "thing.py") if m.line == 2)
    trial, test = mutants.Trial(project, {"tests/test_thing.py": 1.0}), "tests/test_thing.py"
    monkeypatch.setattr(mutants, "LEAST_TIMEOUT", 12.0)
    assert trial.failed_under(mutant, test) == f"{test}::test_double does not end"
    answers = iter([f"{test}{mutants.ENDLESS}", f"{test}{mutants.ENDLESS}", None, None])  # changed, unchanged, measured, changed
    monkeypatch.setattr(mutants, "failed_test", lambda *arguments: next(answers))
    assert trial.failed_under(mutant, test) is None and next(answers, "all were asked for") == "all were asked for"


def test_what_tests_see_is_killed_the_rest_survives_and_a_second_run_only_reads(project, tmp_path, capsys, monkeypatch):
    words = ["--count", "9", "--out", str(tmp_path / "out.json")]
    assert mutants.main(mutants.arguments([*words, "--at-least", "1"])) == 0
    said = capsys.readouterr().out
    assert "test_broken.py is left out" in said and "1 of 2 killed" in said
    assert "thing.py:2 (operator) killed tests/test_thing.py::test_double\n  - return n + n\n  + return (n - n)" in said
    assert "thing.py:6" in said.split("survived")[0].split("\n")[-1]
    assert (project / "thing.py").read_text().count("n + n") == 1, "the project itself is as it was"
    monkeypatch.setattr(mutants, "failed_test", lambda *arguments: pytest.fail("nothing is run again"))
    assert mutants.main(mutants.arguments([*words, "--at-least", "2"])) == 1
    (project / "thing.py").write_text("def double(n):\n    return 2 * n\n")
    with pytest.raises(pytest.fail.Exception, match="run again"):
        mutants.main(mutants.arguments(words))
