"""LEDITS++: keeps the noise that would redraw the image, step by step, and adds an edit where the edit's words look.

Brack et al., "LEDITS++: Limitless Image Editing using Text-to-Image Models" (CVPR 2024), arXiv 2311.16711, as in diffusers
0.42 with DDIM; the use against erasers and its numbers are those of 120L020904/ACE@5e02099. Both halves run the erased
model. Our own form of the steps, through this harness's sampler: diffusers' pipeline would reset the attention processors.
Under a sampling method the edit's guidance is the defended one.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.attacks._ddim import OnGrid, asked_for, noisy_step
from vestige.attacks._rows import ByImage, check_ask, worded
from vestige.attacks.edit_attacks import IMAGES_AT_ONCE, Edit
from vestige.bench.contract.plugin import Context, Victim
from vestige.bench.contract.types import Adversary, PromptSet, Sampler
from vestige.bench.models.attention_maps import recorded
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step
from vestige.bench.vision.representations import modules as site_modules


@dataclass
class Ledits(Edit):
    """Artefact: "latents" [images, channels, h, w], where sampling begins, and "noises" [images, steps, channels, h, w]."""

    caption: str  # the image's prompt in the inversion, written like `ask`
    steps: int
    skip: float  # share of further, noisier steps that are left out
    caption_guidance: float
    guidance: float  # of the edit
    threshold: float  # share of the pixels that the edit leaves alone
    map_reduction: int  # side of the latents over side of the attention maps that are read
    masks_from: int  # the second mask, by the size of the guidance, is used from this level down

    access: ClassVar[str] = "latents"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "levels", "cross_kv")  # it reads maps of cross-attention
    quick: ClassVar[dict] = {"steps": 3, "skip": 0.4, "map_reduction": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ask("attack.ledits.caption", self.caption)
        if not 0 <= self.threshold <= 1 or self.skip < 0:
            raise ValueError(f"attack.ledits needs 0 <= threshold <= 1 and skip >= 0, got {self.threshold} and {self.skip}.")

    @property
    def grid(self) -> int:
        """Steps of the whole grid, of which the last `steps` are taken."""
        return int(self.steps * (1 + self.skip))

    @torch.no_grad()
    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        clean, generator, parts = self.clean(victim, prompts, ctx), ctx.generator("ledits"), []
        captions = [text for text in worded(self.caption, prompts, victim.concepts) for _ in range(prompts.repeats)]
        sampler = asked_for(victim.sampler, self.grid, self.caption_guidance)
        for begin in range(0, len(clean), IMAGES_AT_ONCE):
            some = slice(begin, begin + IMAGES_AT_ONCE)
            parts.append(self.noises(victim.pipe, clean[some], captions[some], sampler, generator))
        latents, noises = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return Adversary(self.asked(victim, prompts), {"latents": latents, "noises": noises})

    def noises(self, pipe: Pipe, x_0: Tensor, captions: list[str], sampler: Sampler, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(start latents, z_t of every step) with which stochastic DDIM under the caption draws x_0 again.

        Latents of different steps have independent noise (arXiv 2304.06140), so z_t = (x_{t-1} - mean) / sigma is large.
        """
        process, cond, null, rule = pipe.process, pipe.encode(captions), pipe.null(len(x_0)), pipe.guidance()
        levels = process.grid(self.grid)[-self.steps - 1 :].to(pipe.device)
        drawn = [torch.randn(x_0.shape, generator=generator).to(x_0) for _ in range(self.steps)]
        path = [process.add_noise(x_0, noise, level.expand(len(x_0))) for noise, level in zip(drawn, levels[:-1], strict=True)] + [x_0]
        zs = []
        for k, (level, to) in enumerate(pairwise(levels)):
            index = self.grid - self.steps + k
            with pipe.at_step(index, self.grid):
                out = rule(Step(pipe, path[k], level, index, self.grid, cond, null, sampler.guidance))
            mean, sigma = noisy_step(process, out, path[k], level, to, 1.0)
            zs.append((path[k + 1] - mean) / sigma if sigma > 0 else torch.zeros_like(mean))
            path[k + 1] = mean + sigma * zs[-1]
        return path[0], torch.stack(zs, 1)

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        latents, noises = (ByImage(adversary.prompts, adversary.tensors[name]) for name in ("latents", "noises"))
        attack, inner = self, pipe.guidance

        class Redrawing(OnGrid):
            def __init__(self, pipe: Pipe, seeds: list[int], asked: Sampler, image_ids=None) -> None:
                super().__init__(pipe, seeds, asked_for(asked, attack.grid, attack.guidance), image_ids)
                self.first = self.last - attack.steps

            def start(self) -> Tensor:
                self.z = noises(self.image_ids).to(self.pipe.device, self.pipe.dtype)
                return latents(self.image_ids).to(self.z)

            def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
                mean, sigma = noisy_step(self.pipe.process, e, x, self.levels[index], self.levels[index + 1], 1.0)
                return mean + sigma * self.z[:, index - self.first]

        def factory():
            rule = inner()

            def where_the_words_look(step: Step) -> Tensor:
                with recorded(pipe) as maps:
                    e_null, _ = step.predict_both()
                    masks = self.attended(maps, step)
                edit = rule(step) - e_null
                if step.t <= self.masks_from:
                    masks = masks * largest(edit.abs().sum(1), self.threshold)
                return e_null + masks[:, None] * edit

            return where_the_words_look

        with pipe.sampled_by(Redrawing), pipe.guided_by(factory):
            yield pipe

    def attended(self, maps: dict[str, Tensor], step: Step) -> Tensor:
        """1 where the edit's words get most attention, else 0, [batch, h, w]; maps are those of the doubled batch."""
        n, (height, width) = len(step.x), step.x.shape[-2:]
        h, w = height // self.map_reduction, width // self.map_reduction
        middle = tuple(f"{name}." for name in site_modules(step.pipe, "mid"))
        outer = [m for name, m in maps.items() if not f"{step.pipe.denoiser_name}.{name}".startswith(middle)]
        seen = [m[n:].mean(1) for m in outer if m.shape[2] == h * w]
        if not seen:
            raise ValueError(
                f"no cross-attention map has {h} x {w} pixels (attack.ledits.map_reduction={self.map_reduction}). "
                f"Numbers of pixels there are: {sorted({m.shape[2] for m in maps.values()})}."
            )
        words = _words(step.cond, step.pipe).to(step.x)
        looked = (torch.stack(seen).mean(0) * words[:, None, :]).sum(-1).unflatten(1, (h, w))
        mask = largest(smoothed(looked), self.threshold)
        return F.interpolate(mask[:, None], (height, width))[:, 0]


def _words(cond: Conditioning, pipe: Pipe) -> Tensor:
    """bool [batch, tokens]: the prompt's own tokens."""
    reader, at = pipe.text.readers[0], torch.arange(cond.ids.shape[1], device=cond.ids.device)
    return (at >= reader.begins) & (at <= reader.last_token(cond.ids)[:, None])


def smoothed(maps: Tensor) -> Tensor:
    """Maps [batch, h, w] under the 3 x 3 kernel of diffusers: exp(-distance^2), normalised, reflected at the border."""
    line = torch.tensor([1.0, 0.0, 1.0]).neg().exp()
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel.to(maps)[None, None])[:, 0]


def largest(values: Tensor, share: float) -> Tensor:
    """1 where an image's values [batch, h, w] reach the quantile `share`, else 0."""
    limit = torch.quantile(values.float().flatten(1), share, dim=1)
    return (values >= limit.view(-1, 1, 1).to(values)).to(values)
