"""What supports that a plugin does what its paper says: tests, comparisons with the authors' programs, published numbers.

Read without importing a plugin. Comparisons stand in the plugin's class, `evidence: ClassVar = ("owner/name@commit: what agrees",)`;
tests are those named after its module, or that name it; published numbers are those that conf/reproduce/ maps to the settings.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vestige.bench.places import CHECKOUT, config_folders, module_file

COMPARISON = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,40}: \S.*")


@dataclass(frozen=True)
class Evidence:
    tests: str | None  # path below the project, of the tests of the plugin's module
    comparisons: tuple[str, ...]  # each as COMPARISON
    published: int  # values in results/published/ that these settings are to reproduce

    def __str__(self) -> str:
        known = [self.tests or "", *self.comparisons, f"{self.published} published values" if self.published else ""]
        return "; ".join(part for part in known if part) or "no evidence is listed"


def of(file: Path) -> Evidence:
    """Of one YAML of conf/method or conf/attack, or of such a folder elsewhere, whose module lies beside `conf` or is not found."""
    group = file.parent.name
    module, name = target(file)
    source = module_file(module)
    if not source.exists():
        return Evidence(None, (), 0)
    return Evidence(tests_of(module), comparisons(source, name), published()[file.stem] if group == "method" else 0)


def target(file: Path) -> tuple[str, str]:
    """(module, class) of a plugin's YAML: its `_target_`, or that of the settings it starts from; ("", "") without any."""
    text = file.read_text()
    own = re.search(r"_target_:\s*([\w.]+)\.(\w+)", text)
    if own:
        return own[1], own[2]
    defaults = re.search(r"^defaults:\s*\[([^\]]*)\]", text, re.MULTILINE)
    for base in re.findall(r"[\w-]+", defaults[1]) if defaults else ():
        above = (folder / file.parent.name / f"{base}.yaml" for folder in (file.parent.parent, *config_folders()))
        found = next((place for place in above if place.exists() and place != file), None)
        if base != "_self_" and found:
            return target(found)
    return "", ""


@cache
def tests_of(module: str) -> str | None:
    """tests/methods/test_esd.py of vestige.methods.esd; else the first file of that folder that builds it by name."""
    group, _, name = module.rpartition(".")
    if CHECKOUT is None:
        return None  # tests are not installed
    folder = CHECKOUT / "tests" / group.removeprefix("vestige.")
    own = folder / f"test_{name}.py"
    others = (file for file in sorted(folder.glob("test_*.py")) if f'"{name}"' in file.read_text())
    found = own if own.exists() else next(others, None)
    return None if found is None else str(found.relative_to(CHECKOUT))


def comparisons(source: Path, name: str) -> tuple[str, ...]:
    """The class's own `evidence`; a subclass is another algorithm and inherits none."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "evidence" and line.value is not None:
                    return ast.literal_eval(line.value)
    return ()


@cache
def published() -> Counter:
    """Settings of conf/method -> how many published values they are to reproduce."""
    from vestige.bench.papers import mapping
    from vestige.bench.papers import published as printed

    counts: Counter = Counter()
    for paper in mapping.mapped():
        methods = mapping.load(paper).methods
        counts.update(methods[row.method] for row in printed.load(paper) if isinstance(methods.get(row.method), str))
    return counts
