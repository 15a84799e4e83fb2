"""One file of Python as a syntax tree: what its top level binds and imports. Nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Imports = dict[str, tuple[str, str | None]]  # name -> (module, name there, or None for the module itself)


@dataclass
class Module:
    """The top level of one file."""

    name: str
    package: bool
    nodes: dict[str, list[ast.stmt]] = field(default_factory=dict)  # name -> what binds it
    imports: Imports = field(default_factory=dict)


def module_of(name: str, text: str, package: bool) -> Module:
    tree = ast.parse(text)
    module = Module(name, package)
    module.imports = imports_of(name, package, _top_level(tree.body))
    for node in _top_level(tree.body):
        for bound in _binds(node):
            module.nodes.setdefault(bound, []).append(node)
    return module


def imports_of(module: str, package: bool, nodes: Iterable[ast.AST]) -> Imports:
    found: Imports = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for item in node.names:  # `import a.b` binds a, `import a.b as c` binds a.b
                found[item.asname or item.name.split(".")[0]] = (item.name if item.asname else item.name.split(".")[0], None)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".") if package else module.split(".")[:-1]
            base = base[: len(base) - node.level + 1] if node.level else []
            where = ".".join([*base, *([node.module] if node.module else [])])
            found |= {item.asname or item.name: (where, item.name) for item in node.names}
    return found


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _top_level(handler.body)
        else:
            yield node


def _binds(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def dotted(node: ast.AST) -> list[str] | None:
    """a.b.c as its words; None when something else stands at the front."""
    words = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return [node.id, *reversed(words)] if isinstance(node, ast.Name) else None


def methods_of(node: ast.stmt) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Of a class; of anything else none."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [part for part in body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
