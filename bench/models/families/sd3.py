"""Stable Diffusion 3 and 3.5 (Esser et al., ICML 2024): two CLIP encoders and T5, and a joint transformer on latents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.bench.models import tiny
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.families._joint import JointFamily, per_row
from vestige.bench.models.text import TextSide

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

T5_TOKENS = 256  # as the published pipeline


class SD3(JointFamily):
    name = "sd3"
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")
    encoders = {"text_encoder": "clip", "text_encoder_2": "clip_2", "text_encoder_3": "t5"}
    classes = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
    }
    optional = ("text_encoder_3", "tokenizer_3")  # published with T5 and often kept without it
    deep = True

    def text(self, parts: dict[str, Any], tokenizers: list) -> TextSide:
        side = super().text(parts, tokenizers)
        side.combine = partial(self.side_by_side, width=parts["transformer"].config.joint_attention_dim)
        return side

    def text_length(self, segment: str, parts: dict[str, Any]) -> int | None:
        return T5_TOKENS if segment == "t5" else None

    def side_by_side(self, ids: list[Tensor], outputs: list[Any], width: int) -> Conditioning:
        """Both CLIPs' last layer but one, side by side in one segment and padded with zeros to T5's width; then T5's states.

        A model that was loaded without T5 reads zeros in their place, which belong to no segment.
        """
        clips, t5 = outputs[:2], outputs[2:]
        clip = torch.cat([output.hidden_states[-2] for output in clips], dim=-1)
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        behind = t5[0].last_hidden_state.to(clip) if t5 else clip.new_zeros(len(clip), T5_TOKENS, width)
        read = torch.cat([ids[0], ids[2] if t5 else ids[0].new_zeros(behind.shape[:2])], dim=1)
        layout = (("clip", clip.shape[1]), *([("t5", behind.shape[1])] if t5 else []))
        pooled = torch.cat([output.text_embeds for output in clips], dim=-1)
        return Conditioning(torch.cat([clip, behind], dim=1), read, pooled, read, layout)

    def predict(self, pipe: Pipe, denoiser: nn.Module, x: Tensor, level: Tensor | int, cond: Conditioning) -> Tensor:
        told = {"encoder_hidden_states": cond.hidden, "pooled_projections": cond.pooled}
        return denoiser(x, timestep=per_row(level, x), **told).sample

    def tiny(self, seed: int = 0) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

        t5_tokenizer = tiny.t5_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = {
                "text_encoder": tiny.clip_text_model(32, projected=True),
                "text_encoder_2": tiny.clip_text_model(32, projected=True),
                "text_encoder_3": tiny.t5_text_model(80),
            }
            # As 3.5-medium: the first blocks have a second attention, queries and keys are normed
            transformer = SD3Transformer2DModel(
                sample_size=8,
                in_channels=8,
                out_channels=8,
                num_layers=3,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=80,
                caption_projection_dim=32,
                pooled_projection_dim=64,
                pos_embed_max_size=16,
                dual_attention_layers=(0, 1),
                qk_norm="rms_norm",
            )
            vae = tiny.autoencoder(8, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
        tokenizers = [tiny.clip_tokenizer(), tiny.clip_tokenizer("!"), t5_tokenizer]
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return {"transformer": transformer, "vae": vae, **encoders}, tokenizers, scheduler, {}


FAMILY = SD3()
