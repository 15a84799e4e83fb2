"""What the pages say exists: imports in code blocks, verbs, links, and the modules that each sub-package lists."""

import ast
import importlib
import re

import pytest

from vestige.bench import cli
from vestige.bench.places import CHECKOUT

PAGES = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("results/*/README.md")]
PACKAGES = sorted(file for file in (CHECKOUT / "bench").rglob("__init__.py") if re.search(r"^\w+  +\S", file.read_text(), re.MULTILINE))


def name(file) -> str:
    return str(file.relative_to(CHECKOUT))


def blocks(page, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def imports(code: str) -> list[tuple[str, str]]:
    """(module, name) of what a block takes from Vestige."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) and node.module.startswith("vestige")]
    return [(node.module, alias.name) for node in nodes for alias in node.names]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_blocks_import_what_exists(page):
    for code in blocks(page, "python"):
        for module, what in imports(code):
            found = importlib.import_module(module)
            assert hasattr(found, what) or importlib.util.find_spec(f"{module}.{what}"), f"{module} has no {what}"


def test_the_notebook_block_is_read():
    """The check above sees the imports of docs/results.md, so it can fail."""
    assert ("vestige.bench.reports.ranking", "ranking_of") in imports(blocks(CHECKOUT / "docs/results.md", "python")[0])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_use_verbs_that_exist(page):
    said = re.findall(r"\bvestige ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`|^vestige .*$", page.read_text(), re.MULTILINE)))
    assert set(said) <= set(cli.VERBS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    lost = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert lost == []


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_a_package_lists_the_modules_it_has(package):
    listed = set(re.findall(r"^(\w+)  *\S", ast.get_docstring(ast.parse(package.read_text())).partition("\n")[2], re.MULTILINE))
    files = {file.stem for file in package.parent.glob("*.py")} | {file.parent.name for file in package.parent.glob("*/__init__.py")}
    assert files - {"__init__"} <= listed, "modules that are not listed"
    rows = set(re.findall(r"^(\w+)  +\S", ast.get_docstring(ast.parse(package.read_text())).partition("\n")[2], re.MULTILINE))
    assert rows <= files, "listed modules that do not exist"


def test_most_packages_list_their_modules():
    assert len(PACKAGES) >= 10
