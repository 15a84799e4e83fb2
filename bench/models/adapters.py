"""Adapters beside the layers of a model: y = W x + up^T (down x), for as long as the `with` lasts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from vestige.bench.models.pipe import Pipe

Gamma = Callable[[], Tensor | None]


@contextmanager
def adapters(
    pipe: Pipe, down: Mapping[str, Tensor], up: Mapping[str, Tensor], gamma: Gamma, composition: str, part: str | None = None
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Add the adapters' outputs to their layers. down: layer -> [concepts, in], up: layer -> [concepts, out]. gamma() is
    [batch, concepts], or None for 1 everywhere; composition: paper adds up gamma u v, official multiplies the sums of u and v.
    part: whose layers they are; None: the denoiser's.

    Yields off: inside `with off():` these adapters, and no others, are out of force. That is the teacher of an adapter in training,
    and in a later step of a sequence the earlier steps are part of it.
    """
    on = True

    @contextmanager
    def off() -> Iterator[None]:
        nonlocal on
        before, on = on, False
        try:
            yield
        finally:
            on = before

    def hook_of(name: str):
        def add(module, args, kwargs, y):
            if not on:
                return None
            x = args[0]
            channels_last = isinstance(module, nn.Linear)
            reading = torch.einsum("...c,nc->...n" if channels_last else "bchw,nc->bhwn", x, down[name])
            g = gamma()
            if g is not None:
                g = g.view(g.shape[0], *[1] * (reading.ndim - 2), g.shape[1]).to(reading)
            if composition == "paper" or g is None:
                change = (reading if g is None else reading * g) @ up[name]
            else:
                change = (reading * g).sum(-1, keepdim=True) * (g @ up[name])
            return y + (change if channels_last else change.movedim(-1, 1))

        return add

    with pipe.hooked({f"{part or pipe.denoiser_name}.{name}": hook_of(name) for name in down}):
        yield off
