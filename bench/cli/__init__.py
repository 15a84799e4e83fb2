"""The command line: `vestige <verb> ...`. Nothing heavy is imported before a verb needs it.

inspect_results  the verbs that read results: status, show, table, gallery, plot, power, diff, gc
listing          `vestige ls`
applicable       which plugins can run on a model
checking         `vestige check`
evidence         what supports that a plugin does what its paper says
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vestige.bench import __version__
from vestige.bench.places import check_install, results

VERBS = {
    "run": "run a job or a sweep: vestige run -m method=esd,uce concept=dog,rocket attack=none,paraphrase",
    "plan": "with the arguments of run: what is cached, missing or unsupported; loads no model",
    "status": "jobs that are done, failed or unsupported, and unfinished or damaged results",
    "ls": "list methods, concepts, attacks, metrics, splits, models, ...; what applies to a model: vestige ls methods --model sdxl",
    "show": "print one record or stage: vestige show KEY",
    "table": "leaderboard from the records: vestige table --format md",
    "gallery": "HTML page of images: a row per method, a column per prompt and seed",
    "reproduce": "a published table: plan its jobs, or compare its numbers with ours: vestige reproduce mace_celebrity",
    "robustness": "attack success per method, raw and calibrated by the oracle, with null controls and flags",
    "plot": "figures: erased against kept, attack success against budget, ranks",
    "power": "how many prompts a claim needs: vestige power --difference 0.1 --sd 0.45",
    "check": "run the contract tests of a method, attack, metric or judge on every family of models: vestige check method=mine",
    "diff": "the first setting in which two records or stages differ: vestige diff KEY KEY",
    "curves": "erasure and damage against the number of concepts erased together",
    "prompts": "lists: which published prompt lists are here; pairgen: make pairs of prompts, checked on what the model draws",
    "pack": "copy records and their scores to one folder, for tables without the store: vestige pack --out results/mine/records",
    "gc": "list results that no record refers to; --delete removes them",
    "world": "build, train and measure the embedded emoji model",
}

USAGE = {  # of the verbs that take settings and no options of argparse
    "check": "vestige check method=NAME | attack=NAME | metric=NAME | judge=NAME [--family FAMILY] [--config-dir FOLDER]",
    "prompts": "vestige prompts lists | pairgen concept=dog [--rows=24] [--out=FOLDER] [setting=value ...]",
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
    if verb in USAGE and rest[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE[verb]}\n\n{VERBS[verb]}")
        return 0
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
        from vestige.bench.cli import checking

        return checking.main(rest)
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
        raise ValueError(f"this verb needs to know what to do. Usage: {USAGE['prompts']}.")
    print(published_lists.survey())
    return 0


def _curves(rest: list[str]) -> int:
    from vestige.bench.reports import concept_curves

    folder = results() / "mass_erasure"
    parser = argparse.ArgumentParser(prog="vestige curves", description=VERBS["curves"])
    parser.add_argument("--records", type=Path, default=folder / "records", help="folder with the records of a sweep over concept sets")
    parser.add_argument("--out", type=Path, default=folder, help="folder for curves.md, curves.csv and curves.png")
    return concept_curves.main(parser.parse_args(rest))


def _read_results(verb: str, rest: list[str]) -> int:
    from vestige.bench.cli import inspect_results

    parser = argparse.ArgumentParser(prog=f"vestige {verb}", description=VERBS[verb])
    if verb in SCORED:
        parser.add_argument(
            "--store", type=Path, action="append", help="folder of stored scores (repeatable; the first that has a score wins)"
        )
    else:
        parser.add_argument("--store", type=Path, default=results() / "store")
    if verb == "gc":
        parser.add_argument(
            "--records",
            type=Path,
            action="append",
            help="also keep the results of these records (repeatable); those under results/ are always kept",
        )
        parser.add_argument("--delete", action="store_true", help="remove what is listed")
    else:
        parser.add_argument("--records", type=Path, default=results() / "records")
    if verb == "status":
        parser.add_argument("--verify", action="store_true", help="read every file of every stage again and compare its hash")
    if verb == "pack":
        parser.add_argument("--out", type=Path, required=True, help="folder for the copies")
    if verb == "table":
        parser.add_argument("--format", choices=("md", "csv", "latex", "html"), default="md")
        parser.add_argument("--composites", action="store_true", help="also the aggregate scores of papers (csv: only those)")
        parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    if verb == "robustness":
        parser.add_argument("--format", choices=("md", "csv", "latex", "html"), default="md")
        parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    if verb == "gallery":
        parser.add_argument("--out", type=Path, default=results() / "gallery.html")
        parser.add_argument("--sheet", type=Path, help="also write one image file with two examples per question, for a README")
    if verb == "plot":
        parser.add_argument("--out", type=Path, default=results() / "plots", help="folder")
        parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    if verb == "power":
        _power_arguments(parser)
    if verb == "show":
        parser.add_argument("key", help="first characters of the key of a record or stage, or of its folder name")
    if verb == "diff":
        parser.add_argument("keys", nargs=2, help="first characters of the keys of two records or stages")
    return getattr(inspect_results, verb)(parser.parse_args(rest))


def _power_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--difference", type=float, help="smallest difference between two methods to detect, in the metric's unit")
    parser.add_argument("--sd", type=float, help="standard deviation of that difference over single images")
    parser.add_argument("--icc", type=float, default=0.0, help="its correlation within a prompt (0 with one image per prompt)")
    parser.add_argument("--repeats", type=int, default=1, help="images per prompt")
    parser.add_argument("--power", type=float, default=0.8, dest="wanted", help="probability to detect the difference")
    parser.add_argument("--rate", type=float, help="an expected rate: plan the width of its interval")
    parser.add_argument("--within", type=float, help="half-width of the rate's 95 %% interval")
    parser.add_argument("--a", help="a method in the records: sd and icc are those of its difference to --b")
    parser.add_argument("--b", default="original", help="the other method")
    parser.add_argument("--split", default="target")
    parser.add_argument("--attack", default="none")
    parser.add_argument("--column", default="presence.present", help="metric.column")
