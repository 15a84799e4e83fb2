"""How many small faults the tests catch: seeded one-line changes of the code, each in a copy of the project, against its tests.

    python -m benchmarks.mutants --seed 0 --count 40 --out mutants.json [--area scoring] [--list]

Files and tests of an area stand in AREAS; test files that import the changed module are run after the listed ones. A change is
killed when a test fails or does not end. The file of results is written after every change, and the same command goes on from it
as long as the files of the areas are the same; --retry runs survivors again, after tests were added. A survivor's `reason` in it is
for you to fill in, and is kept. Environment variables reach the tests, so that what watches the code itself can be switched off.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 1800.0  # seconds for one test file on the unchanged code
ENDLESS = " does not end"
LEAST_TIMEOUT = 60.0  # seconds for one test file; three times what it takes on the unchanged code, where that is more


@dataclass(frozen=True)
class Area:
    files: tuple[str, ...]  # patterns below the project
    tests: tuple[str, ...]  # in this order, quick ones first


AREAS = {
    "drawing": Area(
        ("bench/models/pipe.py", "bench/run/generate.py", "bench/models/diffusion.py", "bench/models/text.py"),
        ("tests/test_pipe.py", "tests/test_encodings.py", "tests/methods/test_esd.py", "tests/test_generate.py"),
    ),
    "scoring": Area(
        (
            "metrics/presence.py",
            "metrics/answers.py",
            "metrics/_rows.py",
            "bench/judges/presence.py",
            "bench/statistics/score_intervals.py",
        ),
        ("tests/test_score_intervals.py", "tests/metrics/test_answers.py", "tests/test_judges.py", "tests/metrics/test_costs.py"),
    ),
    "joining": Area(
        ("bench/reports/results.py", "bench/reports/score_table.py", "bench/reports/aggregates.py"),
        ("tests/test_report.py", "tests/test_composites.py", "tests/test_robustness.py"),
    ),
    "statistics": Area(("bench/statistics/*.py",), ("tests/test_statistics.py", "tests/test_score_intervals.py")),
}

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPPOSITES = {
    "min": "max",
    "argmin": "argmax",
    "any": "all",
    "floor": "ceil",
    "clamp_min": "clamp_max",
    "amin": "amax",
    "minimum": "maximum",
}
COMPOUND = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp)  # these go into parentheses
OPPOSITES |= {after: before for before, after in OPPOSITES.items()}


@dataclass(frozen=True)
class Mutant:
    area: str
    file: str
    line: int  # from 1
    kind: str
    before: str  # the line
    after: str


def mutants_of(source: str, area: str, file: str) -> list[Mutant]:
    """Every change of one expression on one line. Messages, annotations, decorators and version numbers are left alone."""
    lines, found = source.split("\n"), []
    for node in changeable(ast.parse(source)):
        for kind, new in changed(node):
            before = lines[node.lineno - 1]
            raw, text = before.encode(), f"({ast.unparse(new)})" if isinstance(new, COMPOUND) else ast.unparse(new)
            after = (raw[: node.col_offset] + text.encode() + raw[node.end_col_offset :]).decode()
            if ast.dump(new) != ast.dump(node):
                found.append(Mutant(area, file, node.lineno, kind, before, after))
    return found


def applied(source: str, mutant: Mutant) -> str:
    lines = source.split("\n")
    lines[mutant.line - 1] = mutant.after
    return "\n".join(lines)


def changeable(tree: ast.AST) -> Iterator[ast.expr]:
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "msg"):
            continue
        for node in value if isinstance(value, list) else [value]:
            version = isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "version"
            if not isinstance(node, ast.AST) or version or isinstance(node, ast.Raise | ast.JoinedStr):
                continue
            if isinstance(node, ast.expr) and node.lineno == node.end_lineno:
                yield node
            yield from changeable(node)


def changed(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """(kind of change, new expression)."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield "operator", ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.Compare(left, [op], right):
            for other in COMPARISONS[type(op)]:
                yield "comparison", ast.Compare(left, [other()], right)
        case ast.BoolOp(op, values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)):  # of an axis -1, 1 is too often the same
            yield "off by one", ast.Constant(1 - value)
            yield "off by one", ast.Constant(-1 - value)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield "negation dropped", operand
        case ast.IfExp(test, body, orelse):
            yield "branches swapped", ast.IfExp(test, orelse, body)
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield "off by one", ast.Constant(value + 1)
            yield "off by one", ast.Constant(value - 1)
        case ast.Constant(float() as value):
            yield "constant", ast.Constant(value * 2 if value else 1.0)
            yield "constant", ast.Constant(value + 1)
        case ast.Call(func, [first, second, *rest], keywords) if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
            yield "arguments swapped", ast.Call(func, [second, first, *rest], keywords)
    match node:
        case ast.Call(ast.Name(name), arguments, keywords) if name in OPPOSITES:
            yield "opposite", ast.Call(ast.Name(OPPOSITES[name]), arguments, keywords)
        case ast.Call(ast.Attribute(owner, name), arguments, keywords) if name in OPPOSITES:
            yield "opposite", ast.Call(ast.Attribute(owner, OPPOSITES[name]), arguments, keywords)


def drawn(root: Path, areas: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` changes of different lines, as many of every area as of another; lines are drawn first, so that long ones weigh no more."""
    chance, picked = random.Random(seed), {}
    for area in areas:
        by_line = defaultdict(list)
        for file in files_of(root, area):
            for mutant in mutants_of((root / file).read_text(), area, file):
                by_line[mutant.file, mutant.line].append(mutant)
        lines = sorted(by_line)
        picked[area] = iter([one_of(by_line[line], chance) for line in chance.sample(lines, min(count, len(lines)))])
    turns = (next(picked[area], None) for area in cycle(areas))
    return [mutant for mutant in islice(turns, count) if mutant is not None]


def one_of(mutants: list[Mutant], chance: random.Random) -> Mutant:
    kind = chance.choice(sorted({mutant.kind for mutant in mutants}))
    return chance.choice([mutant for mutant in mutants if mutant.kind == kind])


def files_of(root: Path, area: str) -> list[str]:
    return sorted(str(file.relative_to(root)) for pattern in AREAS[area].files for file in root.glob(pattern))


def tests_of(root: Path, mutant: Mutant) -> list[str]:
    """The area's tests, then those that import the changed module."""
    module = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    imports = re.compile(rf"(from|import) (vestige\.)?{re.escape(module)}\b|from (vestige\.)?{re.escape(package)} import [^\n]*\b{name}\b")
    listed = [test for test in AREAS[mutant.area].tests if (root / test).exists()]
    others = sorted(str(file.relative_to(root)) for file in (root / "tests").rglob("test_*.py") if imports.search(file.read_text()))
    return [*listed, *(test for test in others if test not in listed)]


def failed_test(tree: Path, test: str, timeout: float) -> str | None:
    """The first test of the file that fails or does not end in this tree, None if all pass."""
    words = [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        words, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the processes that the tests started
        said, _ = process.communicate()
        return f"{[test, *re.findall(r'^(tests/[^ ]+::[^ ]+)', said, re.MULTILINE)][-1]}{ENDLESS}"
    if process.returncode in (0, 5):  # 5: nothing was collected
        return None
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return named[1] if named else f"{test}: pytest ended with {process.returncode}"


def copied(root: Path, tree: Path) -> None:
    """What git tracks or would track, as it lies in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() or (root / name).is_symlink():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name, follow_symlinks=False)


class Trial:
    """Runs changes in one copy of the project and knows how long each test file takes on unchanged code."""

    def __init__(self, tree: Path, seconds: dict[str, float | None]) -> None:
        self.tree, self.seconds = tree, seconds

    def killed_by(self, mutant: Mutant) -> str | None:
        for test in tests_of(self.tree, mutant):
            failed = self.failed_under(mutant, test)
            if failed:
                return failed
        return None

    def failed_under(self, mutant: Mutant, test: str) -> str | None:
        """As `failed_test`. A file that does not end counts only if it does end, right after, on unchanged code."""
        if test not in self.seconds:
            self.measure(test)
        while (usual := self.seconds[test]) is not None:
            limit = max(LEAST_TIMEOUT, 3 * usual)
            with self.changed(mutant):
                failed = failed_test(self.tree, test, limit)
            if failed is None or not failed.endswith(ENDLESS) or failed_test(self.tree, test, limit) is None:
                return failed
            self.measure(test)  # the machine is slower than it was
        return None

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        file = self.tree / mutant.file
        source = file.read_text()
        file.write_text(applied(source, mutant))
        try:
            yield
        finally:
            file.write_text(source)

    def measure(self, test: str) -> None:
        begun = time.monotonic()
        failed = failed_test(self.tree, test, LONGEST)
        self.seconds[test] = None if failed else round(time.monotonic() - begun, 1)
        if failed:
            print(f"{failed} fails on the unchanged code: {test} is left out.", flush=True)


def main(arguments: argparse.Namespace) -> int:
    areas = [arguments.area] if arguments.area else list(AREAS)
    mutants = drawn(ROOT, areas, arguments.count, arguments.seed)
    if arguments.list:
        print("\n".join(described(mutant, "") for mutant in mutants))
        return 0
    state = earlier(arguments.out, areas)
    known = {key(Mutant(**entry["mutant"])): entry for entry in state["mutants"]}
    state["mutants"] = [known.get(key(mutant), {"mutant": asdict(mutant)}) for mutant in mutants]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied(ROOT, Path(folder))
        trial = Trial(Path(folder), state["seconds"])
        for entry in state["mutants"]:
            mutant = Mutant(**entry["mutant"])
            if "outcome" not in entry or (arguments.retry and entry["outcome"] == "survived"):
                by = trial.killed_by(mutant)
                entry |= {"outcome": "killed" if by else "survived", "by": by or "", "reason": entry.get("reason", "")}
                written(arguments.out, state)
            print(described(mutant, f"{entry['outcome']} {entry['by'] or entry['reason']}"), flush=True)
    killed = sum(entry["outcome"] == "killed" for entry in state["mutants"])
    print(f"{killed} of {len(state['mutants'])} killed (seed {arguments.seed}, areas {', '.join(areas)})")
    return 0 if killed >= arguments.at_least else 1


def key(mutant: Mutant) -> tuple:
    return tuple(asdict(mutant).values())


def earlier(out: Path, areas: list[str]) -> dict:
    """What an earlier run with the same code left, else nothing."""
    code = hashlib.sha256()
    for file in (name for area in areas for name in files_of(ROOT, area)):
        code.update((ROOT / file).read_bytes())
    fresh = {"code": code.hexdigest(), "seconds": {}, "mutants": []}
    state = json.loads(out.read_text()) if out.exists() else fresh
    if state["code"] != fresh["code"]:
        print(f"{out} is of other code: everything is run again.")
        return fresh
    return state


def written(out: Path, state: dict) -> None:
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n")
    partial.replace(out)


def described(mutant: Mutant, outcome: str) -> str:
    change = [line for line in difflib.ndiff([mutant.before.strip()], [mutant.after.strip()]) if line[0] in "+-"]
    return "\n".join([f"{mutant.file}:{mutant.line} ({mutant.kind}) {outcome}".rstrip(), *(f"  {line}" for line in change)])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--area", choices=AREAS, help="one area; default: all, in turns")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--at-least", type=int, default=0, help="exit with 1 when fewer are killed")
    parser.add_argument("--retry", action="store_true", help="run survivors of an earlier run again")
    parser.add_argument("--list", action="store_true", help="print the changes and run nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(arguments()))
