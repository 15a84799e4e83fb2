"""Put the concept where the empty prompt stands in guided sampling, so that every step moves away from it.

A baseline without a paper of its own; its timing was studied by Ban et al., "Understanding the Impact of Negative Prompts"
(ECCV 2024, arXiv 2406.02965). Changes no weight: whoever holds the model switches it off.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step, classifier_free


@dataclass
class NegativePrompt(Method):
    """Artefact: no tensors; the negative text in meta."""

    intervention: ClassVar[str] = "sampling"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "words")
    detachable: ClassVar[bool] = True

    text: str  # per concept; {name} is its name. Several concepts are joined by ", "
    start: float  # share of the steps after which the negative text begins
    end: float  # share of the steps after which it stops

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"method.start={self.start} and method.end={self.end} must be shares with 0 <= start <= end <= 1.")

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        texts = [self.text.format(name=concept.name) for concept in concepts]
        lost = first_beyond_limit(pipe, texts)
        if lost is not None:
            most = max(reader.length for reader in pipe.text.readers)
            warnings.warn(f"the model reads {most} tokens: {texts[lost]!r} and all after it are cut off.", stacklevel=2)
        return Erasure({}, {"negative_prompt": ", ".join(texts), "concepts_lost": 0 if lost is None else len(texts) - lost})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        text = erasure.meta["negative_prompt"]

        def factory():
            plain, negative = classifier_free(), pipe.encode([text]).detach()

            def rule(step: Step) -> Tensor:
                begun = step.index >= self.start * step.total
                if step.scale <= 1 or not begun or step.index >= self.end * step.total:
                    return plain(step)
                e_negative, e_cond = step.predict([negative.repeat(len(step.x)).serving(step.cond), step.cond])
                return e_negative + step.scale * (e_cond - e_negative)

            return rule

        with pipe.guided_by(factory):
            yield pipe


def first_beyond_limit(pipe: Pipe, texts: list[str]) -> int | None:
    """Index of the first text whose tokens, joined by ", ", no text encoder reads to the end."""
    for k in range(len(texts)):
        joined = ", ".join(texts[: k + 1])
        if all(reader.begins + len(reader.token_ids(joined)) + 1 > reader.length for reader in pipe.text.readers):
            return k
    return None
