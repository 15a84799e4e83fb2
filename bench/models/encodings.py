"""Encoded prompts, kept for the life of the process: methods and sweeps ask for the same texts again and again.

What encoded them is known by the present content of its weights, never by who says that it wrote them: an eraser may write
through `.data`, past every counter of torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from vestige.bench.models.conditioning import TENSORS, Conditioning

LIMIT = 512 * 2**20  # bytes


class Encodings:
    """Least recently used batches go first. A batch is kept whole: a row's last bits depend on its batch mates."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.kept: OrderedDict[Hashable, Conditioning] = OrderedDict()
        self.hits = 0

    def get(self, key: Hashable, make: Callable[[], Conditioning]) -> Conditioning:
        """A copy of what `make` returned for this key."""
        if key in self.kept:
            self.hits += 1
            self.kept.move_to_end(key)
        else:
            self.kept[key] = make()
            while len(self.kept) > 1 and sum(map(size, self.kept.values())) > self.limit:
                self.kept.popitem(last=False)
        return self.kept[key].clone()


CHUNK = 1024  # int64 numbers


@torch.no_grad()
def content(module: nn.Module) -> Hashable:
    """What a module's weights and buffers are now, and of which classes its parts are.

    Of each tensor the exact sums of its rows and of its columns (as integers, wrapping around, in rows of 8 KB): any single change
    shows, and so do rows that change places. 0.07 s on one core for the text encoder of Stable Diffusion 1, which takes 0.2 s a prompt.
    """
    parts = [(name, type(part)) for name, part in module.named_modules(remove_duplicate=False)]
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return hash((tuple(parts), tuple((name, str(t.dtype), tuple(t.shape), sums(t)) for name, t in tensors)))


def sums(tensor: Tensor) -> bytes:
    """Of the rows and of the columns of a tensor's bytes, 8 KB a row; of what is left over the bytes themselves."""
    flat = tensor.detach().contiguous().view(-1)
    flat = flat.view(torch.uint8) if flat.dtype != torch.bool else flat.to(torch.uint8)
    whole = flat.numel() // (8 * CHUNK) * 8 * CHUNK
    rest = flat[whole:].cpu().numpy().tobytes()
    if not whole:
        return rest
    rows = flat[:whole].view(torch.int64).view(-1, CHUNK)
    return torch.cat([rows.sum(0), rows.sum(1)]).cpu().numpy().tobytes() + rest


def size(cond: Conditioning) -> int:
    tensors = (getattr(cond, name) for name in TENSORS)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


KEPT = Encodings()
