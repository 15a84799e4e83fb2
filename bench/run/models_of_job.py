"""The models of one job, loaded when they are first asked for: the original, the erased one, and with what an attack found in force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vestige.bench.contract.plugin import Attack
from vestige.bench.contract.types import Adversary, Erasure
from vestige.bench.models import loading
from vestige.bench.run.cost import Clock
from vestige.bench.run.job import Job
from vestige.bench.run.store import Store
from vestige.bench.run.store_folder import Stage

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


@dataclass
class Models:
    """Of one job; `erased` is the erase stage of each of its steps, in order, and empty for the original model."""

    job: Job
    store: Store
    clock: Clock = field(default_factory=Clock)  # stands still while a model is loaded

    @cached_property
    def pipe(self) -> Pipe:
        return self._loaded()

    @cached_property
    def untouched(self) -> Pipe:
        """A second copy, never attached to: the original model while the first is changed."""
        return self._loaded()

    def _loaded(self) -> Pipe:
        with self.clock.stopped():
            return loading.load(self.job.model, self.job.runtime.device)

    @property
    def is_original(self) -> bool:
        return self.job.method.intervention == "none"

    def erasure_key(self, erased: Sequence[Stage]) -> str | None:
        """Of the model after the last step; None for the original, whatever method leaves it as it is."""
        return None if not erased or self.is_original else erased[-1].key

    @contextmanager
    def to_erase(self, before: Sequence[Stage]) -> Iterator[Pipe]:
        """The model that the next step erases from: as the steps before it left it. Afterwards it is the original again."""
        pipe = self.untouched if self.is_original else self.pipe
        with self._stacked(pipe, [] if self.is_original else before), pipe.preserved():
            yield pipe

    @contextmanager
    def attached(self, erased: Sequence[Stage]) -> Iterator[Pipe]:
        """The model after the last of these steps."""
        if self.erasure_key(erased) is None:
            yield self.untouched
        else:
            with self._stacked(self.pipe, erased) as pipe:
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
        with self.attached(erased) as pipe:
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
