"""Stable Diffusion 2.x: OpenCLIP's text encoder of width 1024, padding that is not the end token, and, at 768 pixels, a UNet that
predicts the velocity."""

from vestige.bench.models.families._unet import UNetFamily
from vestige.bench.models.tiny import clip_tokenizer


class SD2(UNetFamily):
    name = "sd2"
    text_width = 1024
    tiny_unet = {"attention_head_dim": (4, 8), "use_linear_projection": True}
    tiny_schedule = {"prediction_type": "v_prediction"}

    def tiny_tokenizers(self) -> list:
        return [clip_tokenizer("!")]


FAMILY = SD2()
