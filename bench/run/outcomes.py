"""How one job ended, as the process that started the sweep tells it, whichever process ran the job."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vestige.bench.contract.types import plain
from vestige.bench.run.store import write_atomically

DONE, FAILED, REFUSED, BUSY = range(4)  # exit codes; 2 is also that of a command that cannot be understood


@dataclass(frozen=True)
class Outcome:
    """status: that of the record, or planned, or refused (bad input: no record is written)."""

    status: str
    said: str = ""  # for the screen
    warned: str = ""  # for the error stream
    facts: dict = field(default_factory=dict)  # the record, or the plan
    shown: bool = False  # by the process that ran it

    def write(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{number:06d}.json", json.dumps(plain(dataclasses.asdict(self))))

    def show(self) -> None:
        for text, stream in ((self.warned, sys.stderr), (self.said, sys.stdout)):
            if text:
                print(text.rstrip("\n"), file=stream, flush=True)


def read(folder: Path) -> list[Outcome]:
    """In the order of the grid."""
    return [Outcome(**json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]


def exit_code(outcomes: list[Outcome]) -> int:
    """Done, else the worst that happened: refused before failed before busy."""
    statuses = {outcome.status for outcome in outcomes}
    return next((code for status, code in (("refused", REFUSED), ("failed", FAILED), ("busy", BUSY)) if status in statuses), DONE)
