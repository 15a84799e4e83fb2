"""`vestige ls`: names and one-line descriptions; for methods and attacks also the evidence that they do what their papers say.

They are read from YAML files and module docstrings. No plugin is imported, unless `--model` asks what applies to a model.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import re
from pathlib import Path

from vestige.bench.cli import evidence
from vestige.bench.places import CONF, config_folders, module_file
from vestige.bench.run import choices
from vestige.bench.run.user_folders import check_folders

GROUPS = ("methods", "concepts", "attacks", "metrics", "judges", "splits", "models", "protocols", "experiments", "runtimes", "flags")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vestige ls", description=__doc__)
    parser.add_argument("what", choices=GROUPS, nargs="?", default="methods")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, for example 'e*'")
    parser.add_argument("--model", help="say of each method, attack or metric whether it applies to this model (of conf/model) or family")
    parser.add_argument("--config-dir", type=Path, help="also list plugins of this folder")
    arguments = parser.parse_args(argv)
    if arguments.model and arguments.what not in ("methods", "attacks", "metrics"):
        raise ValueError(
            f"--model is for methods, attacks and metrics, not for {arguments.what}: vestige ls methods --model {arguments.model}"
        )
    if arguments.what == "flags":
        return flags(arguments.pattern)
    group = arguments.what if (CONF / arguments.what).is_dir() else arguments.what.removesuffix("s")
    folders = config_folders(arguments.config_dir)
    check_folders(folders)
    known = files(group, arguments.config_dir)
    matching = [file for file in known if fnmatch.fnmatch(file.stem, arguments.pattern)]
    if arguments.model:
        return applying(group, matching, arguments.model, arguments.config_dir)
    for file in matching:
        print(f"{file.stem:<24} {describe(file)}")
        if arguments.what in ("methods", "attacks"):
            models = choices.tuned_for(group, file.stem, folders)
            tuned = [f"tuned for model {' and '.join(models)}"] if models else []
            print(f"{'':<24}   {'; '.join([*tuned, str(evidence.of(file))])}")
    if arguments.what == "concepts" and arguments.pattern in {file.stem for file in known}:
        print("\n".join(names_of(arguments.pattern, arguments.config_dir)))
    return 0


def applying(group: str, listed: list[Path], model: str, extra: Path | None) -> int:
    """What can run on a model, and why the rest cannot."""
    from vestige.bench.cli import applicable

    answers = applicable.answers(group, [file.stem for file in listed], model, extra)
    for file in listed:
        print(f"{file.stem:<24} {describe(file)}\n{'':<24}   {answers[file.stem]}")
    print(f"{sum(answer.applies for answer in answers.values())} of {len(answers)} apply to {model}.")
    return 0


def names_of(choice: str, extra: Path | None) -> list[str]:
    """Which names of a concept or a set methods are given, and which are only asked for."""
    from vestige.bench.contract.building import plain_tree
    from vestige.bench.run import concept_sets, tree

    chosen = plain_tree(tree.composed([f"concept={choice}", "split=[]"], extra).concept)
    return concept_sets.split_in_words(concept_sets.chosen_concepts(chosen, held_out=True))


def flags(pattern: str) -> int:
    from vestige.bench.contract.flags import FLAGS

    for name, flag in FLAGS.items():
        if fnmatch.fnmatch(name, pattern):
            print(f"{name}\n  raised if: {flag.raised_if}\n  means:     {flag.means}\n  do:        {flag.do}")
    return 0


def files(group: str, extra: Path | None = None) -> list[Path]:
    """Every YAML of a group."""
    return [file for folder in config_folders(extra) for file in sorted((folder / group).glob("*.yaml"))]


def describe(file: Path) -> str:
    """The YAML's first comment, else the first docstring line of the module its `_target_` names, else a concept's kind."""
    text = file.read_text().removeprefix("# @package _global_\n")
    comment = re.match(r"#\s*(.+)", text)
    if comment:
        return comment[1]
    target = re.search(r"_target_:\s*([\w.]+)\.\w+", text)
    if target:
        module = module_file(target[1])
        if module.exists():
            return (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n")[0]
        return target[1]
    kind, group = re.search(r"kind:\s*(\w+)", text), re.search(r"group:\s*(\w+)", text)
    return f"{kind[1]} ({group[1]})" if kind and group else ""
