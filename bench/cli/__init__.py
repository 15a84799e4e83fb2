"""The command line: `vestige <verb> ...`. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vestige.bench import __version__
from vestige.bench.places import check_install, results

VERBS = {
    "run": "run a job or a sweep (Hydra): vestige run -m method=esd,uce concept=dog,rocket attack=none,paraphrase",
    "plan": "the same arguments as run: what is cached, missing or unsupported; loads no model",
    "status": "what the store and the records hold: done, failed, unsupported, unfinished",
    "ls": "list methods, concepts, attacks, metrics, splits, models, ... : vestige ls methods 'e*'",
    "show": "one record or stage in readable form: vestige show KEY",
    "table": "leaderboard from the records: vestige table --format md",
    "gallery": "HTML page, rows methods, columns prompts: the same seed in a column",
    "reproduce": "published tables: plan them, or print ours beside theirs: vestige reproduce mace_celebrity",
    "robustness": "attack x method, raw and calibrated by the oracle, with null controls and flags",
    "plot": "erasure against preservation, attack success against budget, ranks",
    "power": "how many prompts a claim needs: vestige power --difference 0.1 --sd 0.45",
    "check": "contract tests of a plugin: vestige check method=mine",
    "diff": "why two keys differ: vestige diff KEY KEY",
    "curves": "erasure against the number of concepts erased together",
    "prompts": "published lists that are here or missing; pairgen: pairs of prompts filtered by what the model draws",
    "pack": "records with their scores in one folder, for tables without the store: vestige pack --out results/mine/records",
    "gc": "what no record needs; --delete removes it",
    "world": "build, train and measure the embedded emoji model",
}

SCORED = ("table", "robustness", "plot", "power", "pack")  # verbs that read the scores of images, from one or several places


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: vestige <verb> ...\n\n" + "\n".join(f"  {verb:<10} {what}" for verb, what in VERBS.items()))
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 2)
        print(
            f"vestige: there is no verb {verb!r}. " + (f"Did you mean {' or '.join(near)}? " if near else "") + "See vestige --help.",
            file=sys.stderr,
        )
        return 2
    try:
        check_install()
        return _dispatch(verb, rest)
    except ValueError as error:
        print(f"vestige {verb}: {error}", file=sys.stderr)
        return 2


def _dispatch(verb: str, rest: list[str]) -> int:
    if verb in ("run", "plan"):
        from vestige.bench.run import sweep

        return sweep.main(verb, rest)
    if verb == "world":
        from vestige.bench.world.training.command import main as world

        return world(rest)
    if verb == "ls":
        from vestige.bench.cli import listing

        return listing.main(rest)
    if verb == "reproduce":
        from vestige.bench.papers import reproduce

        return reproduce.main(rest)
    if verb == "check":
        from vestige.bench.run import contract_checks

        return contract_checks.main(rest)
    if verb == "curves":
        return _curves(rest)
    if verb == "prompts":
        return _prompts(rest)
    return _read_results(verb, rest)


def _prompts(rest: list[str]) -> int:
    from vestige.bench.prompts import published_lists
    from vestige.bench.run import pairgen

    if rest[:1] == ["pairgen"]:
        return pairgen.main(rest[1:])
    if rest[:1] != ["lists"]:
        raise ValueError("say `vestige prompts lists`, or `vestige prompts pairgen concept=dog [--rows=24] [--out=folder]`.")
    print(published_lists.survey())
    return 0


def _curves(rest: list[str]) -> int:
    from vestige.bench.reports import concept_curves

    folder = results() / "mass_erasure"
    parser = argparse.ArgumentParser(prog="vestige curves", description=VERBS["curves"])
    parser.add_argument("--records", type=Path, default=folder / "records", help="of a sweep over concept sets")
    parser.add_argument("--out", type=Path, default=folder, help="folder for curves.md, curves.csv and curves.png")
    return concept_curves.main(parser.parse_args(rest))


def _read_results(verb: str, rest: list[str]) -> int:
    from vestige.bench.cli import inspect_results

    parser = argparse.ArgumentParser(prog=f"vestige {verb}", description=VERBS[verb])
    if verb in SCORED:
        parser.add_argument("--store", type=Path, action="append", help="where scores lie; may be given several times, the first wins")
    else:
        parser.add_argument("--store", type=Path, default=results() / "store")
    if verb == "gc":
        parser.add_argument(
            "--records", type=Path, action="append", help="more records whose results are kept, beside all of results/ (repeatable)"
        )
        parser.add_argument("--delete", action="store_true", help="really remove what is listed")
    else:
        parser.add_argument("--records", type=Path, default=results() / "records")
    if verb == "status":
        parser.add_argument("--verify", action="store_true", help="read every file of every stage again and compare its hash")
    if verb == "pack":
        parser.add_argument("--out", type=Path, required=True, help="folder for copies of the records and their packed scores")
    if verb == "table":
        parser.add_argument("--format", choices=("md", "csv", "latex", "html"), default="md")
        parser.add_argument("--composites", action="store_true", help="also the published composite scores (csv: only those)")
        parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    if verb == "robustness":
        parser.add_argument("--format", choices=("md", "csv", "latex", "html"), default="md")
        parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    if verb == "gallery":
        parser.add_argument("--out", type=Path, default=results() / "gallery.html")
        parser.add_argument("--sheet", type=Path, help="also write one image with two examples per question, for a README")
    if verb == "plot":
        parser.add_argument("--out", type=Path, default=results() / "plots", help="folder")
        parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    if verb == "power":
        _power_arguments(parser)
    if verb == "show":
        parser.add_argument("key", help="beginning of a record's or stage's key or folder name")
    if verb == "diff":
        parser.add_argument("keys", nargs=2, help="beginnings of two records' or stages' keys")
    return getattr(inspect_results, verb)(parser.parse_args(rest))


def _power_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--difference", type=float, help="smallest difference between two methods worth finding, in the metric's unit")
    parser.add_argument("--sd", type=float, help="sd of the paired difference of single images")
    parser.add_argument("--icc", type=float, default=0.0, help="its correlation within a prompt (0 with one image per prompt)")
    parser.add_argument("--repeats", type=int, default=1, help="images per prompt")
    parser.add_argument("--power", type=float, default=0.8, dest="wanted", help="chance to find the difference")
    parser.add_argument("--rate", type=float, help="an expected rate, for the width of its interval")
    parser.add_argument("--within", type=float, help="wanted half-width of the rate's 95 %% interval")
    parser.add_argument("--a", help="a method in the records: take sd and icc from its difference to --b")
    parser.add_argument("--b", default="original", help="the other method")
    parser.add_argument("--split", default="target")
    parser.add_argument("--attack", default="none")
    parser.add_argument("--column", default="presence.present", help="metric.column")
