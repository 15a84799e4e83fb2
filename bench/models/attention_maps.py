"""What the cross-attention layers look at: their maps, recorded with gradients while a denoiser runs, and sums over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.models.pipe import Pipe


@contextmanager
def recorded(pipe: Pipe) -> Iterator[dict[str, Tensor]]:
    """A dictionary that every denoiser call fills: layer -> attention [batch, heads, pixels, tokens], after the softmax.

    Computed anew from the layers' queries and keys, so the attention itself may run in any fused form.
    """
    keys = {name.rpartition(".")[0]: name for name in pipe.layers("cross_k")}
    asking = {name.rpartition(".")[0]: name for name in pipe.layers("cross_q")}
    layers: dict[str, Any] = {name: pipe.denoiser.get_submodule(name) for name in keys}
    queries, maps = {}, {}

    def query_of(name: str):
        def keep(module, args, kwargs, output):
            queries[name] = output

        return keep

    def key_of(name: str):
        def attend(module, args, kwargs, output):
            attn = layers[name]
            q, k = (attn.head_to_batch_dim(each) for each in (queries.pop(name), output))
            maps[name] = attn.get_attention_scores(q, k).unflatten(0, (len(output), -1))

        return attend

    prefix = pipe.denoiser_name
    hooks = {f"{prefix}.{asking[name]}": query_of(name) for name in layers} | {f"{prefix}.{keys[name]}": key_of(name) for name in layers}
    with pipe.hooked(hooks):
        yield maps


def on_map(mask: Tensor, pixels: int) -> Tensor:
    """A mask, bool [batch, h, w], at the resolution of an attention map: bool [batch, pixels], nearest pixel."""
    h, w = mask.shape[-2:]
    rows = round((pixels * h / w) ** 0.5)
    return F.interpolate(mask[:, None].float(), (rows, pixels // rows), mode="nearest").flatten(1) > 0.5


def attention_loss(maps: dict[str, Tensor], mask: Tensor, tokens: Tensor, squared: bool) -> Tensor:
    """Mean over the batch of the sum over layers of |A[heads, mask pixels, tokens]|, the Frobenius norm or its square.

    mask bool [batch, h, w]; tokens bool [batch, length].
    """
    total: Tensor | int = 0
    for attention in maps.values():
        chosen = attention * on_map(mask, attention.shape[2])[:, None, :, None] * tokens[:, None, None, :]
        size = chosen.square().sum((1, 2, 3)) if squared else torch.linalg.vector_norm(chosen, dim=(1, 2, 3))
        total = total + size.mean()
    return torch.as_tensor(total)


def positions(ids: Tensor, words: list[int], behind: int | None) -> Tensor:
    """bool [length]: where the token ids `words` stand in `ids` in a row, and all that follows position `behind` unless None."""
    text, n = ids.tolist(), len(words)
    places = torch.zeros(len(text), dtype=torch.bool)
    for k in range(len(text) - n + 1):
        if text[k : k + n] == words:
            places[k : k + n] = True
    if behind is not None:
        places[behind + 1 :] = True
    return places
