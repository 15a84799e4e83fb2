"""What Hydra calls for every cell of a grid, in this process or in a worker on another machine."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vestige.bench.run import choices, composing, resolvers
from vestige.bench.run.job import Job
from vestige.bench.run.outcomes import Outcome


@dataclass(frozen=True)
class Task:
    """A launcher sends a copy to its workers. So what a worker must know is a field, and what it answers is a file."""

    verb: str  # run or plan
    command: list[str]  # as typed, for the record
    outcomes: Path  # an absolute folder, one file per job
    process: str  # the one that shows how jobs ended: a worker's own screen may be a log file on another machine

    def __call__(self, tree: DictConfig) -> None:
        resolvers.register_resolvers()  # workers start without them
        with _argv(self.command):
            outcome = replace(self._outcome(tree), shown=this_process() == self.process)
        outcome.write(self.outcomes, OmegaConf.select(cast(DictConfig, HydraConfig.get()), "job.num", default=0))
        if outcome.shown:
            outcome.show()

    def _outcome(self, tree: DictConfig) -> Outcome:
        """Never raises: one bad cell must not end the others."""
        try:
            choices.check_settings(HydraConfig.get().overrides.task, choices.chosen_attacks(tree))
            job = composing.build_job(tree, HydraConfig.get().runtime.choices.get("protocol"), planned=self.verb == "plan")
            _use_threads(job)
            return _planned(job) if self.verb == "plan" else _done(job)
        except (ValueError, OmegaConfBaseException) as mistake:  # Stale is one
            return Outcome("refused", warned=f"vestige {self.verb}: {in_a_sentence(mistake)}")
        except Exception as error:
            reason = f"vestige {self.verb}: a job stopped outside of its stages, by {type(error).__name__}: {error}"
            return Outcome("failed", warned=f"{reason}\n{traceback.format_exc()}")


def this_process() -> str:
    return f"{platform.node()}:{os.getpid()}"


def in_a_sentence(mistake: Exception) -> str:
    """OmegaConf adds lines about its own objects: only what is wrong and where."""
    if not isinstance(mistake, OmegaConfBaseException):
        return str(mistake)
    key = getattr(mistake, "full_key", None)
    return (f"{key}: " if key else "") + str(mistake).split("\n")[0]


def _planned(job: Job) -> Outcome:
    from vestige.bench.run.plan import plan_job

    with contextlib.redirect_stdout(io.StringIO()) as said:
        plan = plan_job(job)
    return Outcome(plan["status"], said.getvalue(), facts=plan)


def _done(job: Job) -> Outcome:
    from vestige.bench.run.record import line
    from vestige.bench.run.runner import run_job

    record = run_job(job)
    return Outcome(record["status"], line(record), facts=record)


def _use_threads(job: Job) -> None:
    if job.runtime.threads:
        import torch

        torch.set_num_threads(job.runtime.threads)


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """The record tells the command that was typed: in a worker the process has another."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
