"""The noise process a model was trained with: x = alpha x_0 + sigma noise, and what its denoiser answers at a level.

A *level* is what the denoiser is told about the noise, in the model's own unit: the timestep 0 to 999 of a variance-preserving
model, 1000 sigma of a rectified flow. All that noises, inverts or partly denoises an image goes through this interface, so it
holds for every model with a denoiser. The deterministic step is DDIM's (Song et al., ICLR 2021, eq. 12), which on a flow is
Euler's step. The interface is that of k-diffusion's wrappers (crowsonkb/k-diffusion, external.py): one class per kind of model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

LENGTH = 1000  # levels of every published model


class NoiseProcess(ABC):
    """Levels are tensors (batch,) or scalar; latents (batch, channels, h, w)."""

    length: int = LENGTH  # levels lie in [0, length)

    @abstractmethod
    def scales(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at a level, in the dtype of `like` and shaped to multiply it. A level below 0 is the clean end."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the denoiser was trained to answer at this level."""

    @abstractmethod
    def clean_and_noise(self, output: Tensor, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, noise) as the denoiser's output for `x` implies them."""

    @abstractmethod
    def random_level(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) levels as the model's own training draws them, on the CPU."""

    @abstractmethod
    def level_at(self, share: float) -> Tensor:
        """The level below which this share, in [0, 1), of the training levels lies. Scalar, on the CPU."""

    @abstractmethod
    def grid(self, steps: int, offset: int = 1) -> Tensor:
        """(steps + 1,) levels, noisiest first: those of the denoiser calls, and the one where the last step ends.

        offset: the last call's level, where levels are counted in whole steps; a flow has no use for it.
        """

    @abstractmethod
    def partial_run(self, bins: int, bin: int, alignment: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Part of a sampling run of `bins` steps: the levels it passes, noisiest first, and the level a trainer tells the denoiser.

        `bin` counts from the clean end (0 .. bins - 1). alignment: exact - the run ends at the returned level. Models of the
        variance-preserving kind also know the ways of two programs, legacy and leco (see VariancePreserving).
        """

    def add_noise(self, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """x at this level; in the dtype of x0."""
        alpha, sigma = self.scales(level, x0)
        return alpha * x0 + sigma * noise

    def step(self, output: Tensor, x: Tensor, level: Tensor, to: Tensor) -> Tensor:
        """From `level` to another one, up or down, along the straight line through the implied x_0 and noise."""
        x0, noise = self.clean_and_noise(output, x, level)
        alpha, sigma = self.scales(to, x)
        return alpha * x0 + sigma * noise


class VariancePreserving(NoiseProcess):
    """alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t). The denoiser answers the noise (epsilon), or the velocity
    v = alpha noise - sigma x_0 (Salimans & Ho 2022). Level 0 is the least noise of training; the clean end has its alpha."""

    def __init__(self, alphas_cumprod: Tensor, prediction: str) -> None:
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction type {prediction!r} is not supported; known: epsilon, v_prediction.")
        self.alphas_cumprod, self.prediction = alphas_cumprod, prediction
        self.length = len(alphas_cumprod)

    @classmethod
    def of(cls, scheduler: Any) -> VariancePreserving:
        """Of a diffusers scheduler: its betas and its prediction type, whatever kind of sampler it is."""
        from diffusers import DDPMScheduler

        trained = DDPMScheduler.from_config(dict(scheduler.config))
        return cls(trained.alphas_cumprod, trained.config.prediction_type)

    def scales(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        # In this order: the rounding is that of the diffusers schedulers
        alpha_bar = self.alphas_cumprod.to(like.device, like.dtype)[level.to(like.device).long().clamp(min=0)]
        return _wide(alpha_bar**0.5, like), _wide((1 - alpha_bar) ** 0.5, like)

    def target(self, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        alpha, sigma = self.scales(level, x0)
        return alpha * noise - sigma * x0

    def clean_and_noise(self, output: Tensor, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.scales(level, x)
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha, output
        return alpha * x - sigma * output, alpha * output + sigma * x

    def random_level(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.length, (n,), generator=generator)

    def level_at(self, share: float) -> Tensor:
        return torch.tensor(int(share * self.length))

    def grid(self, steps: int, offset: int = 1) -> Tensor:
        """Evenly spaced, as Stable Diffusion's DDIM: 981, 961, ..., 1, -19 for 50 steps."""
        span = self.length // steps
        return torch.arange(steps, -1, -1) * span - span + offset

    def partial_run(self, bins: int, bin: int, alignment: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """legacy - as the CompVis code of ESD (rohitgandikota/erasing@a2189e9, ldm/models/diffusion/ddim.py): sampling starts
        from pure noise one grid entry late and stops one early, so the latent is 1.95 to 2.9 bins cleaner than the level, which is
        uniform in the bin; leco - as LECO and its descendants (Con6924/SPM@3dd762e, train_spm.py): the grid has no offset and the
        level is taken from the 1000-step grid, 33 to 42 steps noisier than the latent with 30 bins.
        """
        if alignment == "legacy":
            span = self.length // bins
            level = bin * span + int(torch.randint(span, (1,), generator=generator))
            return self.grid(bins)[1 : min(bins - bin + 1, bins) + 1], torch.tensor(level)
        if alignment == "leco":
            return self.grid(bins, offset=0)[: bins - bin], torch.tensor(999 - 1000 * (bins - 1 - bin) // bins)
        grid = self.grid(bins)[: bins - bin]
        return grid, grid[-1]


class RectifiedFlow(NoiseProcess):
    """alpha = 1 - s, sigma = s, level = 1000 s; the denoiser answers the velocity noise - x_0 (Liu et al. 2023).

    Training levels are logit-normal and shifted to s' = shift s / (1 + (shift - 1) s) (Esser et al. 2024, sections 3.1 and 5.3.2).
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    @classmethod
    def of(cls, scheduler: Any) -> RectifiedFlow:
        """Of a diffusers flow-matching scheduler. A shift that follows the image size (Flux) is one of sampling only."""
        config = scheduler.config
        return cls(1.0 if config.get("use_dynamic_shifting") else config.get("shift", 1.0))

    def shifted(self, s: Tensor) -> Tensor:
        return self.shift * s / (1 + (self.shift - 1) * s)

    def scales(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        s = _wide((level.to(like.device).clamp(min=0) / self.length).to(like.dtype), like)
        return 1 - s, s

    def target(self, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise - x0

    def clean_and_noise(self, output: Tensor, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.scales(level, x)
        return x - sigma * output, x + alpha * output

    def random_level(self, n: int, generator: torch.Generator) -> Tensor:
        return self.length * self.shifted(torch.sigmoid(torch.randn(n, generator=generator)))

    def level_at(self, share: float) -> Tensor:
        quantile = torch.special.ndtri(torch.tensor(min(max(share, 1e-4), 1 - 1e-4), dtype=torch.float64))
        return self.length * self.shifted(torch.sigmoid(quantile)).float()

    def grid(self, steps: int, offset: int = 1) -> Tensor:
        return self.length * self.shifted(torch.linspace(1, 0, steps + 1))

    def partial_run(self, bins: int, bin: int, alignment: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if alignment != "exact":
            raise ValueError(f"timestep_alignment={alignment} is the way of a program for other models; flows know exact: set that.")
        grid = self.grid(bins)[: bins - bin]
        return grid, grid[-1]


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))
