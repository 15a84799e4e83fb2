"""Stable Diffusion XL (Podell et al., ICLR 2024): two text encoders side by side in width, a pooled vector, and sizes as an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vestige.bench.models.families._unet import UNetFamily
from vestige.bench.models.tiny import clip_text_model, clip_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from vestige.bench.models.conditioning import Conditioning
    from vestige.bench.models.pipe import Pipe


class SDXL(UNetFamily):
    name = "sdxl"
    text_width = 2048
    tokenizers = ("tokenizer", "tokenizer_2")
    encoders = {"text_encoder": "clip", "text_encoder_2": "clip_2"}
    classes = {**UNetFamily.classes, "text_encoder_2": ("CLIPTextModelWithProjection",)}
    groups = {**UNetFamily.groups, "esd_release": r"^(?!.*(attn2|emb)).*block"}
    deep = True
    normed = False  # the last layer but one
    tiny_unet = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}

    def condition(self, ids: list[Tensor], outputs: list[Any]) -> Conditioning:
        """Both encoders' last layer but one, side by side: one segment, called after the first."""
        import torch

        from vestige.bench.models.conditioning import Conditioning

        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return Conditioning(hidden, ids[0], outputs[1].text_embeds, ids[0], (("clip", ids[0].shape[1]),))

    def null(self, pipe: Pipe, n: int) -> Conditioning:
        """Zeros, unless the pipeline's settings ask for the encoded empty prompt."""
        from vestige.bench.models.conditioning import NULL

        empty = pipe.encode([""] * n).as_branch(NULL)
        return empty.zeroed() if pipe.settings.get("force_zeros_for_empty_prompt", True) else empty

    def added(self, pipe: Pipe, x: Tensor, cond: Conditioning) -> dict[str, Any]:
        import torch

        assert cond.pooled is not None, "SDXL reads a pooled vector"
        side = x.shape[-2] * pipe.latent_factor, x.shape[-1] * pipe.latent_factor
        time_ids = torch.tensor([[*side, 0, 0, *side]] * x.shape[0], device=x.device, dtype=cond.pooled.dtype)
        return {"added_cond_kwargs": {"text_embeds": cond.pooled, "time_ids": time_ids}}

    def tiny_encoders(self) -> dict[str, Any]:
        return {"text_encoder": clip_text_model(32), "text_encoder_2": clip_text_model(32, projected=True)}

    def tiny_tokenizers(self) -> list:
        # As published: the second tokenizer pads with "!"
        return [clip_tokenizer(), clip_tokenizer("!")]


FAMILY = SDXL()
