"""What one row of one call of the generator costs, counted without computing it: for plans, before a card is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from vestige.bench.models.origin import with_tensors

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


@dataclass(frozen=True)
class RowCost:
    """flops: multiplications and additions of the matrix products, convolutions and attentions of one row, as torch counts them.
    weight_bytes: of the generator, read once per call whatever the batch."""

    flops: int
    weight_bytes: int


def row_cost(pipe: Pipe, height: int, width: int) -> RowCost:
    """Of an image of this size in pixels. A row of a token model is all tokens of an image."""
    with torch.no_grad():
        cond = pipe.encode([""]).to("meta")
        blank = with_tensors(pipe, lambda _, p: torch.empty_like(p, device="meta"))
        x, level = pipe.family.question(pipe, height, width)
        with FlopCounterMode(display=False) as counter:
            blank.predict(x.to("meta"), level, cond)
    return RowCost(counter.get_total_flops(), sum(p.numel() * p.element_size() for p in pipe.denoiser.parameters()))
