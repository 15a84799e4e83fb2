"""`vestige check`: the contract tests of one plugin, on a tiny random model of every family that it can run on."""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from itertools import chain
from pathlib import Path

from vestige.bench.judges.promises import judge_checks
from vestige.bench.models import families
from vestige.bench.places import use_config_folders
from vestige.bench.run import contract_checks
from vestige.bench.run.contract_checks import DOG, KINDS, Checks, NotApplicable


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vestige check", description=__doc__)
    parser.add_argument("plugin", metavar="method=NAME", help="or attack=NAME, metric=NAME, judge=NAME")
    parser.add_argument("--family", action="append", help="check on this family of models only (repeatable)")
    parser.add_argument("--config-dir", type=Path, help="folder with settings of your own")
    arguments = parser.parse_args(argv)
    kind, _, name = arguments.plugin.partition("=")
    if kind not in (*KINDS, "judge") or not name:
        raise ValueError(
            f"{arguments.plugin!r} does not say what to check. Allowed: method=NAME, attack=NAME, metric=NAME, judge=NAME, "
            "for example: vestige check method=mine."
        )
    if kind == "judge":  # sees images, whoever drew them
        use_config_folders([arguments.config_dir] if arguments.config_dir else [])
        checks = judge_checks(name, [DOG])
        first = next(checks)  # raises where there is no such judge
        return 1 if broken(chain([first], checks)) else 0
    chosen = [families.family(family).name for family in arguments.family or families.names()]
    plugin = contract_checks.build(kind, name, arguments.config_dir)
    return 1 if sum([_on_family(kind, plugin, family) for family in chosen]) else 0


def _on_family(kind: str, plugin: object, family: str) -> int:
    """How many promises are broken there."""
    print(f"{family}:")
    source = getattr(sys.modules.get(type(plugin).__module__), "__file__", None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return broken(KINDS[kind][1](plugin, Path(folder), family), source)
        except NotApplicable as reason:
            print(f"not checked: {reason}")
            return 0


def broken(checks: Checks, source: str | None = None) -> int:
    """Run them all, a line for each; how many are broken. source: the plugin's file, to say where an error was raised."""
    count, promise = 0, "it runs"
    while True:
        try:
            promise, test = next(checks, ("", None))
            if test is None:
                return count
            test()
            print(f"ok      {promise}")
        except NotApplicable:
            raise
        except AssertionError as error:
            count += 1
            print(f"BROKEN  {promise}: {error}")
        except Exception as error:
            count += 1
            print(f"BROKEN  {promise}: {type(error).__name__}{_place(error, source)}: {error}")


def _place(error: Exception, source: str | None) -> str:
    """In which line of the plugin's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return f" in {Path(source).name}, line {lines[-1]}" if source and lines else ""
