"""`vestige run` and `vestige plan`: Hydra composes the grid, each cell becomes a job."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vestige.bench.places import CONF, config_folders
from vestige.bench.run import choices, composing, resolvers
from vestige.bench.run.search_path import search_current_folder
from vestige.bench.run.store import Stale
from vestige.bench.run.user_folders import check_folders

VERB = "run"  # set by main: Hydra calls `task` with the composed tree alone
OUTCOMES: list[dict] = []  # one entry per finished job of this process


def main(verb: str, overrides: list[str]) -> int:
    """Run the command line through Hydra. Exit codes: 0 done, 1 some failed, 2 bad command, 3 some busy."""
    global VERB
    VERB = verb
    OUTCOMES.clear()
    folders = config_folders(*_config_dirs(overrides))
    choices.check_names(overrides, folders)
    check_folders(folders)
    search_current_folder()
    resolvers.register_resolvers()
    # Hydra's parser wants its flags before the overrides; people type `-m` anywhere.
    multirun = [word for word in overrides if word in ("-m", "--multirun")]
    sys.argv = ["vestige", *multirun[:1], *(word for word in overrides if word not in multirun)]
    hydra.main(config_path=str(CONF), config_name="run", version_base="1.3")(task)()
    return _summary()


def task(tree: DictConfig) -> None:
    resolvers.register_resolvers()  # joblib and submitit workers start without them
    try:
        choices.check_settings(HydraConfig.get().overrides.task, choices.chosen_attacks(tree))
        job = composing.build_job(tree, HydraConfig.get().runtime.choices.get("protocol"), planned=VERB == "plan")
    except ValueError as mistake:
        print(f"vestige {VERB}: {mistake}", file=sys.stderr)
        OUTCOMES.append({"status": "refused"})
        return
    if job.runtime.threads:
        import torch

        torch.set_num_threads(job.runtime.threads)
    if VERB == "plan":
        from vestige.bench.run.plan import plan_job

        OUTCOMES.append(plan_job(job))
        return
    from vestige.bench.run.record import line
    from vestige.bench.run.runner import run_job

    try:
        record = run_job(job)
    except Stale as why:
        print(f"vestige {VERB}: {why}", file=sys.stderr)
        OUTCOMES.append({"status": "refused"})
        return
    OUTCOMES.append(record)
    print(line(record), flush=True)


def _summary() -> int:
    if any(outcome["status"] == "refused" for outcome in OUTCOMES):
        return 2
    if VERB == "plan" and OUTCOMES:
        from vestige.bench.run.plan import summary

        print(summary(OUTCOMES))
    if VERB == "plan" or "--cfg" in sys.argv or "--help" in sys.argv:
        return 0
    failed = [o for o in OUTCOMES if o["status"] == "failed"]
    for record in failed:
        print(f"failed: {record['method']} x {'+'.join(record['concepts'])}: {record['reason']}\n{record['error']}", file=sys.stderr)
    if failed:
        return 1
    return 3 if any(o["status"] == "busy" for o in OUTCOMES) else 0


def _config_dirs(overrides: list[str]) -> list[Path]:
    found = []
    for place, word in enumerate(overrides):
        if word in ("--config-dir", "-cd") and place + 1 < len(overrides):
            found.append(Path(overrides[place + 1]))
        elif word.startswith("--config-dir="):
            found.append(Path(word.partition("=")[2]))
        elif word.startswith("hydra.searchpath="):
            found += [Path(part.strip(" []'\"").removeprefix("file://")) for part in word.partition("=")[2].split(",")]
    return found
