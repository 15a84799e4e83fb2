"""Trains the parts of the emoji model: text encoder (contrastively, then frozen), VAE, and the denoising UNet.

The parts have the classes and the layout of Stable Diffusion 1.x; only their sizes are smaller.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.bench.models.parts import Part
from vestige.bench.world.content import paths
from vestige.bench.world.training import dataset
from vestige.bench.world.training.fit import Schedule, fit
from vestige.bench.world.training.muon import PRECISION

LATENT_CHANNELS = 8
TEXT_WIDTH = 128
TEXT = Schedule("text", steps=1200, lr=1e-3, ema=0.99)
VAE = Schedule("vae", steps=2400, lr=2e-3, ema=0.995, matrix_lr=0.02)
VAE_BATCH = 16
UNET = Schedule("unet", steps=3200, lr=1.2e-3, ema=0.998, matrix_lr=0.02)
UNET_BATCH = 64
NULL_SHARE = 0.1  # captions dropped for classifier-free guidance
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def new_text_encoder(tokenizer) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(10)
    return CLIPTextModel(config)


def new_vae() -> Part:
    from diffusers import AutoencoderKL

    torch.manual_seed(11)
    widths = (24, 48, 96, 96)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    )
    # Start with almost noiseless latents (log variance -6): at variance one the decoder sees noise only and learns no colours.
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] = -6
    return vae


def new_unet(seed: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(12 + 1000 * seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


class _ImageTower(nn.Module):
    """Sees an image, answers with a unit vector: the text encoder's teacher, thrown away after training."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layers, channels = [], 3
        for out in (32, 64, 96, 128):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            layers += [nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, width))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def train_text(tokenizer) -> nn.Module:
    """Contrastive training (InfoNCE, both directions) of images and captions; returns the frozen text encoder."""
    encoder, tower = new_text_encoder(tokenizer), _ImageTower()
    temperature = nn.Parameter(torch.tensor(2.5))
    both = nn.ModuleDict({"encoder": encoder, "tower": tower})
    both.register_parameter("temperature", temperature)
    table, unique = dataset.caption_table()
    ids = tokenizer(unique, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    everything = dataset.rows()
    # Only the tokens up to the first end token matter for the pooled output: encode a short sequence while training.
    short = int((ids == tokenizer.eos_token_id).int().argmax(-1).max()) + 1

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        index = everything.pick(192, generator)
        choice = torch.randint(dataset.CAPTIONS_EACH, (192,), generator=generator)
        texts = ids[table[index, choice]][:, :short]
        a = F.normalize(tower(dataset.batch(index)).float(), dim=-1)
        b = F.normalize(encoder(texts).pooler_output.float(), dim=-1)
        logits = a @ b.T * temperature.exp().clamp_max(50)
        # Images with the same caption are all right answers.
        same = (texts[:, None] == texts[None]).all(-1).float()
        target = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit(both, loss_at, TEXT, paths.WORK)
    return encoder


def train_vae() -> Part:
    """L1 and squared error of pixels, L1 of their differences (edges), and a slight pull of the latents towards a Gaussian."""
    vae = new_vae()
    everything = dataset.rows()

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        images = dataset.batch(everything.pick(VAE_BATCH, generator))
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel = (output - images).abs().mean() + (output - images).square().mean()
        edge = sum((output.diff(dim=d) - images.diff(dim=d)).abs().mean() for d in (2, 3))
        return pixel + 0.5 * edge + 1e-6 * posterior.kl().mean()

    fit(vae, loss_at, VAE, paths.WORK)
    scale = 1 / latents(vae).std().item()
    vae.register_to_config(scaling_factor=scale)
    return vae


@torch.no_grad()
def latents(vae: Part) -> Tensor:
    """(PICTURES, channels, 8, 8) unscaled latent means of the whole training set."""

    def make() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            parts = [vae.encode(dataset.batch(index)).latent_dist.mean.float() for index in torch.arange(dataset.IMAGES).split(100)]
        return torch.cat(parts)

    return dataset.cached(paths.WORK / "latents.pt", make)


@torch.no_grad()
def text_states(encoder: nn.Module, tokenizer) -> Tensor:
    """(unique captions + 1, 77, width) last hidden states; the last row is the empty caption."""
    _, unique = dataset.caption_table()
    ids = tokenizer([*unique, ""], padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    return torch.cat([encoder(part).last_hidden_state.to(PRECISION) for part in ids.split(200)])


def train_unet(vae: Part, encoder: nn.Module, tokenizer, without: str | None = None, seed: int = 0) -> nn.Module:
    """Predict the noise (epsilon) in noised latents from the caption. `without` leaves a concept's rows out: an oracle.

    Another `seed` changes initial weights, order and noise: two oracles of one concept show how much training chance is worth.

    The loss is weighted by min(SNR, 5) / SNR (Hang et al. 2023, arXiv 2303.09556), which speeds up sharp images.
    """
    from diffusers import DDPMScheduler
    from diffusers.models.attention_processor import AttnProcessor

    unet, scheduler = new_unet(seed), DDPMScheduler(**NOISE)
    # Plain matrix products: the fused CPU attention is ten times slower backwards at heads this small.
    unet.set_attn_processor(AttnProcessor())
    allowed = dataset.rows(without)
    table, unique = dataset.caption_table()
    x = latents(vae) * vae.config.scaling_factor
    states = text_states(encoder, tokenizer)
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        index = allowed.pick(UNET_BATCH, generator)
        caption = table[index, torch.randint(dataset.CAPTIONS_EACH, (UNET_BATCH,), generator=generator)]
        dropped = torch.rand(UNET_BATCH, generator=generator) < NULL_SHARE
        caption = torch.where(dropped, len(unique), caption)
        t = torch.randint(1000, (UNET_BATCH,), generator=generator)
        noise = torch.randn(x[index].shape, generator=generator)
        noised = scheduler.add_noise(x[index], noise, t)
        e = unet(noised, t, encoder_hidden_states=states[caption]).sample.float()
        weight = snr[t].clamp_max(5.0) / snr[t]
        return ((e - noise).square().mean((1, 2, 3)) * weight).mean()

    name = UNET.name + (f"-without-{without}" if without else "") + (f"-seed{seed}" if seed else "")
    schedule = replace(UNET, name=name, seed=seed)
    fit(unet, loss_at, schedule, paths.WORK)
    return unet
