"""Where networks that look at images compute: judges, features, CLIP, detectors, captioners. The model itself is loaded onto its device.

The device is not handed down as an argument: whoever computes something says `with device.on(runtime.device)`, and inside it every network
is loaded onto that device (`placed`; loaders keep one per device, `per_device`). A network takes images from anywhere (`beside`) and
answers on the CPU, so that what follows, tables and statistics, knows of no device. Outside of any `on` it is the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

    Net = TypeVar("Net", bound=nn.Module)

Loader = TypeVar("Loader", bound=Callable)

_IN_FORCE: ContextVar[str] = ContextVar("device", default="cpu")


def check(name: str) -> None:
    """Raise a ValueError for a name that no machine has a device of. Loads no torch."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"runtime.device={name!r} is no device. Allowed: cpu, cuda, cuda:<number>, mps. For a GPU type runtime=gpu.")


def missing(name: str) -> str | None:
    """Why this machine cannot compute on the device, in a sentence, or None."""
    if name == "cpu":
        return None
    import torch

    if name == "mps":
        return None if torch.backends.mps.is_available() else "runtime.device='mps' is not on this machine. Type runtime.device=cpu."
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) < there:
        return None
    seen = f"torch sees {there} GPU{'s' * (there > 1)}, cuda:0 to cuda:{there - 1}" if there else "torch sees no GPU"
    return f"runtime.device={name!r} is not on this machine: {seen}. Type runtime.device={'cuda:0' if there else 'cpu'}."


@contextmanager
def on(name: str | torch.device) -> Iterator[None]:
    """Inside the `with`, networks are loaded onto this device and compute there, in reference arithmetic."""
    from vestige.bench.models import numerics

    numerics.use_reference()
    before = _IN_FORCE.set(str(name))
    try:
        yield
    finally:
        _IN_FORCE.reset(before)


def current() -> torch.device:
    import torch

    return torch.device(_IN_FORCE.get())


def placed(net: Net) -> Net:
    """The network on the device in force, in evaluation mode, frozen."""
    return net.to(current()).eval().requires_grad_(False)


def beside(net: nn.Module, inputs: Any) -> Any:
    """The inputs (a tensor, or a batch of a tokenizer or processor) where the network is."""
    return inputs.to(next(net.parameters()).device)


def per_device(load: Loader) -> Loader:
    """Keeps what `load` returns, for each device apart."""

    @cache
    def kept(where: str, *asked: Any) -> Any:
        return load(*asked)

    @wraps(load)
    def loaded(*asked: Any) -> Any:
        return kept(_IN_FORCE.get(), *asked)

    loaded.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return cast(Loader, loaded)
