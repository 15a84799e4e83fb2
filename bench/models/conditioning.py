"""What the generator is told: text states in segments, one for each text encoder whose states it reads side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

COND, NULL, OTHER = 0, 1, 2  # branches of guidance: the prompt, no prompt, a further one (of a guidance rule)


@dataclass(frozen=True)
class Segment:
    """The part of a conditioning that one text encoder made: ids (batch, tokens), rows (batch, tokens, width), mask (batch, tokens)."""

    encoder: str
    ids: Tensor
    rows: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Conditioning:
    """All tensors share the batch dimension.

    hidden (batch, tokens, width): the segments one after the other; ids (batch, tokens): their token ids; pooled (batch, width) where
    the generator reads one; owner (batch, tokens): ids of the prompt that this row serves. Only the unconditional rows of a guided
    batch have an owner other than their own ids, and prompt-dependent adapters read it. layout: (encoder, tokens) of each segment;
    mask (batch, tokens), False at padding, where the generator is told of padding; branch (batch,): COND, NULL or OTHER, None: all COND.
    """

    hidden: Tensor
    ids: Tensor
    pooled: Tensor | None
    owner: Tensor
    layout: tuple[tuple[str, int], ...] = ()
    mask: Tensor | None = None
    branch: Tensor | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    @property
    def branches(self) -> Tensor:
        """(batch,) COND, NULL or OTHER."""
        return torch.zeros(len(self), dtype=torch.long, device=self.ids.device) if self.branch is None else self.branch

    def segment(self, encoder: str) -> Segment:
        here = self._place(encoder)
        return Segment(encoder, self.ids[:, here], self.hidden[:, here], None if self.mask is None else self.mask[:, here])

    def with_rows(self, encoder: str, rows: Tensor) -> Conditioning:
        """The same with other states in one segment."""
        here = self._place(encoder)
        return replace(self, hidden=torch.cat([self.hidden[:, : here.start], rows, self.hidden[:, here.stop :]], 1))

    def _place(self, encoder: str) -> slice:
        begin = 0
        for name, tokens in self.layout:
            if name == encoder:
                return slice(begin, begin + tokens)
            begin += tokens
        raise ValueError(f"the generator reads no segment {encoder!r}; it reads: {', '.join(name for name, _ in self.layout)}.")

    def rows(self, index: slice | Tensor | list[int]) -> Conditioning:
        return self._each(lambda tensor: tensor[index])

    def repeat(self, n: int) -> Conditioning:
        """Each row n times, neighbours together: rows a, b become a, a, b, b."""
        return self.rows(torch.arange(len(self), device=self.ids.device).repeat_interleave(n))

    def as_branch(self, branch: int) -> Conditioning:
        return replace(self, branch=torch.full((len(self),), branch, dtype=torch.long, device=self.ids.device))

    def serving(self, asked: Conditioning) -> Conditioning:
        """These rows as the unconditional ones of `asked`."""
        return replace(self.as_branch(NULL), owner=asked.owner)

    def with_null(self, null: Conditioning) -> Conditioning:
        """The doubled batch [null; self] of classifier-free guidance."""
        return Conditioning.cat([null.serving(self), self])

    def zeroed(self) -> Conditioning:
        """The same with zeros for states."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, hidden=torch.zeros_like(self.hidden), pooled=pooled)

    def detach(self) -> Conditioning:
        return self._each(lambda tensor: tensor.detach())

    def to(self, device: str | torch.device) -> Conditioning:
        return self._each(lambda tensor: tensor.to(device))

    def clone(self) -> Conditioning:
        return self._each(lambda tensor: tensor.clone())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        changed: dict[str, Any] = {name: change(tensor) for name in TENSORS if (tensor := getattr(self, name)) is not None}
        return replace(self, **changed)

    @staticmethod
    def cat(parts: list[Conditioning]) -> Conditioning:
        joined: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("hidden", "ids", "owner")}
        for name in ("pooled", "mask"):
            held = [getattr(p, name) for p in parts if getattr(p, name) is not None]
            joined[name] = torch.cat(held) if held else None
        told = any(p.branch is not None for p in parts)
        return replace(parts[0], **joined, branch=torch.cat([p.branches for p in parts]) if told else None)


TENSORS = ("hidden", "ids", "pooled", "owner", "mask", "branch")
