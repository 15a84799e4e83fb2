"""What Stable Diffusion 3 and Flux share: a transformer in which text and image attend to each other, and a rectified flow.

Text and image are two streams of tokens with weights of their own (Esser et al. 2024, section 4). In `attn` of a block, `to_*` project
image tokens and `add_*` text tokens. The parts of Stable Diffusion 3.5 that are called `attn2` read the image alone.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.types import Sampler
from vestige.bench.models.families.base import Family
from vestige.bench.models.process import RectifiedFlow

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

BLOCK = r"^transformer_blocks\.\d+\."


class JointFamily(Family):
    denoiser: ClassVar[str] = "transformer"
    cell: ClassVar[int] = 16  # patches of 2 x 2 latent cells
    patch: ClassVar[int] = 2  # latent cells per image token, per side
    groups: ClassVar[dict[str, str]] = {
        "text_kv": BLOCK + r"attn\.add_[kv]_proj\.",
        "text_attention": BLOCK + r"attn\.(add_[qkv]_proj|to_add_out|norm_added_[qk])\.",
        "image_self": BLOCK + r"(attn\.(to_[qkv]|to_out\.0|norm_[qk])|attn2\.\w+(\.0)?)\.",
        "image_kv": BLOCK + r"attn2?\.to_[kv]\.",
        "attention": r"\.attn2?\.(to_|add_)",
        "mlp": BLOCK + r"ff(_context)?\.net\.",
        "mlp_in": BLOCK + r"ff(_context)?\.net\.0\.proj\.",
        "mlp_out": BLOCK + r"ff(_context)?\.net\.2\.",
        # What reads tokens: all of the blocks but their norms, and what makes scales of the time
        "transformer": r"^(single_)?transformer_blocks\.\d+\.(attn2?\.(to|add)_|ff|proj_)",
        # Where text enters: token by token, and pooled beside the time
        "text_input": r"^(context_embedder|time_text_embed\.text_embedder\.linear_1)\.",
        # Time and pooled text of the whole model, the last norm and projection
        "ends": r"^(time_text_embed|norm_out|proj_out)\.",
        "all": "",
    }
    sites: ClassVar[dict[str, str]] = {
        "text_attention": BLOCK + r"attn\.to_add_out$",
        "image_attention": BLOCK + r"attn\.to_out\.0$",
    }

    def process(self, scheduler: Any) -> RectifiedFlow:
        return RectifiedFlow.of(scheduler)

    def set_timesteps(self, scheduler: Any, pipe: Pipe, sampler: Sampler) -> None:
        asked = self.asked_sigmas(scheduler, sampler.steps)
        if scheduler.config.get("use_dynamic_shifting"):
            asked["mu"] = shift_of(self.image_tokens(pipe, sampler), scheduler.config)
        unknown = [name for name in asked if name not in inspect.signature(scheduler.set_timesteps).parameters]
        of_flows = type(scheduler).__name__.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas")
        if unknown or not of_flows:
            why = f"takes no {' and no '.join(unknown)}" if of_flows else "samples no rectified flow"
            raise ValueError(
                f"model.sampler.scheduler={sampler.scheduler} {why}, so it cannot draw with models of family {self.name}. "
                "Use FlowMatchEulerDiscreteScheduler."
            )
        scheduler.set_timesteps(sampler.steps, device=pipe.device, **asked)

    def asked_sigmas(self, scheduler: Any, steps: int) -> dict[str, Any]:
        """The grid that the pipeline gives to its scheduler, before a shift; empty: the scheduler's own."""
        return {}

    def image_tokens(self, pipe: Pipe, sampler: Sampler) -> int:
        cell = pipe.latent_factor * self.patch
        return (sampler.height // cell) * (sampler.width // cell)


def shift_of(tokens: int, config: Any) -> float:
    """mu of a grid that follows the image size: linear in the number of image tokens."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return tokens * slope + low - slope * few


def per_row(level: Tensor | int, x: Tensor) -> Tensor:
    """(batch,) the level of each row of x."""
    return torch.as_tensor(level, device=x.device).expand(x.shape[0])
