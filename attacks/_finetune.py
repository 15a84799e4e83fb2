"""Fine-tuning a denoiser on captioned images, whole or by low-rank adapters (LoRA), as every trainer of the field does it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.attacks.training_images import TrainingImages
from vestige.bench.contract.plugin import Context
from vestige.bench.models.adapters import adapters
from vestige.bench.models.pipe import Pipe

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # the layers that diffusers' LoRA trainer adapts


def denoising_loss(
    pipe: Pipe, training_images: TrainingImages, batch: int, generator: torch.Generator, flip: float = 0.0, caption_dropout: float = 0.0
) -> Tensor:
    """||eps - eps_theta(x_t, t, c)||^2 with uniform t; some captions are dropped, as in the model's own training."""
    places = training_images.draw(batch, generator)
    x0 = training_images.latents(pipe, places, flip, generator)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    t = torch.randint(pipe.scheduler.config.num_train_timesteps, (batch,), generator=generator).to(pipe.device)
    dropped = torch.rand(batch, generator=generator) < caption_dropout
    captions = ["" if drop else training_images.caption(place) for place, drop in zip(places, dropped.tolist(), strict=True)]
    with torch.no_grad():
        cond = pipe.encode(captions)
    return F.mse_loss(pipe.predict(pipe.process.add_noise(x0, noise, t), t, cond).float(), pipe.process.target(x0, noise, t).float())


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


def new_lora(unet: nn.Module, rank: int, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """ "lora.<layer>.down" [rank, in], normal with deviation 1 / rank, and ".up" [rank, out], zero: fresh, it changes nothing."""
    lora = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and ".attn" in name and name.endswith(ATTENTION):
            down = torch.randn(rank, layer.in_features, generator=generator) / rank
            lora[f"lora.{name}.down"] = nn.Parameter(down.to(layer.weight))
            lora[f"lora.{name}.up"] = nn.Parameter(torch.zeros(rank, layer.out_features).to(layer.weight))
    return lora


@contextmanager
def with_lora(pipe: Pipe, lora: Mapping[str, Tensor]) -> Iterator[Pipe]:
    """y = W x + up^T (down x) in every adapted layer, also where a method's own hooks sit. Base weights stay as they are."""
    side = {end: {n[5 : -len(end)]: t.to(pipe.device, pipe.dtype) for n, t in lora.items() if n.endswith(end)} for end in (".down", ".up")}
    with adapters(pipe, side[".down"], side[".up"], lambda: None, "paper"):
        yield pipe
