"""One load of a model per process: the next job on the same model takes the one that the last job gave back."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from vestige.bench.contract.types import ModelSpec, canonical_hash, plain
from vestige.bench.models import loading
from vestige.bench.models.fingerprints import weights_digest

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

_FREE: dict[str, Pipe] = {}  # one at most


def take(spec: ModelSpec, device: str) -> Pipe:
    """The model as it was loaded, for one owner: who takes next gets another one, unless it was given back."""
    from vestige.bench.models.origin import Origin

    pipe = _FREE.pop(_key(spec, device), None)
    if pipe is not None:
        return pipe
    if _FREE:  # makes room for the other model
        _FREE.clear()
        gc.collect()
    pipe = loading.load(spec, device)
    pipe.origin = Origin(pipe)
    return pipe


def give_back(pipe: Pipe, device: str) -> None:
    """Of a pipe that is as it was loaded."""
    _FREE.clear()
    _FREE[_key(pipe.spec, device)] = pipe


def _key(spec: ModelSpec, device: str) -> str:
    return canonical_hash({"model": plain(spec), "weights": weights_digest(spec), "device": device})
