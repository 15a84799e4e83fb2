"""The layers of the package: a module imports only what lies below it, modules form no circle, and files stay small."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from vestige.bench.places import PACKAGE

CODE = ("bench", "methods", "attacks", "metrics")  # the folders of the package that hold Python
LAYERS = (  # from the lowest: a module may import its own layer and those above it in this list
    "bench.contract",
    "bench.prompts",
    "bench.models",
    "bench.world.content",
    "bench.world.models",
    "bench.vision",
    "bench.judges",
    "bench.statistics",
    "metrics",
    "methods",
    "attacks",
    "bench.world.training",
    "bench.run",
    "bench.reports",
    "bench.papers",
    "bench.cli",
)
APART = ("bench", "bench.places", "bench.world")  # imported from anywhere, and importing no layer
PLUGINS = ("metrics", "methods", "attacks")
# What belongs to bench/models/families (and to bench/world, which makes a model): see Family.groups, Pipe.process, TextSide.reader.
ARCHITECTURE = re.compile(
    r"attn[12\[]|\bunet\.|\.unet\b|'unet'|cross_attention_dim|alphas_cumprod|num_train_timesteps|spec\.family|tokenizers\[|encoders\["
)
LONGEST = 350  # lines of a file; a longer one says in its docstring why


@cache
def modules() -> dict[str, Path]:
    """Name inside the package -> file: `bench.models.pipe`, and `bench.models` for its __init__."""
    files = [file for folder in CODE for file in (PACKAGE / folder).rglob("*.py")]
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_statements(node: ast.AST, lazy: bool):
    """The imports that run: with `lazy` also those inside functions, never those for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from import_statements(child, lazy)


def _names(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """What a statement imports, in full; `from a import b` is a.b, whether b is a module or not."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return [f"{statement.module}.{alias.name}" for alias in statement.names]


@cache
def imported(module: str, lazy: bool = True) -> tuple[str, ...]:
    """The modules of the package that a module imports."""
    found = []
    for statement in import_statements(tree(module), lazy):
        for name in _names(statement):
            inside = name.removeprefix("vestige.")
            if inside != name:
                found.append(inside if inside in modules() else inside.rpartition(".")[0])
    return tuple(dict.fromkeys(name for name in found if name and name != module))


def layer(module: str) -> str | None:
    """The layer of a module, the longest that fits; None for what stands apart."""
    fitting = [name for name in LAYERS if module == name or module.startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def arrows() -> list[tuple[str, str]]:
    return [(module, other) for module in modules() for other in imported(module)]


def test_imports_inside_functions_are_read_and_those_for_the_type_checker_are_not():
    text = "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept ImportError:\n    pass\ndef f():\n    from d import e\n"
    names = [[name for node in import_statements(ast.parse(text), lazy) for name in _names(node)] for lazy in (True, False)]
    assert names == [["a", "c", "d.e"], ["a", "c"]]


def test_every_module_has_a_layer():
    assert sorted(module for module in modules() if layer(module) is None) == sorted(set(APART) & set(modules()))


def test_imports_are_of_modules_that_exist():
    assert [f"{module} -> {other}" for module, other in arrows() if other not in modules()] == []


def test_no_module_imports_a_higher_layer():
    height = {name: k for k, name in enumerate(LAYERS)}
    upward = [
        f"{module} -> {other}"
        for module, other in arrows()
        if layer(other) is not None and (layer(module) is None or height[layer(module)] < height[layer(other)])
    ]
    assert upward == []


def test_the_harness_knows_no_plugin_by_name():
    assert [f"{module} -> {other}" for module, other in arrows() if module.startswith("bench") and layer(other) in PLUGINS] == []


def test_no_plugin_imports_what_runs_jobs_or_reads_results():
    above = ("bench.run", "bench.reports", "bench.papers", "bench.cli")
    assert [f"{module} -> {other}" for module, other in arrows() if layer(module) in PLUGINS and layer(other) in above] == []


def code(module: str) -> str:
    """The text of a module without comments and docstrings."""
    read = ast.parse(modules()[module].read_text())
    for node in ast.walk(read):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return ast.unparse(read)


def test_no_plugin_names_architecture():
    """A plugin says what it needs, and asks for weights by their role: so a family is one file and no edit of a plugin."""
    read = [module for module in modules() if layer(module) in (*PLUGINS, "bench.vision")]
    found = {module: words for module in read if (words := sorted({*ARCHITECTURE.findall(code(module))}))}
    assert found == {}


def test_architecture_is_found_in_code_and_not_in_what_is_written_about_it():
    """The families themselves name it, which shows that the pattern is one."""
    assert ARCHITECTURE.findall(code("bench.models.families._unet"))
    assert not ARCHITECTURE.findall(code("bench.models.sampling"))


def test_modules_import_each_other_in_no_circle():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return [" -> ".join((*path[path.index(module) :], module))]
        if module in done or module not in modules():
            return []
        circles = [circle for other in imported(module, lazy=False) for circle in walk(other, (*path, module))]
        done.add(module)
        return circles

    assert [circle for module in sorted(modules()) for circle in walk(module, ())] == []


def test_code_is_imported_under_its_name_in_the_package():
    """`import bench.x` would make every class a second time."""
    top = {*CODE, "conf", "prompts", "results"}
    beside = [file for folder in ("tests", "benchmarks") for file in (Path(__file__).parents[1] / folder).rglob("*.py")]
    trees = {module: tree(module) for module in modules()} | {file.stem: ast.parse(file.read_text()) for file in beside}
    names = [(where, name) for where, read in trees.items() for node in import_statements(read, True) for name in _names(node)]
    assert [f"{where} imports {name}" for where, name in names if name.split(".")[0] in top] == []


@pytest.mark.parametrize("folder", [*CODE, "benchmarks", "tests"])
def test_a_long_file_says_why(folder):
    home = PACKAGE if folder in CODE else Path(__file__).parents[1]
    texts = {str(file.relative_to(home)): file.read_text() for file in (home / folder).rglob("*.py")}
    long = [name for name, text in texts.items() if len(text.splitlines()) > LONGEST]
    assert [name for name in long if "Long because" not in (ast.get_docstring(ast.parse(texts[name])) or "")] == []


@pytest.mark.parametrize("package", ["contract", "models", "vision", "reports"])
def test_a_package_says_what_each_of_its_modules_is(package):
    listed = {line.split()[0] for line in (ast.get_docstring(tree(f"bench.{package}")) or "").splitlines() if "  " in line}
    assert listed == {name.split(".")[2] for name in modules() if name.startswith(f"bench.{package}.")}
