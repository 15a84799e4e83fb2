"""The models of one job, loaded when they are first asked for: the original, the erased one, and with what an attack found in force."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vestige.bench.contract.plugin import Attack
from vestige.bench.contract.types import Adversary, Erasure
from vestige.bench.models import loading
from vestige.bench.run import loaded_model
from vestige.bench.run.cost import Clock
from vestige.bench.run.job import Job
from vestige.bench.run.store import Store
from vestige.bench.run.store_folder import Stage

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


@dataclass
class Models:
    """Of one job; `erased` is the erase stage of each of its steps, in order, and empty for the original model.

    There is one pipe, for one user at a time, and a second only where the original is asked for while the first is in use.
    """

    job: Job
    store: Store
    clock: Clock = field(default_factory=Clock)  # stands still while a model is loaded
    users: list[str] = field(default_factory=list)  # the plugins that work on the pipe now; empty when it is free
    bare: bool = False  # the pipe is in use as the original: nothing is attached to it
    taken: bool = False  # the pipe was loaded for this job; else somebody gave it

    @cached_property
    def pipe(self) -> Pipe:
        with self.clock.stopped():
            self.taken = True
            return loaded_model.take(self.job.model, self.job.runtime.device)

    @cached_property
    def untouched(self) -> Pipe:
        """A second pipe, never attached to, that sees nothing of what is written to the first."""
        with self.clock.stopped():
            origin = self.pipe.origin
            return origin.pipe() if origin else loading.load(self.job.model, self.job.runtime.device)

    def original(self) -> Pipe:
        """What a plugin gets as the original: its own pipe where that is the original, so that it has one budget."""
        return self.pipe if self.bare else self.untouched

    def give_back(self) -> None:
        """The job is done: the next one may take the pipe."""
        if self.taken and "pipe" in self.__dict__:
            loaded_model.give_back(self.__dict__.pop("pipe"), self.job.runtime.device)
        self.__dict__.pop("untouched", None)

    @contextmanager
    def _used_by(self, *plugins: object, bare: bool = False) -> Iterator[Pipe]:
        """The pipe. When nobody uses it any more it must be as it was loaded; one that is not is never used again."""
        pipe, before, outside = self.pipe, self.bare, len(self.users)
        self.bare = bare
        self.users += [type(plugin).__name__ for plugin in plugins if plugin is not None]
        try:
            yield pipe
        finally:
            self.bare = before
            if self.taken and not outside:
                self._check(pipe)
            del self.users[outside:]

    def _check(self, pipe: Pipe) -> None:
        changed = pipe.origin.changed(pipe) if pipe.origin else None
        if changed:
            del self.pipe
            names = " or ".join(dict.fromkeys(self.users))
            print(f"{names} left {changed} changed in model {self.job.model.name}: it is loaded again.", file=sys.stderr, flush=True)

    @property
    def is_original(self) -> bool:
        return self.job.method.intervention == "none"

    def erasure_key(self, erased: Sequence[Stage]) -> str | None:
        """Of the model after the last step; None for the original, whatever method leaves it as it is."""
        return None if not erased or self.is_original else erased[-1].key

    @contextmanager
    def to_erase(self, before: Sequence[Stage]) -> Iterator[Pipe]:
        """The model that the next step erases from: as the steps before it left it. Afterwards it is the original again."""
        steps = [] if self.is_original else before
        with self._used_by(self.job.method, bare=self.is_original) as pipe, self._stacked(pipe, steps), pipe.preserved():
            yield pipe

    @contextmanager
    def attached(self, erased: Sequence[Stage], attack: Attack | None = None) -> Iterator[Pipe]:
        """The model after the last of these steps. attack: who else works on it."""
        if self.erasure_key(erased) is not None:
            with self._used_by(self.job.method, attack) as pipe, self._stacked(pipe, erased) as erased_pipe:
                yield erased_pipe
        elif self.users:
            yield self.untouched
        else:
            with self._used_by(self.job.method, attack, bare=True) as pipe:
                yield pipe

    @contextmanager
    def _stacked(self, pipe: Pipe, erased: Sequence[Stage]) -> Iterator[Pipe]:
        """Each artefact attached to the model that those before it made."""
        with ExitStack() as attached:
            for stage in erased:
                with self.store.reading(stage):
                    erasure = Erasure.load(stage.path)
                pipe = attached.enter_context(self.job.method.attach(pipe, erasure))
            yield pipe

    def touched(self, erased: Sequence[Stage]) -> frozenset[str]:
        """The parts of the model that these steps changed."""
        parts: frozenset[str] = frozenset()
        for stage in [] if self.is_original else erased:
            with self.store.reading(stage):
                parts |= Erasure.load(stage.path).touched
        return parts

    @contextmanager
    def in_force(self, erased: Sequence[Stage], attack: Attack | None, adversary: Stage | None) -> Iterator[Pipe]:
        """The erased model, with what the attack found in force."""
        with self.attached(erased, attack if adversary else None) as pipe:
            if attack is None or adversary is None:
                yield pipe
            else:
                with self.store.reading(adversary):
                    found = Adversary.load(adversary.path)
                with attack.attach(pipe, found) as attacked:
                    yield attacked

    @contextmanager
    def at_no_cost(self) -> Iterator[None]:
        """What is made here is read by all jobs and nobody's own budget, whoever makes it first."""
        original = self.__dict__.get("untouched")
        before = dict(original.counts) if original else {}
        with self.clock.stopped():
            yield
        original = self.__dict__.get("untouched")  # what is in the store already needs no model
        if original:
            original.counts.update(dict.fromkeys(original.counts, 0) | before)

    def counted(self, pipe: Pipe) -> dict[str, int]:
        """What was asked of the erased model, and of the original where an attack owns that too."""
        original = self.__dict__.get("untouched")  # loaded only when an attack asks for it
        rows = 0 if original in (None, pipe) else original.counts["forward_rows"]
        return {**pipe.counts, "original_forward_rows": rows}
