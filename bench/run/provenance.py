"""How a result was made: code version, package versions, machine, threads, command line."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from functools import cache

from vestige.bench import __version__
from vestige.bench.places import CHECKOUT

PACKAGES = ("torch", "diffusers", "transformers", "hydra-core", "pandas", "numpy", "open_clip_torch", "torchmetrics", "safetensors")


def provenance() -> dict:
    """JSON facts about this process, now."""
    now = {"command": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "threads": _threads(), "pid": os.getpid()}
    return {**_fixed(), **now, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


@cache
def _fixed() -> dict:
    return {
        "vestige": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": _gpu(),
    }


def _git(*words: str) -> str | None:
    if CHECKOUT is None:
        return None
    try:
        done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else None
