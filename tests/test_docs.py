"""What the pages say exists: imports in code blocks, verbs, links, and the modules that each sub-package lists."""

import ast
import importlib
import re
import shlex

import pytest

from vestige.bench import cli
from vestige.bench.places import CHECKOUT
from vestige.bench.run import tree

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


def commands(page) -> list[str]:
    """The `vestige run` and `vestige plan` lines of a page, and settings in braces that stand alone in its text."""
    lines = re.findall(r"^ *(vestige (?:run|plan) .*)$", re.sub(r"\\\n *", "", page.read_text()), re.MULTILINE)
    alone = re.findall(r"`'?([a-z_]+=[{\[][^`]*[}\]])'?`", page.read_text())
    return [line for line in lines if "mine" not in line] + [
        f"vestige plan attack=[none,relearning_lora,memora] '{words}'" for words in alone
    ]


def composable(command: str) -> list[str]:
    """The words of a command without flags and comments; of a sweep (a,b) the first choice."""
    words = shlex.split(command.partition("&&")[0], comments=True)[2:]
    words = [word for word in words if "=" in word and not word.startswith(("hydra", "--"))]
    return [word if re.search(r"[{\[]", word) else word.partition(",")[0] for word in words]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_settings_of_commands_compose(page):
    for command in commands(page):
        assert "method" in tree.composed(composable(command)), command


def test_commands_of_the_readme_are_read():
    """The check above sees lines and settings in the text, so it can fail."""
    found = commands(CHECKOUT / "README.md")
    assert len(found) > 6 and any("budget_sweep={" in command for command in found)
    with pytest.raises(ValueError, match="there is no method"):
        tree.composed(composable("vestige run -m method=essd,uce concept=dog  # a grid"))


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
