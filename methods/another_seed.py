"""A control that erases nothing: the original model with other noise. It shows what a paired metric gives to mere change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, derived_seed
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Trajectory


@dataclass
class AnotherSeed(Method):
    """Artefact: empty."""

    intervention: ClassVar[str] = "sampling"
    detachable: ClassVar[bool] = True

    number: int  # which other seed

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        return Erasure({})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        number = self.number

        class Reseeded(Trajectory):
            def __init__(self, pipe, seeds, sampler, image_ids=None) -> None:
                others = [derived_seed(seed, "another_seed", number) for seed in seeds]
                super().__init__(pipe, others, sampler, seeds if image_ids is None else image_ids)

        with pipe.sampled_by(Reseeded):
            yield pipe
