"""Fine-tuning a model on captioned images, whole or by low-rank adapters (LoRA), as every trainer of the field does it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from vestige.attacks.training_images import TrainingImages
from vestige.bench.contract.plugin import Context
from vestige.bench.models.adapters import adapters
from vestige.bench.models.pipe import Pipe


def training_loss(
    pipe: Pipe, training_images: TrainingImages, batch: int, generator: torch.Generator, flip: float = 0.0, caption_dropout: float = 0.0
) -> Tensor:
    """The model's own training loss on a batch of captioned images; some captions are dropped, as in its training."""
    places = training_images.draw(batch, generator)
    x0 = training_images.latents(pipe, places, flip, generator)
    at = pipe.corruption(x0, generator)
    dropped = torch.rand(batch, generator=generator) < caption_dropout
    captions = ["" if drop else training_images.caption(place) for place, drop in zip(places, dropped.tolist(), strict=True)]
    return pipe.loss(x0, pipe.encode(captions), at).mean()


def fine_tune(
    parameters: list[nn.Parameter],
    loss: Callable[[], Tensor],
    generator: torch.Generator,
    ctx: Context,
    *,
    steps: int,
    accumulation: int,
    lr: float,
    weight_decay: float,
    cosine: bool = False,
    max_norm: float | None = None,
) -> None:
    """AdamW at a constant rate, or one that falls to zero along a cosine; logs the mean loss of every step.

    `loss` draws from `generator`, whose state is kept with that of the optimiser.
    """
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if cosine and steps else None
    state = {"parameters": parameters, "optimiser": optimiser, "generator": generator} | ({"rate": rate} if rate else {})
    for step in ctx.resumable("fine tuning", range(steps), **state):
        total = 0.0
        for _ in range(accumulation):
            part = loss() / accumulation
            part.backward()
            total += part.item()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimiser.step()
        optimiser.zero_grad()
        if rate:
            rate.step()
        ctx.log(step, loss=total)


def new_lora(pipe: Pipe, parts: Sequence[str], rank: int, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """ "lora.<layer>.down" [rank, in], normal with deviation 1 / rank, and ".up" [rank, out], zero: fresh, it changes nothing.

    Of the denoiser the attention layers are adapted, as by diffusers' trainer; of other parts all linear layers, "lora@<part>.<layer>".
    """
    lora = {}
    for part in parts:
        own = part == pipe.denoiser_name
        linear = {name: layer for name, layer in pipe.parts[part].named_modules() if isinstance(layer, nn.Linear)}
        for name, layer in (pipe.layers("attention") if own else linear).items():
            weight, side = layer.get_parameter("weight"), f"lora.{name}" if own else f"lora@{part}.{name}"
            down = torch.randn(rank, weight.shape[1], generator=generator) / rank
            lora[f"{side}.down"] = nn.Parameter(down.to(weight))
            lora[f"{side}.up"] = nn.Parameter(torch.zeros(rank, weight.shape[0]).to(weight))
    return lora


@contextmanager
def with_lora(pipe: Pipe, lora: Mapping[str, Tensor]) -> Iterator[Pipe]:
    """y = W x + up^T (down x) in every adapted layer, also where a method's own hooks sit. Base weights stay as they are."""
    parts: dict[str, dict[str, dict[str, Tensor]]] = {}  # part -> down or up -> layer -> matrix
    for name, matrix in lora.items():
        head, _, rest = name.partition(".")
        layer, _, side = rest.rpartition(".")
        part = head.partition("@")[2] or pipe.denoiser_name
        parts.setdefault(part, {"down": {}, "up": {}})[side][layer] = matrix.to(pipe.device, pipe.dtype)
    with ExitStack() as stack:
        for part, sides in parts.items():
            stack.enter_context(adapters(pipe, sides["down"], sides["up"], lambda: None, "paper", part))
        yield pipe
