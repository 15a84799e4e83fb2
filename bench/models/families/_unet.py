"""What Stable Diffusion 1, 2 and XL share: a UNet that reads text states by cross-attention, and a variance-preserving process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vestige.bench.models.families.base import Family
from vestige.bench.models.tiny import SCHEDULE, autoencoder, clip_text_model, clip_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vestige.bench.models.conditioning import Conditioning
    from vestige.bench.models.pipe import Pipe
    from vestige.bench.models.process import VariancePreserving


class UNetFamily(Family):
    denoiser: ClassVar[str] = "unet"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    encoders: ClassVar[dict[str, str]] = {"text_encoder": "clip"}
    classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
    }
    # cross_*: they read the text states themselves, so an edit of the states is an edit of these weights.
    groups: ClassVar[dict[str, str]] = {
        "cross_kv": r"attn2\.to_[kv]\.",
        "cross_k": r"attn2\.to_k\.",
        "cross_v": r"attn2\.to_v\.",
        "cross_q": r"attn2\.to_q\.",
        "text_kv": r"attn2\.to_[kv]\.",
        "text_attention": r"attn2\.",
        "image_self": r"attn1\.",
        "image_kv": r"attn1\.to_[kv]\.",
        "attention": r"attn[12]\.to_",
        "mlp": r"\.ff\.net\.",
        "mlp_in": r"\.ff\.net\.0\.proj\.",
        "mlp_out": r"\.ff\.net\.2\.",
        "transformer": r"\.attentions\.\d+\.",  # the transformer blocks, with the projections into and out of them
        # The time MLP of the whole model (and SDXL's addition to it), the last norm and convolution
        "ends": r"^(time_embedding|add_embedding|conv_norm_out|conv_out)\.",
        "esd_release": r"^(?!.*attn2)",  # layers that the later code of ESD trains, beside cross-attention
        "all": "",
    }
    normed: ClassVar[bool] = True
    sites: ClassVar[dict[str, str]] = {"cross_attention": r"attn2\.to_out\.0$", "mid": r"^mid_block$", "up": r"^up_blocks\.\d+$"}
    diffusion: ClassVar[bool] = True

    def condition(self, ids: list[Tensor], outputs: list[Any]) -> Conditioning:
        from vestige.bench.models.conditioning import Conditioning

        return Conditioning(outputs[0].last_hidden_state, ids[0], None, ids[0], (("clip", ids[0].shape[1]),))

    def predict(self, pipe: Pipe, denoiser: nn.Module, x: Tensor, level: Tensor | int, cond: Conditioning) -> Tensor:
        return denoiser(x, level, encoder_hidden_states=cond.hidden, **self.added(pipe, x, cond)).sample

    def added(self, pipe: Pipe, x: Tensor, cond: Conditioning) -> dict[str, Any]:
        """Further arguments of the UNet."""
        return {}

    def process(self, scheduler: Any) -> VariancePreserving:
        from vestige.bench.models.process import VariancePreserving

        return VariancePreserving.of(scheduler)

    # A random model

    tiny_unet: ClassVar[dict[str, Any]] = {}  # what differs from the common one
    tiny_schedule: ClassVar[dict[str, Any]] = {}

    def tiny_encoders(self) -> dict[str, Any]:
        return {"text_encoder": clip_text_model(32)}

    def tiny_tokenizers(self) -> list:
        return [clip_tokenizer()]

    def tiny(self, seed: int = 0) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        import torch
        from diffusers import DDIMScheduler, UNet2DConditionModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = self.tiny_encoders()
            shape = {
                "sample_size": 8,
                "in_channels": 4,
                "out_channels": 4,
                "block_out_channels": (32, 64),
                "layers_per_block": 1,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "cross_attention_dim": 32 * len(encoders),
                "attention_head_dim": 4,
                "norm_num_groups": 8,
            }
            unet = UNet2DConditionModel(**(shape | self.tiny_unet))
            vae = autoencoder(4)
        settings = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
        scheduler = DDIMScheduler(**(SCHEDULE | settings | self.tiny_schedule))
        return {"unet": unet, "vae": vae, **encoders}, self.tiny_tokenizers(), scheduler, {}
