"""The command line: `vestige <verb> ...`. Nothing heavy is imported before a verb needs it."""

import sys


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["world"]:
        from bench.world.command import main as world

        return world(argv[1:])
    return 2
