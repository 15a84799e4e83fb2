"""Low-rank adapters beside the layers of a model: y = W x + up^T (down x), for as long as the `with` lasts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vestige.bench.models.pipe import Pipe

Gamma = Callable[[], Tensor | None]


@contextmanager
def adapters(
    pipe: Pipe, down: Mapping[str, Tensor], up: Mapping[str, Tensor], gamma: Gamma, composition: str, part: str | None = None
) -> Iterator[Pipe]:
    """Add the adapters' outputs to their layers. down: layer -> [concepts, in], up: layer -> [concepts, out]. gamma() is
    [batch, concepts], or None for 1 everywhere; composition: paper adds up gamma u v, official multiplies the sums of u and v.
    part: whose layers they are; None: the denoiser's."""

    def hook_of(name: str):
        def add(module, args, kwargs, y):
            x = args[0]
            channels_last = x.ndim == 3
            reading = torch.einsum("btc,nc->btn" if channels_last else "bchw,nc->bhwn", x, down[name])
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
        yield pipe
