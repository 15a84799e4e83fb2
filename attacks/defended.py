"""What a white-box attack differentiates: the erased model as it predicts while sampling, at any noise level."""

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Method, Victim
from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.capabilities import offers
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import GuidanceRule, Step


def defended(
    pipe: Pipe, x: Tensor, level: Tensor, cond: Conditioning, null: Conditioning, scale: float, steps: int, rule: GuidanceRule
) -> Tensor:
    """The guidance rule's output at a scalar level; its step index is where the level stands in a sampling run of `steps` steps."""
    length = pipe.process.length
    index = max(0, min(steps - 1, (length - 1 - int(level)) * steps // length))
    with pipe.at_step(index, steps):
        return rule(Step(pipe, x, level, index, steps, cond, null, scale))


def seen(victim: Victim, x: Tensor, level: Tensor, cond: Conditioning, adaptive: bool) -> Tensor:
    """A prediction at a scalar level, by the denoiser with all its hooks.

    adaptive: of methods that change the sampling the defended guidance.
    """
    pipe, sampler = victim.pipe, victim.sampler
    if not (adaptive and victim.method.intervention == "sampling"):
        return pipe.predict(x, level, cond)
    with torch.no_grad():
        null = pipe.null(len(x))
    return defended(pipe, x, level, cond, null, sampler.guidance, sampler.steps, pipe.guidance())


def seen_error(victim: Victim, x0: Tensor, noise: Tensor, level: Tensor, cond: Conditioning, adaptive: bool) -> Tensor:
    """(batch,) mean squared error of that prediction on latents noised to a scalar level."""
    process, levels = victim.pipe.process, level.expand(len(x0))
    out = seen(victim, process.add_noise(x0, noise, levels), level, cond, adaptive)
    return (out.float() - process.target(x0, noise, levels).float()).square().flatten(1).mean(1)


def unsupported_defence(model: ModelSpec, method: Method) -> str | None:
    """Why the changed sampling of this method cannot be attacked by gradients, or None."""
    if method.intervention != "sampling" or "levels" in offers(model.family):
        return None
    return (
        f"not applicable: {type(method).__name__} changes the sampling, and its guidance is differentiated at a noise level, "
        f"which models of family {model.family} do not have (model {model.name!r})."
    )
