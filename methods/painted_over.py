"""A control that erases nothing: where a judge sees the concept, the thing is painted over in the colour of its ground.

What a perfect local removal looks like on drawings with a plain ground: the upper end of Entangled's scale.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench import judges
from vestige.bench.contract.plugin import Context, Method, unsupported_reason
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.pipe import Pipe
from vestige.bench.vision.masks import background_difference, border_colour


@dataclass
class PaintedOver(Method):
    """Artefact: no tensors; the labels in meta."""

    intervention: ClassVar[str] = "filter"
    detachable: ClassVar[bool] = True

    judge: str  # not the one that scores
    threshold: float  # colour distance between ground and thing, 0 to 1

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if model.domain != "emoji":
            return "painted_over needs drawings on a plain ground: choose model=emoji. For photographs give entangled_d cleaned images."
        labels = [concept.slug for concept in concepts]
        if lost := unsupported_reason(judges.check, self.judge) or judges.unknown_labels(self.judge, model.domain, [], labels):
            return f"painted_over: {lost}"
        return super().supports(model, concepts)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        return Erasure({}, {"labels": [concept.slug for concept in concepts]})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        judge = judges.load(self.judge)

        def apply(images: Tensor) -> tuple[Tensor, list[bool]]:
            stored = (images * 255).round().to(torch.uint8).cpu()
            seen = [judge.present(stored, [label] * len(stored)) for label in erasure.meta["labels"]]
            inside = background_difference(stored, self.threshold) & torch.stack(seen).any(0)[:, None, None]
            ground = border_colour(stored).to(images)
            return torch.where(inside[:, None].to(images.device), ground, images), [False] * len(images)

        with pipe.filtered_by(apply):
            yield pipe
