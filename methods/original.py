"""The model as it is: the first row of every table, and the shortest example of a method."""

from dataclasses import dataclass
from typing import ClassVar

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure
from vestige.bench.models.pipe import Pipe


@dataclass
class Original(Method):
    """Erases nothing. Its artefact is empty, so its images are the shared images of the original model."""

    intervention: ClassVar[str] = "none"

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        return Erasure({})
