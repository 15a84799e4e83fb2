"""What a family of models has to say, and what all families with a denoiser share.

The capabilities that a family offers and a plugin may need:

draw     prompts and seeds to images, through filters, guidance rules and trajectories
outputs  the generator's predictions under several conditionings, for guidance rules
loss     the model's own training loss of an image, per row and differentiable
levels   a noise process: noising, inversion, partial denoising (bench/models/process.py)
words    token ids and token embeddings in, with learned tokens, of encoders whose layout is known
states   text states that the generator reads, row by row, and that can be edited
groups   weights by their role: `Family.groups`
tokens   images as tokens (models that draw token by token: bench/models/families/_tokens.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vestige.bench.contract.types import ModelSpec, Sampler

if TYPE_CHECKING:  # what a family is made of can be read without torch: by checks and plans
    import torch
    from torch import Tensor, nn

    from vestige.bench.models.conditioning import Conditioning
    from vestige.bench.models.pipe import Pipe
    from vestige.bench.models.process import NoiseProcess
    from vestige.bench.models.text import TextSide


@dataclass(frozen=True)
class Corruption:
    """What a training step adds to a batch of latents: standard normal noise, and at which levels."""

    noise: Tensor
    level: Tensor


class Family:
    """One architecture. A subclass is stateless; everything about one model comes in as arguments.

    denoiser: the part that predicts. classes: what is loaded, part name in a diffusers pipeline -> class names that this family runs;
    optional: parts that a folder may lack; tokenizers: their names there. encoders: part name -> name of its segment. groups: role of
    weights -> regular expression over the parameter names of the denoiser. sites: role -> expression over the names of layers, whose
    outputs representations are compared at.
    """

    name: ClassVar[str]
    denoiser: ClassVar[str]
    tokenizers: ClassVar[tuple[str, ...]]
    encoders: ClassVar[dict[str, str]]
    classes: ClassVar[dict[str, tuple[str, ...]]]
    optional: ClassVar[tuple[str, ...]] = ()
    text_width: ClassVar[int | None] = None  # of the text states that a UNet of published models reads
    cell: ClassVar[int] = 8  # sides of images are multiples of it, in pixels
    offers: ClassVar[tuple[str, ...]] = ("draw", "outputs", "loss", "levels", "words", "states", "groups")
    groups: ClassVar[dict[str, str]]
    sites: ClassVar[dict[str, str]] = {}
    text_mlp: ClassVar[str] = r"(mlp\.fc2|DenseReluDense\.wo)\."  # inside text encoders: the feed-forward layers' second half
    normed: ClassVar[bool] = False  # text states leave an affine layer norm, the encoder's last, so they lie in one hyperplane
    diffusion: ClassVar[bool] = False  # the noise process is a variance-preserving one, for which schedulers of diffusion are made
    deep: ClassVar[bool] = False  # reads inner layers of the text encoders
    library: ClassVar[str] = "diffusers"  # whose folders it is loaded from
    index: ClassVar[str] = "model_index.json"  # the file that such a folder begins with
    own_sampler: ClassVar[bool] = False  # draws with a sampler of its own, see `check_sampler`; others with a scheduler of diffusers

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.classes)

    def load(self, spec: ModelSpec) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        """(parts, tokenizers, scheduler, settings) from the folder or the hub's cache that the specification names."""
        from vestige.bench.models.loading import diffusers_parts

        return diffusers_parts(spec)

    # Text

    def text(self, parts: dict[str, Any], tokenizers: list) -> TextSide:
        from vestige.bench.models.text import Encoder, TextSide

        present = [(name, parts[part]) for part, name in self.encoders.items() if part in parts]
        readers = [
            Encoder(name, tokenizer, module, self.text_length(name, parts))
            for (name, module), tokenizer in zip(present, tokenizers, strict=True)
        ]
        return TextSide(self.name, readers, self.condition, self.deep)

    def text_length(self, segment: str, parts: dict[str, Any]) -> int | None:
        """How many tokens the generator reads at most of a segment, where it reads fewer than the tokenizer allows."""
        return None

    def condition(self, ids: list[Tensor], outputs: list[Any]) -> Conditioning:
        """What the text encoders answered, put together as the generator reads it."""
        raise NotImplementedError

    def null(self, pipe: Pipe, n: int) -> Conditioning:
        """The unconditional conditioning, n rows: the empty prompt, unless the family says otherwise."""
        from vestige.bench.models.conditioning import NULL

        return pipe.encode([""] * n).as_branch(NULL)

    def unconditional(self, pipe: Pipe, cond: Conditioning) -> Conditioning:
        """The unconditional rows that guidance pairs with these: of most models the same for every prompt."""
        return pipe.null(len(cond))

    # The denoiser

    def predict(self, pipe: Pipe, denoiser: nn.Module, x: Tensor, level: Tensor | int, cond: Conditioning) -> Tensor:
        """The raw output of one call, in the shape of x."""
        raise NotImplementedError

    def process(self, scheduler: Any) -> NoiseProcess:
        """The noise process the model was trained with, from its own scheduler's settings."""
        raise NotImplementedError

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise a ValueError for a sampler that this family cannot draw with; asked of families that have their own."""

    def scheduler_for(self, pipe: Pipe, sampler: Sampler) -> Any:
        """The scheduler asked for, with the model's own settings and the changes asked for."""
        import diffusers

        kind = getattr(diffusers, sampler.scheduler)
        return kind.from_config(dict(pipe.scheduler.config), **sampler.arguments)

    def set_timesteps(self, scheduler: Any, pipe: Pipe, sampler: Sampler) -> None:
        """The grid of sampling levels, as the published pipeline sets it."""
        scheduler.set_timesteps(sampler.steps, device=pipe.device)

    def sample(self, pipe: Pipe, cond: Conditioning, seeds: list[int], sampler: Sampler, image_ids: Sequence | None) -> Tensor:
        from vestige.bench.models import sampling

        return sampling.denoised(pipe, cond, seeds, sampler, image_ids)

    # Images and latents

    def noise(self, pipe: Pipe, seeds: list[int], height: int, width: int) -> Tensor:
        """Initial latents, one CPU generator per row: equal for every method, batch size and device."""
        import torch

        shape = (self.latent_channels(pipe), height // pipe.latent_factor, width // pipe.latent_factor)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(pipe.device, pipe.dtype)

    def latent_factor(self, pipe: Pipe) -> int:
        """Pixels per latent cell, per side."""
        return 2 ** (len(pipe.vae.config.block_out_channels) - 1)

    def native_size(self, pipe: Pipe) -> tuple[int, int]:
        """Height and width of the latents that the model was trained on."""
        return (pipe.denoiser.config.sample_size,) * 2

    def latent_channels(self, pipe: Pipe) -> int:
        return pipe.vae.config.latent_channels

    def decode(self, pipe: Pipe, latents: Tensor) -> Tensor:
        """Latents to pixels, float [n, 3, height, width] in about [-1, 1]."""
        config = pipe.vae.config
        shifted = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        return pipe.vae.decode(shifted.to(pipe.vae.dtype)).sample.float()

    def encode_images(self, pipe: Pipe, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Pixels in [-1, 1] to scaled latents: the posterior mean, or a sample with a generator."""
        import torch

        posterior = pipe.vae.encode(pixels.to(pipe.device, pipe.vae.dtype)).latent_dist
        latents = posterior.mean
        if generator is not None:
            latents = latents + posterior.std * torch.randn(latents.shape, generator=generator).to(latents)
        shift = getattr(pipe.vae.config, "shift_factor", None)
        return ((latents if shift is None else latents - shift) * pipe.vae.config.scaling_factor).to(pipe.dtype)

    # Training

    def corruption(self, pipe: Pipe, encoded: Tensor, generator: torch.Generator) -> Corruption:
        """What one training step adds to these latents, drawn as the model's own training draws it."""
        import torch

        noise = torch.randn(encoded.shape, generator=generator).to(encoded)
        return Corruption(noise, pipe.process.random_level(len(encoded), generator).to(pipe.device))

    def loss(self, pipe: Pipe, encoded: Tensor, cond: Conditioning, at: Corruption, module: nn.Module | None = None) -> Tensor:
        """(batch,) the model's own training loss: mean squared error of its answer, per row."""
        x = pipe.process.add_noise(encoded, at.noise, at.level)
        answer = pipe.predict(x, at.level, cond, module).float()
        return (answer - pipe.process.target(encoded, at.noise, at.level).float()).square().flatten(1).mean(1)

    # Tests and plans

    def question(self, pipe: Pipe, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(x, level) of a typical call for one image of this size in pixels."""
        import torch

        factor = self.latent_factor(pipe)
        shape = (1, self.latent_channels(pipe), height // factor, width // factor)
        return torch.zeros(shape, dtype=pipe.dtype), pipe.process.level_at(0.5)

    def tiny(self, seed: int = 0) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        """(parts, tokenizers, scheduler, settings) of a random model of about a million parameters, of the same classes."""
        raise NotImplementedError

    def tiny_sampler(self, pipe: Pipe) -> Sampler:
        """What the contract tests draw with: two steps of the tiny model's own scheduler, at the size it was made for."""
        height, width = (side * pipe.latent_factor for side in self.native_size(pipe))
        return Sampler(type(pipe.scheduler).__name__, {}, 2, 3.0, height, width)
