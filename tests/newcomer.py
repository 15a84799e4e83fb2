"""What a newcomer writes outside the repository (a method, a metric, an attack, a split), and the commands they type."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from vestige.bench.places import CHECKOUT

METHOD = """
from contextlib import contextmanager
from dataclasses import dataclass
import torch
from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Erasure

@dataclass
class Scale(Method):
    '''Scale one layer: a newcomer's first method.'''
    needs = ("draw", "ends")
    factor: float
    def erase(self, pipe, concepts, ctx):
        return Erasure({f"{pipe.denoiser_name}.{name}": weight * self.factor for name, weight in pipe.group("ends").items()})
"""
METRIC = """
from dataclasses import dataclass
from typing import ClassVar
from vestige.bench.contract.plugin import Metric
from vestige.bench.contract.types import Scores

@dataclass
class Brightness(Metric):
    columns: ClassVar = {"brightness": True}
    def score(self, images, material):
        if not len(images):
            raise ValueError("there is no image to score: the set is empty.")
        values = images.pixels().float().mean((1, 2, 3))
        rows = images.index[["row_id", "rep"]].assign(brightness=values.numpy())
        return Scores({"brightness": float(values.mean())}, rows)
"""
ATTACK = """
from dataclasses import dataclass
from typing import ClassVar
from vestige.bench.contract.plugin import Attack
from vestige.bench.contract.types import Adversary

@dataclass
class Shout(Attack):
    access: ClassVar[str] = "text"
    mark: str
    def attack(self, victim, prompts, ctx):
        return Adversary(prompts.with_prompts([prompt + self.mark for prompt in prompts.prompts]))
"""
SPLIT = """
defaults:
  - /metric@small.metrics: [brightness]
small: {prompts: target, rows: 2, repeats: 1, attacked: true}
"""


def write_plugins(folder: Path) -> Path:
    """A folder outside the repository: modules and a config folder."""
    files = {
        "mine.py": METHOD,
        "yours.py": METRIC,
        "theirs.py": ATTACK,
        "conf/attack/shout.yaml": "shout: {_target_: theirs.Shout, mark: ' dog!'}\n",
        "conf/method/mine.yaml": "name: mine\n_target_: mine.Scale\nfactor: 0.5\n",
        "conf/metric/brightness.yaml": "brightness: {_target_: yours.Brightness}\n",
        "conf/split/small.yaml": SPLIT,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def vestige(*words: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = environment_for(path)
    command = [sys.executable, "-m", "vestige", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path or CHECKOUT, timeout=240)


def quick_words(place, *words: str) -> list[str]:
    """Of the quickest job on the tiny model: two images, no network that judges."""
    return [
        *("model=tiny", "split=[target]", "split.target.rows=2", "split.target.repeats=1", "model.sampler.steps=1"),
        *("~split.target.metrics.answers", "~split.target.metrics.clip_score", "~split.target.metrics.presence"),
        *(f"runtime.store={place}/store", f"runtime.records={place}/records", *words),
    ]


def run_words(outside: Path, *words: str, places: list[str] | None = None) -> list[str]:
    places = places or [f"runtime.store={outside}/store", f"runtime.records={outside}/records"]
    return [
        "run",
        "--config-dir",
        str(outside / "conf"),
        *places,
        "split=[small]",
        "model=tiny",
        f"hydra.sweep.dir={outside}/hydra",
        f"hydra.run.dir={outside}/hydra",
        *words,
    ]


def environment_for(path: Path | None) -> dict:
    return {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{path or ''}", "HF_HUB_OFFLINE": "1"}
