"""Batches that fit into memory: one that does not is halved, and so are those that follow. Without that nothing is cut.

An image depends on its batch by rounding, so a stage in which a batch was halved says so among its facts (`batch_backed_off`).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from vestige.bench.contract.types import Sampler
    from vestige.bench.models.pipe import Images, Pipe

Result = TypeVar("Result")

_NOTED: ContextVar[dict[str, int] | None] = ContextVar("backed_off", default=None)


@contextmanager
def noted() -> Iterator[dict[str, int]]:
    """What was halved inside the `with`: kind of work -> rows at once in the end. A kind that was halved once begins with that size."""
    found: dict[str, int] = {}
    before = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(before)


def in_batches(batches: Iterable[Any], compute: Callable[[Any], Result], what: str) -> Iterator[tuple[Any, Result]]:
    """(batch, compute(batch)) of each batch, a list or a tensor. what: the kind of work, as a user would call it.

    A batch that needs more memory than there is comes in smaller parts; a single row that does raises.
    """
    found = _NOTED.get()
    most = {} if found is None else found
    for batch in batches:
        begin = 0
        while begin < len(batch):
            part = batch[begin : begin + most.get(what, len(batch))]
            fits, result = _tried(compute, part)
            if fits:
                yield part, result
                begin += len(part)
            else:
                most[what] = (len(part) + 1) // 2
                told = f"{what}: {len(part)} at once do not fit into memory, {most[what]} are tried from here on."
                print(told, file=sys.stderr, flush=True)


def cut(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class Wanted(NamedTuple):
    """An image to draw. image_id: (row_id, repetition)."""

    prompt: str
    seed: int
    image_id: tuple[str, int]


def draw(pipe: Pipe, batches: Iterable[list[Wanted]], sampler: Sampler) -> Iterator[tuple[list[Wanted], Images]]:
    """What a model draws; its counters count no try that did not fit into memory."""

    def drawn(some: list[Wanted]) -> Images:
        before = dict(pipe.counts)
        try:
            return pipe([one.prompt for one in some], [one.seed for one in some], sampler, [one.image_id for one in some])
        except RuntimeError:
            pipe.counts.update(before)
            raise

    return in_batches(batches, drawn, "images")


def joined(parts: list[Images]) -> Images:
    import torch

    return replace(parts[0], pixels=torch.cat([part.pixels for part in parts]), status=[told for part in parts for told in part.status])


def _tried(compute: Callable[[Any], Result], part: Any) -> tuple[bool, Any]:
    """(whether it fits into memory, the result)."""
    try:
        return True, compute(part)
    except RuntimeError as error:
        if len(part) == 1 or not _out_of_memory(error):
            raise
    import torch  # here the error, and with it every tensor of the try, is gone

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return False, None


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    words = ("not enough memory", "can't allocate memory")  # how torch says it of the processor's memory
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
