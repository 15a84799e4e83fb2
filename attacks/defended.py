"""One prediction as the erased model would make it while sampling, differentiable, at any timestep."""

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Victim
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import GuidanceRule, Step


def defended(
    pipe: Pipe, x: Tensor, t: Tensor, cond: Conditioning, null: Conditioning, scale: float, steps: int, rule: GuidanceRule
) -> Tensor:
    """The guidance rule's output at scalar t; its step index is where t stands in a sampling run of `steps` steps."""
    length = pipe.scheduler.config.num_train_timesteps
    index = min(steps - 1, (length - 1 - int(t)) * steps // length)
    return rule(Step(pipe, x, t, index, steps, cond, null, scale))


def seen(victim: Victim, x: Tensor, t: Tensor, cond: Conditioning, adaptive: bool) -> Tensor:
    """What a white-box attack differentiates, at scalar t: the denoiser with all its hooks.

    adaptive: of methods that change the sampling the defended guidance.
    """
    pipe, sampler = victim.pipe, victim.sampler
    if not (adaptive and victim.method.intervention == "sampling"):
        return pipe.predict(x, t, cond)
    with torch.no_grad():
        null = pipe.null(len(x))
    return defended(pipe, x, t, cond, null, sampler.guidance, sampler.steps, pipe.guidance())
