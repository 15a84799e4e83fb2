"""A digest of the code that computes a stage (its syntax trees), so that a result of changed code is recognised.

From the functions that a stage calls, names are followed through modules, classes and annotations of this project and of a user's
own modules; nothing is imported or run. A method of a class in reach counts when anything in reach uses its name, so that the
error messages of the loader do not date every image. Not part of the digest: comments, docstrings, annotations, imports, and in
which file a thing stands. Packages (torch, diffusers) are ends: their versions are in the provenance.

What static reading cannot see (a class found by a name put together at run time) has to be given as a root.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vestige.bench.contract.types import plain
from vestige.bench.places import PACKAGE
from vestige.bench.run.syntax import Imports, Module, dotted, imports_of, is_docstring, methods_of, module_of

HOME = "vestige"
# Bookkeeping around results, which decides none of them
AROUND = (
    "vestige.bench.run.code",
    "vestige.bench.run.cost",
    "vestige.bench.models.fingerprints",
    "vestige.bench.run.provenance",
    "vestige.bench.run.store",
    "vestige.bench.run.syntax",
    "vestige.bench.run.store_folder",
    "vestige.bench.run.store_locks",
    "vestige.bench.contract.building",
    "vestige.bench.judges.registry",  # how a judge's file is found; what it says stands in the key
)
UNNAMED = ("forward", "backward")  # methods that torch calls
Root = tuple[str, str]  # module, and a name in it: "function", "Class" or "Class.method"; ("", word): methods of this name are called


@dataclass
class Piece:
    """A function, a method, a constant, or a class without its methods; and what it mentions."""

    text: str  # of its syntax tree, without what does not count
    names: list[Root] = field(default_factory=list)  # of this project
    words: set[str] = field(default_factory=set)  # attributes and strings: what may name a method


class Code:
    """All code of the project and of modules beside it. read: module -> its text, or None for a module that is not our own."""

    def __init__(self, read: Callable[[str], tuple[str, bool] | None] | None = None) -> None:
        self.read = read or source
        self.modules: dict[str, Module | None] = {}
        self.pieces: dict[tuple[str, str], Piece] = {}
        self.digests: dict[tuple[Root, ...], str] = {}

    def digest(self, roots: Iterable[Root]) -> str:
        """16 hex digits. Equal for code that differs in comments, docstrings, layout, annotations or places of definitions only."""
        key = tuple(sorted(set(roots)))
        if key not in self.digests:
            texts = sorted({self._piece(module, name).text for module, name in self.reach(key)})
            self.digests[key] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
        return self.digests[key]

    def reach(self, roots: Collection[Root]) -> set[Root]:
        """Everything that the roots may call or read: functions, constants, classes (their fields), and their methods in use."""
        seen: set[Root] = set()
        words = {name for module, name in roots if not module}
        waiting: dict[str, list[Root]] = {}  # method name -> methods of that name in reached classes that nothing has asked for yet
        todo = [found for module, name in roots if module for found in self._rooted(module, name)]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            piece = self._piece(*here)
            todo += piece.names
            if isinstance(self._node(*here), ast.ClassDef):
                for method in self._methods(*here):
                    if method in words or method in UNNAMED or method.startswith("__"):
                        todo.append((here[0], f"{here[1]}.{method}"))
                    else:
                        waiting.setdefault(method, []).append((here[0], f"{here[1]}.{method}"))
            for word in piece.words - words:
                words.add(word)
                todo += waiting.pop(word, [])
        return seen

    # Pieces

    def _rooted(self, module: str, name: str) -> list[Root]:
        """A root and, for a method, the class that defines it, bases included."""
        head, _, method = name.partition(".")
        found = self.resolve(module, head)
        if found is None:
            raise ValueError(f"{module} has no {head!r}: the code that computes a stage cannot be followed from there.")
        if not method:
            return [found]
        return [found, *self._inherited(found, method)]

    def _inherited(self, cls: Root, method: str) -> list[Root]:
        """The method of this name in a class and in its bases: an overridden one may be called by `super`."""
        node = self._node(*cls)
        own = [(cls[0], f"{cls[1]}.{method}")] if method in self._methods(*cls) else []
        parts = node.bases if isinstance(node, ast.ClassDef) else []
        bases = [base for part in parts if (base := self._named(cls[0], part))]
        return own + [found for base in bases if isinstance(self._node(*base), ast.ClassDef) for found in self._inherited(base, method)]

    def _named(self, module: str, node: ast.AST) -> Root | None:
        place = dotted(node)
        return self._follow(module, place, {})[0] if place else None

    def _methods(self, module: str, name: str) -> list[str]:
        return [method.name for method in methods_of(self._node(module, name))]

    def _node(self, module: str, name: str) -> ast.stmt:
        return self._nodes(module, name)[-1]

    def _nodes(self, module: str, name: str) -> list[ast.stmt]:
        """All statements that bind a name, or a method of a class: an overloaded one has several."""
        head, _, method = name.partition(".")
        nodes = self._ours(module).nodes[head]
        return [part for part in methods_of(nodes[-1]) if part.name == method] if method else nodes

    def _piece(self, module: str, name: str) -> Piece:
        if (module, name) not in self.pieces:
            piece, parts = Piece(""), self._nodes(module, name)
            piece.text = f"{name} " + " ".join(_Reader(self, module, piece, part).text(part) for part in parts)
            self.pieces[module, name] = piece
        return self.pieces[module, name]

    def resolve(self, module: str, name: str) -> Root | None:
        """Where a name of a module is defined, through imports; None outside of our own code."""
        for _ in range(20):
            found = self._module(module)
            if found is None:
                return None
            if name in found.nodes:
                return module, name
            if name not in found.imports:
                return None
            module, inner = found.imports[name]
            if inner is None:
                return None
            there = self._module(module)
            if self._module(f"{module}.{inner}") is not None and (there is None or inner not in there.nodes):
                return None  # a module, no thing in one
            name = inner
        return None

    def _follow(self, module: str, place: list[str], local: Imports) -> tuple[Root | None, int, str]:
        """What a dotted name leads to: (definition or None, how many of its words that takes, the first word's outside name)."""
        found = self._ours(module)
        if place[0] in found.nodes and place[0] not in local:
            return (module, place[0]), 1, ""
        if place[0] not in local and place[0] not in found.imports:
            return None, 0, place[0]
        where, inner = local.get(place[0]) or found.imports[place[0]]
        outside = where if inner is None else f"{where}.{inner}"
        if inner is not None and (there := self.resolve(where, inner)):
            return there, 1, ""
        for k in range(1, len(place)):  # a module, perhaps with modules inside
            if self._module(outside) is None:
                break
            if there := self.resolve(outside, place[k]):
                return there, k + 1, ""
            outside = f"{outside}.{place[k]}"
        return None, 0, where if inner is None else f"{where}.{inner}"

    def _ours(self, name: str) -> Module:
        found = self._module(name)
        assert found is not None, f"{name} is no module of ours"
        return found

    def _module(self, name: str) -> Module | None:
        if name not in self.modules:
            text = self.read(name)
            self.modules[name] = None if text is None else module_of(name, *text)
        return self.modules[name]


class _Reader:
    """Writes a syntax tree down without what does not count, and notes what it mentions."""

    def __init__(self, code: Code, module: str, piece: Piece, node: ast.AST) -> None:
        self.code, self.module, self.piece, self.top = code, module, piece, node
        self.imports = imports_of(module, code._ours(module).package, ast.walk(node))  # those inside a function hide the module's names

    def text(self, node: ast.AST) -> str:
        return "".join(self._parts(node))

    def _parts(self, node: ast.AST | list | object) -> Iterator[str]:
        if isinstance(node, list):
            yield f"[{','.join(text for item in node if (text := self.text(item)))}]"
        elif not isinstance(node, ast.AST):
            yield repr(node)
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.Pass) or is_docstring(node):
            return
        elif isinstance(node, ast.Name | ast.Attribute) and (place := dotted(node)) is not None:
            yield from self._place(place)
        else:
            yield from self._other(node)

    def _place(self, place: list[str]) -> Iterator[str]:
        """A dotted name; its words that lead to a definition of ours become that definition's own name."""
        found, taken, outside = self.code._follow(self.module, place, self.imports)
        if found:
            self.piece.names.append(found)
            place = [found[1], *place[taken:]]
        else:
            place = [outside, *place[1:]]
        self.piece.words |= set(place[1:])
        yield f"<{'.'.join(place)}>"

    def _other(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Attribute):
            self.piece.words.add(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            self.piece.words.add(node.value)
        yield type(node).__name__ + "("
        for key, value in ast.iter_fields(node):
            if key in ("annotation", "returns"):
                self._mention(value)
            elif key in ("type_comment", "type_params", "kind", "ctx", "simple"):
                continue
            elif key == "body" and node is self.top and isinstance(node, ast.ClassDef):  # its methods are pieces of their own
                yield from self._parts([part for part in value if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)])
            else:
                yield from self._parts(value)
        yield ")"

    def _mention(self, annotation: ast.AST | None) -> None:
        """An annotation says which class a thing is of, also in quotes; it is no part of the text."""
        for part in ast.walk(annotation) if annotation is not None else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                try:
                    self._mention(ast.parse(part.value, mode="eval").body)
                except SyntaxError:
                    continue
            elif isinstance(part, ast.Name | ast.Attribute) and (place := dotted(part)):
                found, _, _ = self.code._follow(self.module, place, self.imports)
                self.piece.names += [found] if found else []


def source(module: str) -> tuple[str, bool] | None:
    """(text of a module, whether it is a package) for modules of the project and of users; None for installed packages and AROUND."""
    head, *rest = module.split(".")
    if module in AROUND:
        return None
    base = PACKAGE if head == HOME else _own(head)
    if base is None:
        return None
    place = base.joinpath(*rest)
    for file, package in ((place / "__init__.py", True), (place.with_name(f"{place.name}.py"), False)):
        if file.is_file():
            return file.read_text(), package
    return None


def _own(head: str) -> Path | None:
    """The place (without .py) of a top-level module of the user's own; None for the standard library and installed packages."""
    if head in sys.stdlib_module_names or head in _INSTALLED:
        return None
    if head not in _PLACES:
        try:
            spec = importlib.util.find_spec(head)
        except (ImportError, ValueError):
            spec = None
        origin = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
        installed = origin is not None and any(origin.is_relative_to(folder) for folder in _FOLDERS)
        _PLACES[head] = None if origin is None or installed else origin.parent if origin.name == "__init__.py" else origin.with_suffix("")
    return _PLACES[head]


_INSTALLED = {"torch", "numpy", "pandas", "diffusers", "transformers", "PIL", "scipy", "tqdm", "safetensors", "omegaconf", "hydra"}
_FOLDERS = [Path(p) for p in (*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "stdlib")))]
_PLACES: dict[str, Path | None] = {}
PROJECT = Code()


def of(*parts: list[Root]) -> str:
    """The digest of the project's code from these roots on."""
    return PROJECT.digest(root for part in parts for root in part)


def part(plugin: object, method: str) -> list[Root]:
    """What a plugin's class does in one of its methods, and what another plugin does that it is given (a `_target_` in its settings)."""
    inner = [tuple(target.rsplit(".", 1)) for target in _targets(plain(plugin))]
    own = (type(plugin).__module__, type(plugin).__qualname__)
    return [(module, f"{name}.{method}") for module, name in [own, *inner]]


def _targets(settings: object) -> Iterator[str]:
    if isinstance(settings, dict):
        yield from [settings["_target_"]] if "_target_" in settings else []
        settings = list(settings.values())
    for value in settings if isinstance(settings, list) else []:
        yield from _targets(value)


def judge(judge_id: str | None) -> list[Root]:
    """How a judge is loaded and asked; of a chain of judges (`a+b`) all of them."""
    from vestige.bench import judges

    if judge_id is None:
        return []
    kinds = {type(judges.judge_of(part)) for part in judges.parts(judge_id)}
    loaded = [(kind.__module__, f"{kind.__qualname__}.load") for kind in kinds]
    return [("vestige.bench.judges", "load"), *loaded, *(("", word) for word in ("about", "among", "present"))]
