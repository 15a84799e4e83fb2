"""Makes results/demo, results/protocols and results/robustness again: runs their jobs on the embedded model, writes their tables.

    python -m benchmarks.committed_tables demo                   # about twenty minutes on two cores
    python -m benchmarks.committed_tables protocols              # about half an hour on one core; or some: protocols hub ecgvf
    python -m benchmarks.committed_tables robustness             # about three hours on one core

Stages that are in the store are not computed again; one that other code made stops the run (runtime.stale=refuse). The records name
the commit: run it from a clean checkout.
"""

import argparse
import shutil
import sys
from pathlib import Path

from vestige.bench import cli
from vestige.bench.contract.controls import CONTROLS
from vestige.bench.places import CONF

METHODS = "original,oracle,uce,esd"
DEMO = ["experiment=demo", "runtime.threads=1"]  # as `make demo` on two cores: threads decide how sums are rounded
# Two more erasures of a dog by each method that trains: how much the seed of an erasure matters.
SEEDS = [*DEMO, "concept=dog", "method=esd,concept_ablation,spm", "seed=1,2"]
PROTOCOLS = {path.stem: METHODS for path in sorted((CONF / "protocol").glob("*.yaml"))}
PROTOCOLS["forgetme_entangled"] += ",another_seed,painted_over"
SHARED = ("coco_10k", "coco_30k")  # coco_utility's captions on the emoji model: the same numbers
FIGURES = ("budget-emoji", "curve-relearning_lora-emoji")  # the others show one search each
ALL_CONTROLS = f"controls=[{','.join(CONTROLS)}]"
ERASERS = "uce,esd"
# The grid of conf/experiment/robustness.yaml, with other concepts and with null controls where they tell something.
ROBUSTNESS = [
    ["method=original,oracle,oracle_seed1,spm,sld", "concept=dog"],
    [f"method={ERASERS}", "concept=dog", ALL_CONTROLS],
    ["method=original,oracle,spm", "concept=pixel_art"],
    [f"method={ERASERS}", "concept=pixel_art", ALL_CONTROLS],
    [f"method=original,oracle,{ERASERS},spm", "concept=danger", "split.target.rows=1"],
]


def demo() -> None:
    folder = Path("results") / "demo"
    run(folder, DEMO)
    vestige("gallery", "--records", folder / "records", "--out", folder / "gallery.html", "--sheet", folder / "gallery.png")
    run(folder, DEMO, SEEDS)
    vestige("table", "--records", folder / "records", "--out", folder / "leaderboard.md")
    vestige("table", "--format", "csv", "--records", folder / "records", "--out", folder / "leaderboard.csv")


def protocol(name: str) -> None:
    folder = Path("results") / "protocols" / name
    run(folder, ["-m", f"protocol={name}", f"method={PROTOCOLS[name]}"])
    vestige("table", "--composites", "--records", folder / "records", "--out", folder / "leaderboard.md")
    vestige("table", "--format", "csv", "--records", folder / "records", "--out", folder / "cells.csv")


def robustness() -> None:
    folder = Path("results") / "robustness"
    run(folder, *(["experiment=robustness", *words] for words in ROBUSTNESS))
    vestige("robustness", "--records", folder / "records", "--out", folder / "matrix.md")
    vestige("robustness", "--format", "csv", "--records", folder / "records", "--out", folder / "matrix.csv")
    vestige("plot", "--records", folder / "records", "--out", folder / "figures")
    for file in (folder / "figures").iterdir():
        if file.stem not in FIGURES:
            file.unlink()


def run(folder: Path, *commands: list[str]) -> None:
    """The commands' records, and the scores behind them packed beside, so that the tables can be made again from the repository."""
    records = folder / "records"
    shutil.rmtree(records, ignore_errors=True)
    for words in commands:
        vestige("run", *words, f"runtime.records={records}")
    vestige("pack", "--records", records, "--out", records)


def vestige(*words: str | Path) -> None:
    words += ("runtime.stale=refuse",) if words[0] == "run" else ()
    print("vestige", *words, flush=True)
    if cli.main([str(word) for word in words]) != 0:
        sys.exit(f"failed: vestige {' '.join(map(str, words))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("demo", "protocols", "robustness"))
    parser.add_argument("names", nargs="*", help="of protocols; all but those that repeat coco_utility")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(PROTOCOLS)
    if unknown:
        parser.error(f"no such protocol: {', '.join(sorted(unknown))}. Allowed: {', '.join(PROTOCOLS)}.")
    if arguments.what != "protocols":
        {"demo": demo, "robustness": robustness}[arguments.what]()
        return
    for name in arguments.names or [p for p in PROTOCOLS if p not in SHARED]:
        protocol(name)


if __name__ == "__main__":
    main()
