"""Work that depends on the model and on settings, but on no concept: done once, its folder read by every job that asks.

A sparse autoencoder, Fisher information, sums of squares over a corpus, images for a teacher. A plugin names such work in
`shares()` and gets its folder from `ctx.shared(...)`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vestige.bench.contract.types import canonical_hash

if TYPE_CHECKING:
    from vestige.bench.contract.plugin import Context
    from vestige.bench.models.pipe import Pipe


class Shared(NamedTuple):
    """One piece of shared work. Its key is the model, the name and the spec, so the spec holds everything else that decides it."""

    name: str
    spec: dict[str, Any]  # plain data
    make: Callable[[Pipe, Path, Context], Any]  # (original model, folder to fill, context); a function with a name of its own

    @property
    def root(self) -> tuple[str, str]:
        """(module, name) of the function that makes it: where the digest of its code begins."""
        function = self.make
        while isinstance(function, functools.partial):
            function = function.func
        name = getattr(function, "__qualname__", "<unnamed>")
        if "<" in name:
            raise ValueError(
                f"shared work {self.name!r} is made by {name}, whose code cannot be followed. Make it with a function at the top of a "
                "module, a method of a class, or a functools.partial of one."
            )
        return function.__module__, name


class NoSampler:
    """Stands for the sampler in the context of shared work, which must not depend on one that its spec does not name."""

    def __getattr__(self, setting: str) -> Any:
        raise AttributeError(
            f"shared work asked for sampler.{setting}, but it serves jobs of every sampler. Put the sampler's settings into its spec, "
            "and build a Sampler from them."
        )


def check_declared(work: Shared, owner: Any) -> None:
    """`vestige plan` runs no plugin, so it can only tell of work that `shares()` names."""
    if not any((work.name, work.spec) == (other.name, other.spec) for other in owner.shares()):
        raise ValueError(
            f"{type(owner).__name__} asks for the shared work {work.name!r}, which its shares() does not name with this spec. "
            "Add it there, so that `vestige plan` can tell whether it is cached."
        )


def made_in(folder: Path | None = None, owner: Any = None) -> Callable[[Shared, Context], Path]:
    """Shared work without a store, for tests and `vestige check`: in this folder, or in one that is made when first asked."""

    def find_or_make(work: Shared, ctx: Context) -> Path:
        nonlocal folder
        if owner is not None:
            check_declared(work, owner)
        _ = work.root  # refuses here what a run would refuse
        folder = Path(tempfile.mkdtemp()) if folder is None else folder
        place = folder / f"shared-{canonical_hash({'name': work.name, 'spec': work.spec})}"
        if not place.exists():
            place.mkdir(parents=True)
            with ctx.original().preserved() as pipe:
                work.make(pipe, place, ctx.for_shared(place.name))
        return place

    return find_or_make
