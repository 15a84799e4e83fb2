"""In which arithmetic a model computes. It is part of a result, so the specification says it, not the machine.

reference  float32 without TF32 (or the model's dtype), deterministic kernels where torch has them. Judges always compute so.
fast       the denoiser's matrix products and convolutions in bfloat16, the rest in TF32, kernels chosen by speed, channels_last.

Weights and latents stay in the model's dtype also in `fast`: erasers edit and train exact weights, and a scheduler that adds up twenty
steps in bfloat16 would lose what they add. Attention is torch's scaled_dot_product_attention in both. Nothing is compiled: compiled code
does not ask whether a module got a hook since, so the next eraser's hooks could stay without effect, and nobody would be told.
Without bfloat16 instructions a processor needs twenty times as long for `fast` as for `reference`: it is meant for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vestige.bench.contract.types import ModelSpec


def use_reference() -> None:
    """For this process; `computing` goes beyond it where a model asks for it, and comes back."""
    _set(tf32=False, deterministic=True, benchmark=False)


@contextmanager
def computing(spec: ModelSpec, device: torch.device, half: bool = False) -> Iterator[None]:
    """Inside the `with` the arithmetic is the specification's. half: bfloat16 where it is `fast`, for the denoiser."""
    if spec.numerics == "reference":
        yield
        return
    cudnn = torch.backends.cudnn
    before = {"tf32": cudnn.allow_tf32, "deterministic": cudnn.deterministic, "benchmark": cudnn.benchmark}
    _set(tf32=True, deterministic=False, benchmark=True)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            yield
    finally:
        _set(**before)


def laid_out(denoiser: nn.Module, spec: ModelSpec) -> None:
    """The order of the weights in memory that fast convolutions read best; their values stay."""
    if spec.numerics == "fast":
        denoiser.to(memory_format=torch.channels_last)


def _set(tf32: bool, deterministic: bool, benchmark: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = benchmark
