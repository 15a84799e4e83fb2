"""The examples in docstrings run and show what they say."""

import doctest
import importlib

import pytest

import vestige
from vestige.bench.places import CHECKOUT

FOLDERS = ("vestige", "bench", "methods", "attacks", "metrics")


def with_examples() -> list[str]:
    files = (
        file
        for folder in FOLDERS
        for file in (CHECKOUT / folder).rglob("*.py")
        if "\n>>> " in (text := file.read_text()) or "    >>> " in text
    )
    names = {".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return sorted({name if name.split(".")[0] == "vestige" else f"vestige.{name}" for name in names})


@pytest.mark.parametrize("name", with_examples())
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path))
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs={"vestige": vestige}, optionflags=doctest.ELLIPSIS)
    assert tried and not failed
