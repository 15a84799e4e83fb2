"""One prediction as the erased model would make it while sampling, differentiable, at any timestep."""

from torch import Tensor

from bench.pipe import GuidanceRule, Pipe, Step
from bench.text import Conditioning


def defended(
    pipe: Pipe, x: Tensor, t: Tensor, cond: Conditioning, null: Conditioning, scale: float, steps: int, rule: GuidanceRule
) -> Tensor:
    """The guidance rule's output at scalar t; its step index is where t stands in a sampling run of `steps` steps."""
    length = pipe.scheduler.config.num_train_timesteps
    index = min(steps - 1, (length - 1 - int(t)) * steps // length)
    return rule(Step(pipe, x, t, index, steps, cond, null, scale))
