"""A loaded text-to-image model: its parts, one way to sample from it, and scoped ways to change it.

Methods and attacks change a pipe only inside a `with` block; leaving the block, also by an exception, restores every
tensor, hook, guidance rule, word and filter. The sampling loop is written out here rather than taken from a diffusers
pipeline so that the very same guided prediction serves images and white-box attacks (tests compare it with diffusers).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.models import numerics
from vestige.bench.models.parts import Part
from vestige.bench.models.text import Conditioning, TextSide

GuidanceRule = Callable[["Step"], Tensor]
Filter = Callable[[Tensor], tuple[Tensor, list[bool]]]


@dataclass(frozen=True)
class Step:
    """What a guidance rule sees in one sampling step."""

    pipe: Pipe
    x: Tensor  # (batch, channels, height, width), already scaled for the scheduler
    t: Tensor  # the scheduler's timestep, scalar
    index: int  # of the denoiser call, 0 for the noisiest
    total: int  # number of calls
    cond: Conditioning
    null: Conditioning
    scale: float  # guidance scale w
    image_ids: tuple = ()  # one per row: (row_id, repetition), or the seed where no prompt set is drawn; empty outside of sampling
    steps: int | None = None  # asked of the sampler, whose scheduler may call more often (PNDM: once more); None: as many as calls

    def predict_both(self) -> tuple[Tensor, Tensor]:
        """(unconditional, conditional) predictions from one denoiser call of twice the batch."""
        both = self.pipe.predict(torch.cat([self.x, self.x]), self.t, self.cond.with_null(self.null))
        null, cond = both.chunk(2)
        return null, cond


def classifier_free() -> GuidanceRule:
    """e_null + w (e_cond - e_null); without guidance (w <= 1) the conditional prediction alone (Ho & Salimans 2022, eq. 6)."""

    def rule(step: Step) -> Tensor:
        if step.scale <= 1:
            return step.pipe.predict(step.x, step.t, step.cond)
        e_null, e_cond = step.predict_both()
        return e_null + step.scale * (e_cond - e_null)

    return rule


class Trajectory:
    """The way of one batch of latents from noise to image. Subclass it to begin elsewhere, to stop early or to step otherwise.

    seeds: one per row. image_ids: which image each row is, (row_id, repetition), without them the seeds: prompts of one set may share
    a seed. Steps `first` to `last - 1` of the scheduler are taken.
    """

    def __init__(self, pipe: Pipe, seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> None:
        self.pipe, self.seeds, self.sampler = pipe, seeds, sampler
        self.image_ids = tuple(seeds if image_ids is None else image_ids)
        self.scheduler = pipe.scheduler_for(sampler)
        self.scheduler.set_timesteps(sampler.steps, device=pipe.device)
        self.first, self.last = 0, len(self.scheduler.timesteps)
        # Stochastic samplers draw from a per-row generator too, so a row never depends on its batch mates.
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
        self.extra = {"generator": generators} if "generator" in self.scheduler.step.__code__.co_varnames else {}

    def start(self) -> Tensor:
        """Latents (n, channels, h, w) before step `first`."""
        return self.noise() * self.scheduler.init_noise_sigma

    def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
        """Latents after step `index`; e is the guided prediction."""
        return self.scheduler.step(e, self.scheduler.timesteps[index], x, **self.extra).prev_sample

    def noise(self) -> Tensor:
        """Standard normal latents, from the rows' own seeds."""
        return self.pipe.noise(self.seeds, self.sampler.height, self.sampler.width)


@dataclass(frozen=True)
class Images:
    """Finished images: uint8 [n, 3, height, width]; status of each: ok, blocked (by an output filter) or nan (not finite, so black)."""

    pixels: Tensor
    status: list[str]


class Pipe:
    """The model under test. `parts` holds its modules by name: unet (or transformer), vae, text_encoder, ..."""

    def __init__(self, spec: ModelSpec, parts: dict[str, Any], tokenizers: list, scheduler: Any) -> None:
        self.spec = spec
        self.parts = parts
        self.scheduler = scheduler
        encoders = [parts[name] for name in sorted(parts) if name.startswith("text_encoder")]
        self.text = TextSide(spec.family, tokenizers, encoders)
        self.guidance: Callable[[], GuidanceRule] = classifier_free
        self.trajectory: Callable[..., Trajectory] = Trajectory
        self.filters: list[Filter] = []
        self.before_predict: list[Callable[[Conditioning], None]] = []
        self.counts = {"forward_rows": 0, "images": 0}

    @property
    def denoiser_name(self) -> str:
        return "unet" if "unet" in self.parts else "transformer"

    @property
    def unet(self) -> Part:
        return self.parts[self.denoiser_name]

    @property
    def vae(self) -> Part:
        return self.parts["vae"]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def encode(self, prompts: list[str]) -> Conditioning:
        """Prompts to conditioning, gradients allowed (wrap in no_grad when none are wanted)."""
        return self.text.encode(prompts)

    def null(self, n: int) -> Conditioning:
        """The unconditional conditioning, n rows: the empty prompt, or zeros where SDXL asks for them."""
        empty = self.encode([""] * n)
        return empty.zeroed() if self.spec.family == "sdxl" else empty

    def predict(self, x: Tensor, t: Tensor | int, cond: Conditioning, module: nn.Module | None = None) -> Tensor:
        """One unguided denoiser prediction, through every hook and adapter in force.

        x (batch, channels, h, w); t scalar or (batch,); cond with batch rows. `module` evaluates another denoiser, such
        as a frozen copy, with the same conditioning. Returns the raw output (epsilon or v, as the model was trained).
        """
        for prepare in self.before_predict:
            prepare(cond)
        self.counts["forward_rows"] += x.shape[0]
        extra = {}
        if cond.pooled is not None:
            side = x.shape[-2] * self.latent_factor, x.shape[-1] * self.latent_factor
            time_ids = torch.tensor([[*side, 0, 0, *side]] * x.shape[0], device=x.device, dtype=cond.pooled.dtype)
            extra["added_cond_kwargs"] = {"text_embeds": cond.pooled, "time_ids": time_ids}
        with numerics.computing(self.spec, x.device, half=True):
            return (self.unet if module is None else module)(x, t, encoder_hidden_states=cond.hidden, **extra).sample.to(x.dtype)

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell, per side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def noise(self, seeds: list[int], height: int, width: int) -> Tensor:
        """Initial latents, one CPU generator per row: equal for every method, batch size and device."""
        shape = (self.vae.config.latent_channels, height // self.latent_factor, width // self.latent_factor)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.device, self.dtype)

    def scheduler_for(self, sampler: Sampler) -> Any:
        import diffusers

        return getattr(diffusers, sampler.scheduler).from_config(dict(self.scheduler.config), **sampler.arguments)

    def sample(self, cond: Conditioning, seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> Tensor:
        """Latents (n, channels, h, w) for the rows of `cond`, by the guidance rule and on the course in force."""
        trajectory = self.trajectory(self, seeds, sampler, image_ids)
        x, null, rule = trajectory.start(), self.null(len(seeds)), self.guidance()
        times = trajectory.scheduler.timesteps
        for index in range(trajectory.first, trajectory.last):
            model_input = trajectory.scheduler.scale_model_input(x, times[index])
            asked = trajectory.sampler
            step = Step(self, model_input, times[index], index, len(times), cond, null, asked.guidance, trajectory.image_ids, asked.steps)
            x = trajectory.step(rule(step), index, x)
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, float [n, 3, height, width] in [0, 1]; gradients allowed."""
        config = self.vae.config
        shifted = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        with numerics.computing(self.spec, latents.device):
            return (self.vae.decode(shifted.to(self.vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def __call__(self, prompts: list[str], seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> Images:
        """Draw one image per prompt. image_ids: (row_id, repetition) of each, for attacks that hold something for every image."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: one seed per prompt is needed.")
        self.counts["images"] += len(prompts)
        images = self.decode(self.sample(self.encode(prompts), seeds, sampler, image_ids))
        finite = torch.isfinite(images).flatten(1).all(1)
        images = torch.where(finite[:, None, None, None], images, 0.0)  # a cast of NaN to whole numbers is whatever the machine makes of it
        status = ["ok" if whole else "nan" for whole in finite.tolist()]
        for apply in self.filters:
            images, hits = apply(images)
            status = ["blocked" if hit else before for before, hit in zip(status, hits, strict=True)]
        return Images((images * 255).round().to(torch.uint8).cpu(), status)

    # Scoped changes

    @contextmanager
    def replaced(self, tensors: dict[str, Tensor]) -> Iterator[Pipe]:
        """Copy tensors named "<part>.<parameter>" into the model; put the old values back at the end."""
        slots = {name: self.parameter(name) for name in tensors}
        for name, slot in slots.items():
            if slot.shape != tensors[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensors[name].shape)} in the artefact but {tuple(slot.shape)} in model "
                    f"{self.spec.name!r}: the artefact was made for another model."
                )
        saved = {name: slot.detach().clone() for name, slot in slots.items()}
        try:
            with torch.no_grad():
                for name, slot in slots.items():
                    slot.copy_(tensors[name])
            yield self
        finally:
            with torch.no_grad():
                for name, slot in slots.items():
                    slot.copy_(saved[name])

    @contextmanager
    def preserved(self) -> Iterator[Pipe]:
        """Whatever happens inside, afterwards all weights, modes and scoped changes are as before."""
        # parameters() twice over would restore tied weights twice; state by name is enough and exact
        saved = {name: p.detach().clone() for name, p in self.named_parameters()}
        scoped = (self.guidance, self.trajectory, list(self.filters), list(self.before_predict), dict(self.text.words))
        try:
            yield self
        finally:
            with torch.no_grad():
                for name, p in self.named_parameters():
                    if not torch.equal(p, saved[name]):
                        p.copy_(saved[name])
                    p.requires_grad_(False)
                    p.grad = None
            for part in self.parts.values():
                part.eval()
            self.guidance, self.trajectory, self.filters, self.before_predict, self.text.words = scoped

    @contextmanager
    def guided_by(self, factory: Callable[[], GuidanceRule]) -> Iterator[Pipe]:
        """Sample by another guidance rule; `factory` is called once per batch, so a rule may carry state over steps."""
        saved, self.guidance = self.guidance, factory
        try:
            yield self
        finally:
            self.guidance = saved

    @contextmanager
    def sampled_by(self, trajectory: Callable[..., Trajectory]) -> Iterator[Pipe]:
        """Let latents take another course, called as `Course` is: other start latents, another scheduler, another step."""
        saved, self.trajectory = self.trajectory, trajectory
        try:
            yield self
        finally:
            self.trajectory = saved

    @contextmanager
    def filtered_by(self, apply: Filter) -> Iterator[Pipe]:
        """Pass finished images through an output filter."""
        self.filters.append(apply)
        try:
            yield self
        finally:
            self.filters.remove(apply)

    @contextmanager
    def before_denoiser(self, prepare: Callable[[Conditioning], None]) -> Iterator[Pipe]:
        """Call `prepare(cond)` before every denoiser call: for adapters whose strength depends on the prompt."""
        self.before_predict.append(prepare)
        try:
            yield self
        finally:
            self.before_predict.remove(prepare)

    @contextmanager
    def hooked(self, hooks: dict[str, Callable], pre: bool = False) -> Iterator[Pipe]:
        """Register a forward (or pre-forward, with keyword arguments) hook on each named module "<part>.<module>"."""
        handles = []
        try:
            for name, hook in hooks.items():
                module = self.module(name)
                register = module.register_forward_pre_hook if pre else module.register_forward_hook
                handles.append(register(hook, with_kwargs=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def with_learned_tokens(self, words: dict[str, Tensor]) -> Iterator[Pipe]:
        """Teach the text side new words: placeholder -> token embeddings [k, width], used wherever a prompt names it."""
        saved = dict(self.text.words)
        self.text.words = {**saved, **words}
        try:
            yield self
        finally:
            self.text.words = saved

    # Names

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, module in self.parts.items():
            for name, parameter in module.named_parameters():
                yield f"{part}.{name}", parameter

    def parameter(self, name: str) -> nn.Parameter:
        part, _, rest = name.partition(".")
        try:
            return self.parts[part].get_parameter(rest)
        except (KeyError, AttributeError):
            raise ValueError(self._unknown("parameter", name, [n for n, _ in self.named_parameters()])) from None

    def module(self, name: str) -> nn.Module:
        part, _, rest = name.partition(".")
        try:
            return self.parts[part].get_submodule(rest)
        except (KeyError, AttributeError):
            names = [f"{p}.{n}" for p, module in self.parts.items() for n, _ in module.named_modules()]
            raise ValueError(self._unknown("module", name, names)) from None

    def _unknown(self, what: str, name: str, known: list[str]) -> str:
        near = difflib.get_close_matches(name, known, 3)
        return f"model {self.spec.name!r} has no {what} {name!r}." + (f" Near names: {', '.join(near)}." if near else "")

    def fingerprint(self) -> str:
        """Hash of all weights, hooks and scoped changes: equal before and after a well-behaved plugin."""
        digest = hashlib.sha256()
        for name, p in self.named_parameters():
            digest.update(name.encode())
            digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for p in self.parts.values() for m in p.modules())
        modules = sum(1 for p in self.parts.values() for _ in p.modules())
        scoped = (hooks, modules, len(self.filters), len(self.before_predict), sorted(self.text.words))
        digest.update(repr((scoped, self.guidance is classifier_free, self.trajectory is Trajectory)).encode())
        return digest.hexdigest()
