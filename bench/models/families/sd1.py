"""Stable Diffusion 1.x (Rombach et al., CVPR 2022): a UNet that predicts the noise, and one CLIP text encoder of width 768."""

from vestige.bench.models.families._unet import UNetFamily


class SD1(UNetFamily):
    name = "sd1"
    text_width = 768


FAMILY = SD1()
