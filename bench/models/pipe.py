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
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.models import numerics
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import choose_parameters
from vestige.bench.models.families import family
from vestige.bench.models.families.base import Corruption
from vestige.bench.models.hooks import own_hooks
from vestige.bench.models.origin import Origin, Saved, contents
from vestige.bench.models.parts import Part
from vestige.bench.models.process import NoiseProcess
from vestige.bench.models.sampling import Call, GuidanceRule, Trajectory, classifier_free
from vestige.bench.models.text import Learned

Filter = Callable[[Tensor], tuple[Tensor, list[bool]]]


@dataclass(frozen=True)
class Images:
    """Finished images: uint8 [n, 3, height, width]; status of each: ok, blocked (by an output filter) or nan (not finite, so black)."""

    pixels: Tensor
    status: list[str]


class Pipe:
    """The model under test. `parts` holds its modules by name: unet (or transformer), vae, text_encoder, ...

    settings: of the published pipeline, such as SDXL's force_zeros_for_empty_prompt.
    """

    origin: Origin | None = None  # of a pipe that bench/models/loading.py made

    def __init__(self, spec: ModelSpec, parts: dict[str, Any], tokenizers: list, scheduler: Any, settings: dict[str, Any] | None = None):
        self.spec = spec
        self.family = family(spec.family)
        self.parts = parts
        self.scheduler = scheduler
        self.settings = settings or {}
        self.text = self.family.text(parts, tokenizers)
        self.guidance: Callable[[], GuidanceRule] = classifier_free
        self.trajectory: Callable[..., Trajectory] = Trajectory
        self.filters: list[Filter] = []
        self.before_predict: list[Callable[[Call], None]] = []
        self.counts = {"forward_rows": 0, "images": 0}
        self.embedded_guidance = 1.0  # what a guidance-distilled denoiser is told; others do not read it
        self.hooks_on = True  # False inside `off`
        self._now: tuple[int | None, int | None] = (None, None)

    @property
    def denoiser_name(self) -> str:
        return self.family.denoiser

    @property
    def denoiser(self) -> Part:
        return self.parts[self.denoiser_name]

    @property
    def vae(self) -> Part:
        return self.parts["vae"]

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    @cached_property
    def process(self) -> NoiseProcess:
        """The noise process the model was trained with."""
        return self.family.process(self.scheduler)

    def encode(self, prompts: list[str]) -> Conditioning:
        """Prompts to conditioning, gradients allowed (wrap in no_grad when none are wanted)."""
        return self.text.encode(prompts)

    def null(self, n: int) -> Conditioning:
        """The unconditional conditioning, n rows."""
        return self.family.null(self, n)

    def predict(self, x: Tensor, t: Tensor | int, cond: Conditioning, module: nn.Module | None = None) -> Tensor:
        """One unguided denoiser prediction, through every hook and adapter in force.

        x (batch, channels, h, w); t the level, scalar or (batch,); cond with batch rows. `module` evaluates another denoiser, such
        as a frozen copy, with the same conditioning. Returns the raw output (epsilon, v or velocity, as the model was trained).
        """
        for prepare in self.before_predict:
            prepare(Call(x, torch.as_tensor(t), cond, *self._now))
        self.counts["forward_rows"] += x.shape[0]
        with numerics.computing(self.spec, x.device, half=True):
            answer = self.family.predict(self, self.denoiser if module is None else module, x, t, cond)
        return answer.to(x.dtype) if x.is_floating_point() else answer

    @contextmanager
    def at_step(self, index: int, steps: int) -> Iterator[None]:
        """Calls inside belong to this sampling step (see Call)."""
        before, self._now = self._now, (index, steps)
        try:
            yield
        finally:
            self._now = before

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell, per side."""
        return self.family.latent_factor(self)

    def noise(self, seeds: list[int], height: int, width: int) -> Tensor:
        """Initial latents, one CPU generator per row: equal for every method, batch size and device."""
        return self.family.noise(self, seeds, height, width)

    def scheduler_for(self, sampler: Sampler) -> Any:
        return self.family.scheduler_for(self, sampler)

    def sample(self, cond: Conditioning, seeds: list[int], sampler: Sampler, image_ids: Sequence | None = None) -> Tensor:
        """Latents (n, channels, h, w) for the rows of `cond`, by the guidance rule and on the trajectory in force."""
        if sampler.embedded_guidance is None:
            return self.family.sample(self, cond, seeds, sampler, image_ids)
        with self.told_guidance(sampler.embedded_guidance):
            return self.family.sample(self, cond, seeds, sampler, image_ids)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, float [n, 3, height, width] in [0, 1]; gradients allowed."""
        with numerics.computing(self.spec, latents.device):
            return (self.family.decode(self, latents) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """uint8 or float [0, 1] images [n, 3, h, w] to scaled latents: the posterior mean, or a sample with a generator."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        with numerics.computing(self.spec, self.device):
            return self.family.encode_images(self, pixels * 2 - 1, generator)

    def corruption(self, encoded: Tensor, generator: torch.Generator) -> Corruption:
        """What one step of the model's own training adds to encoded images: for `loss`."""
        return self.family.corruption(self, encoded, generator)

    def loss(self, encoded: Tensor, cond: Conditioning, at: Corruption, module: nn.Module | None = None) -> Tensor:
        """(batch,) the model's own training loss of encoded images under `cond`; differentiable."""
        return self.family.loss(self, encoded, cond, at, module)

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

    # Weights by their role

    def group(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of a role (see `Family.groups`), by their name inside the denoiser."""
        if name not in self.family.groups:
            raise ValueError(f"family {self.spec.family!r} has no weights called {name!r}; it has: {', '.join(self.family.groups)}.")
        return choose_parameters(self.denoiser, self.family.groups[name])

    def layers(self, group: str) -> dict[str, nn.Module]:
        """The linear and convolution layers that hold the weights of a role, by their name inside the denoiser."""
        names = dict.fromkeys(name.rpartition(".")[0] for name in self.group(group))
        found = {name: self.denoiser.get_submodule(name) for name in names}
        return {name: module for name, module in found.items() if isinstance(module, nn.Linear | nn.Conv2d)}

    # Scoped changes

    @contextmanager
    def told_guidance(self, scale: float) -> Iterator[Pipe]:
        """Tell a guidance-distilled denoiser this scale; others do not read it. Teacher and student must be told the same."""
        before, self.embedded_guidance = self.embedded_guidance, scale
        try:
            yield self
        finally:
            self.embedded_guidance = before

    @contextmanager
    def off(self) -> Iterator[Pipe]:
        """Inside, every hook and adapter that was set through this pipe is out of force: the teacher of an adapter in training."""
        before, self.hooks_on = self.hooks_on, False
        try:
            yield self
        finally:
            self.hooks_on = before

    @contextmanager
    def replaced(self, tensors: dict[str, Tensor]) -> Iterator[Pipe]:
        """Copies of tensors named "<part>.<parameter>" in the place of the model's own, which are not written to: others may share them."""
        slots = {name: self.parameter(name) for name in tensors}
        for name, slot in slots.items():
            if slot.shape != tensors[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensors[name].shape)} in the artefact but {tuple(slot.shape)} in model "
                    f"{self.spec.name!r}: the artefact was made for another model."
                )
        saved = {name: slot.data for name, slot in slots.items()}
        try:
            for name, slot in slots.items():
                slot.data = torch.empty_like(slot, requires_grad=False).copy_(tensors[name].detach())
            yield self
        finally:
            for name, slot in slots.items():
                slot.data = saved[name]

    @contextmanager
    def preserved(self) -> Iterator[Pipe]:
        """Whatever happens inside, afterwards all weights, modes and scoped changes are as before."""
        saved = Saved(self)
        scoped = (self.guidance, self.trajectory, list(self.filters), list(self.before_predict), dict(self.text.words))
        try:
            yield self
        finally:
            saved.restore()
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
        """Let latents take another way, called as `Trajectory` is: other start latents, another scheduler, another step."""
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
    def before_denoiser(self, prepare: Callable[[Call], None]) -> Iterator[Pipe]:
        """Call `prepare(call)` before every denoiser call: for adapters whose strength depends on prompt, level, step or branch."""
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
                handles.append(register(self._while_on(hook), with_kwargs=True))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _while_on(self, hook: Callable) -> Callable:
        def ours(*args):
            return hook(*args) if self.hooks_on else None

        return ours

    @contextmanager
    def with_learned_tokens(self, words: dict[str, Learned]) -> Iterator[Pipe]:
        """Teach the text side new tokens: placeholder -> embeddings [k, width] of the first encoder, or of each encoder by its name."""
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
        digest = hashlib.sha256(repr(self.structure()).encode())
        for name, content in contents(self).items():
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def structure(self) -> tuple:
        """Which hooks, modules, rules, words and filters are in force. Hooks that a library sets for itself are not counted."""
        modules = [m for part in self.parts.values() for m in part.modules()]
        hooks = sum(1 for m in modules for _ in own_hooks(m))
        scoped = len(self.filters), len(self.before_predict), sorted(self.text.words)
        return hooks, len(modules), scoped, self.guidance is classifier_free, self.trajectory is Trajectory
