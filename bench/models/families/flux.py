"""Flux (Black Forest Labs 2024): T5 states and a pooled CLIP vector, blocks with two streams and then blocks with one.

FLUX.1-dev is distilled to run without an unconditional branch: it is told a guidance scale (`embedded_guidance`) instead. Guidance by an
unconditional branch, the encoded empty prompt, works on top of it ("true" guidance in diffusers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vestige.bench.models import tiny
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.families._joint import JointFamily, per_row

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

SINGLE = r"^single_transformer_blocks\.\d+\."


class Flux(JointFamily):
    name = "flux"
    tokenizers = ("tokenizer", "tokenizer_2")
    encoders = {"text_encoder": "clip", "text_encoder_2": "t5"}
    classes = {
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
    }
    # Single blocks: one set of weights for the tokens of both. Their last projection reads attention and MLP side by side.
    groups = JointFamily.groups | {
        "joint": SINGLE + r"(attn\.to_[qkv]|proj_mlp|proj_out)\.",
        "mlp_in": rf"{JointFamily.groups['mlp_in']}|{SINGLE}proj_mlp\.",
        "mlp_out": rf"{JointFamily.groups['mlp_out']}|{SINGLE}proj_out\.",
    }
    sites = JointFamily.sites | {"joint": SINGLE + r"proj_out$"}

    def text_length(self, segment: str, parts: dict[str, Any]) -> int | None:
        """FLUX.1-schnell, which is told no guidance scale, was trained with texts half as long."""
        if segment != "t5":
            return None
        return 512 if parts["transformer"].config.guidance_embeds else 256

    def condition(self, ids: list[Tensor], outputs: list[Any]) -> Conditioning:
        clip, t5 = outputs
        return Conditioning(t5.last_hidden_state, ids[1], clip.pooler_output, ids[1], (("t5", ids[1].shape[1]),))

    def predict(self, pipe: Pipe, denoiser: nn.Module, x: Tensor, level: Tensor | int, cond: Conditioning) -> Tensor:
        rows, h, w = x.shape[0], x.shape[2] // 2, x.shape[3] // 2
        guidance = torch.full((rows,), pipe.embedded_guidance, device=x.device) if pipe.denoiser.config.guidance_embeds else None
        answer = denoiser(
            packed(x),
            timestep=per_row(level, x).to(x.dtype) / 1000,
            guidance=guidance,
            pooled_projections=cond.pooled,
            encoder_hidden_states=cond.hidden,
            txt_ids=x.new_zeros(cond.hidden.shape[1], 3),
            img_ids=places(h, w).to(x),
        ).sample
        return answer.view(rows, h, w, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def asked_sigmas(self, scheduler: Any, steps: int) -> dict[str, Any]:
        return {} if scheduler.config.get("use_flow_sigmas") else {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def native_size(self, pipe: Pipe) -> tuple[int, int]:
        return (pipe.vae.config.sample_size // pipe.latent_factor,) * 2

    def tiny(self, seed: int = 0) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

        tokenizers = [tiny.clip_tokenizer(), tiny.t5_tokenizer()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = {"text_encoder": tiny.clip_text_model(32), "text_encoder_2": tiny.t5_text_model(48)}
            # As FLUX.1-dev: told a guidance scale, and a grid that follows the image size
            transformer = FluxTransformer2DModel(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=48,
                pooled_projection_dim=32,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6),
            )
            vae = tiny.autoencoder(4, scaling_factor=0.8, shift_factor=0.02, use_quant_conv=False, use_post_quant_conv=False)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        return {"transformer": transformer, "vae": vae, **encoders}, tokenizers, scheduler, {}


def packed(x: Tensor) -> Tensor:
    """Latents (batch, channels, h, w) to tokens of 2 x 2 cells, (batch, h/2 * w/2, 4 channels)."""
    rows, channels, h, w = x.shape
    return x.view(rows, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(rows, h * w // 4, channels * 4)


def places(h: int, w: int) -> Tensor:
    """(h * w, 3) row and column of each image token, behind a zero; text tokens have three zeros."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(h).float(), torch.arange(w).float())


FAMILY = Flux()
