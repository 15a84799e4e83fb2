"""Published architectures without any weights: what counts of layers and parameters are compared with."""

import torch
from conftest import tiny_spec

from vestige.bench.models.pipe import Pipe


def stable_diffusion_1() -> Pipe:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return Pipe(tiny_spec(), {"unet": unet}, [], None)


def stable_diffusion_xl() -> Pipe:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            cross_attention_dim=2048,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return Pipe(tiny_spec("sdxl"), {"unet": unet}, [], None)
