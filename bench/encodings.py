"""Encoded prompts, kept for the life of the process: methods and sweeps ask for the same texts again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

LIMIT = 512 * 2**20  # bytes


class Encodings:
    """Least recently used batches go first. A batch is kept whole: a row's last bits depend on its batch mates."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.kept: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()
        self.hits = 0

    def get(self, key: Hashable, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """A copy of what `make` returned for this key."""
        if key in self.kept:
            self.hits += 1
            self.kept.move_to_end(key)
        else:
            self.kept[key] = make()
            while len(self.kept) > 1 and sum(map(size, self.kept.values())) > self.limit:
                self.kept.popitem(last=False)
        return tuple(tensor.clone() for tensor in self.kept[key])


def size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


KEPT = Encodings()
