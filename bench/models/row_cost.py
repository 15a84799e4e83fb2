"""What one row of one call of the generator costs, counted without computing it (denoisers): for plans, before a card is chosen."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
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
    weightless = "levels" in pipe.family.offers  # a language model reads its mask, which has to hold numbers
    with torch.no_grad():
        cond, (x, level) = pipe.encode([""]), pipe.family.question(pipe, height, width)
        counted = with_tensors(pipe, lambda _, p: torch.empty_like(p, device="meta")) if weightless else copy.copy(pipe)
        counted.counts = dict(pipe.counts)
        if weightless:
            counted.denoiser.to("meta")  # its buffers too
            cond, x = cond.to("meta"), x.to("meta")
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention of a CPU is not counted
            counted.predict(x, level, cond)
    return RowCost(counter.get_total_flops(), sum(p.numel() * p.element_size() for p in pipe.denoiser.parameters()))
