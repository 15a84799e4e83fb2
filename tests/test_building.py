"""A plugin of the user's own that cannot be imported: the error shows the line that the user wrote."""

import sys

import pytest

from vestige.bench.contract import building
from vestige.bench.contract.plugin import Method


@pytest.mark.parametrize(
    "text, said",
    [
        ("import a_module_that_is_nowhere\n", r"line 1: 'import a_module_that_is_nowhere': No module named"),
        ("x = 1\ny = x + undefined\n", r"line 2: 'y = x \+ undefined': NameError"),
        ("def erase(:\n    pass\n", r"line 1: 'def erase\(:': SyntaxError"),
        ("x = 1\n", r"module 'broken_module' has no attribute 'Mine'"),
    ],
)
def test_a_broken_module_shows_the_users_own_line(text, said, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    with pytest.raises(ValueError, match=said) as error:
        building.plugin({"_target_": "broken_module.Mine"}, Method, "method")
    assert "method._target_='broken_module.Mine' cannot be imported" in str(error.value) and "\n" not in str(error.value)


def test_a_module_that_is_nowhere_is_told_without_a_line():
    with pytest.raises(ValueError, match=r"cannot be imported \(No module named 'nowhere_at_all'\)"):
        building.plugin({"_target_": "nowhere_at_all.Mine"}, Method, "method")
