"""`vestige run` and `vestige plan`: Hydra composes the grid, its launcher runs each cell as a job, here or elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vestige.bench.places import CONF, config_folders, results
from vestige.bench.run import choices, outcomes, resolvers
from vestige.bench.run.concept_sets import with_concepts_of_steps
from vestige.bench.run.outcomes import Outcome
from vestige.bench.run.search_path import search_current_folder
from vestige.bench.run.store_folder import check_writable
from vestige.bench.run.task import Task, in_a_sentence, this_process
from vestige.bench.run.user_folders import check_folders

LAUNCHERS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}  # hydra/launcher -> extra of the package


def main(verb: str, overrides: list[str]) -> int:
    """Run the command line through Hydra. Exit codes: 0 done, 1 some failed, 2 bad command, 3 some busy."""
    ended = launch(verb, overrides)
    if verb == "plan" and ended and not any(outcome.status == "refused" for outcome in ended):
        from vestige.bench.run.plan import summary

        print(summary([outcome.facts for outcome in ended if outcome.facts]))
    for record in (outcome.facts for outcome in ended if outcome.status == "failed" and outcome.facts):
        print(f"failed: {record['method']} x {'+'.join(record['concepts'])}: {record['reason']}\n{record['error']}", file=sys.stderr)
    return outcomes.exit_code(ended)


def launch(verb: str, overrides: list[str], aloud: bool = True) -> list[Outcome]:
    """Every job of the grid under the launcher in force; aloud: each is shown once it has ended. Raises ValueError for a bad command."""
    overrides = with_concepts_of_steps(overrides)
    folders = config_folders(*_config_dirs(overrides))
    choices.check_names(overrides, folders)
    check_folders(folders)
    _check_launcher(overrides)
    if not any(word.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for word in overrides):
        check_writable(results() / "hydra", "hydra.run.dir")  # Hydra itself would end with a traceback
    search_current_folder()
    resolvers.register_resolvers()
    answers = results().absolute() / "hydra" / f"outcomes-{uuid.uuid4().hex[:12]}"
    task = Task(verb, ["vestige", verb, *overrides], answers, this_process() if aloud else "")
    try:
        lost = _through_hydra(task, overrides)
        ended = outcomes.read(answers)
        elsewhere = [outcome for outcome in ended if not outcome.shown]
        if lost:
            elsewhere.append(_lost(verb, lost, len(ended)))
            ended.append(elsewhere[-1])
        if aloud:
            for outcome in elsewhere:
                outcome.show()
        return ended
    finally:
        shutil.rmtree(answers, ignore_errors=True)


def _through_hydra(task: Task, overrides: list[str]) -> Exception | None:
    """What ended the launcher before its jobs were over, if anything did."""
    try:
        with _hydra_arguments(overrides):
            hydra.main(config_path=str(CONF), config_name="run", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as mistake:
        cause = mistake.__cause__ if isinstance(mistake.__cause__, OmegaConfBaseException) else None
        told = [str(mistake), *([in_a_sentence(cause)] if cause else [])]
        raise ValueError(" ".join(" ".join(told).split())) from mistake
    except Exception as error:
        return error
    return None


def _lost(verb: str, error: Exception, ended: int) -> Outcome:
    """A worker that was killed leaves no answer."""
    first = (str(error).splitlines() or [""])[0]
    sentence = (
        f"the launcher stopped with {type(error).__name__}: {first} {ended} jobs had ended. Type the same again: what is done is kept."
    )
    return Outcome("failed", warned=f"vestige {verb}: {sentence}")


@contextlib.contextmanager
def _hydra_arguments(overrides: list[str]) -> Iterator[None]:
    """Hydra reads the process's arguments, wants its flags before the overrides (people type `-m` anywhere), and prints tracebacks of
    what the user mistyped, unless it is told to raise them."""
    multirun = [word for word in overrides if word in ("-m", "--multirun")]
    words = ["vestige", *multirun[:1], *(word for word in overrides if word not in multirun)]
    before, told = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = words, "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if told is not None:
            os.environ["HYDRA_FULL_ERROR"] = told


def _check_launcher(overrides: list[str]) -> None:
    chosen = next((word.partition("=")[2] for word in overrides if word.startswith("hydra/launcher=")), None)
    if chosen in LAUNCHERS and not installed(chosen):
        raise ValueError(f"hydra/launcher={chosen} is not installed. Install it with: pip install 'vestige[{LAUNCHERS[chosen]}]'.")


def installed(launcher: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher") is not None
    except ModuleNotFoundError:  # not one plugin of Hydra's is installed
        return False


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
