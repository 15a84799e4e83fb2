"""Gives the erased model context or noise instead of clever words: noisier steps, another model's first steps, a hole to fill.

Lu et al., "When Are Concepts Erased From Diffusion Models?" (NeurIPS 2025), arXiv 2505.17013;
kevinlu4588/WhenAreConceptsErased@9a03e07. Differs from the code: variants are chosen by the attack's judge, not by the
classifier that scores, and images of the inpainting are other ones than the original model's answers to the same seeds.
Inversion (attack=noise_probes_inversion) is attacks/edit_attacks.py; classifier guidance is left out: it needs a classifier
trained on images of the concept, so what comes back may be the classifier's.
"""

from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.attacks._ddim import OnGrid, asked_for, from_latents, noisy_step
from vestige.attacks._rows import ByImage, ByRow
from vestige.attacks.training_images import about_sibling, check_source, row_images, unsupported_source
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, Sampler, derived_seed
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Trajectory

STARTS = ("fresh", "own")
JUDGED = ("hole", "whole")


@dataclass
class NoiseProbe(Attack):
    """DDIM with more noise than the model was made for. Columns: eta, variance_scale, variant (start noise), found_at (-1 never)."""

    etas: list[float]
    variance_scales: list[float]  # v
    start: str  # fresh: every variant has a start noise of its own (official: one generator serves all); own: the row's
    steps: int
    guidance: float | None  # null: the protocol's

    access: ClassVar[str] = "images"
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels")
    quick: ClassVar[dict] = {"etas": [1.0, 1.5], "variance_scales": [1.0], "steps": 2}

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"attack.noise_probes.start={self.start!r} is not known. Allowed: {', '.join(STARTS)}.")
        if not self.etas or not self.variance_scales or min(*self.etas, *self.variance_scales) < 0:
            raise ValueError("attack.noise_probes needs etas and variance_scales, none below 0.")

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n, grid = len(prompts), [(eta, v) for eta in self.etas for v in self.variance_scales]
        chosen, found, expected = [0] * n, [-1] * n, prompts.table["expect"]
        for variant in ctx.resumable("variants", range(len(grid)), chosen=chosen, found=found):
            todo = [k for k in range(n) if found[k] < 0]
            if not todo:
                break
            with victim.pipe.sampled_by(self.trajectory(prompts, grid, [variant] * n)):
                images = victim.images(prompts, todo)
            hits = victim.judge(images, expected.iloc[todo].tolist()).tolist()
            for k in (k for k, hit in zip(todo, hits, strict=True) if hit):
                chosen[k], found[k] = variant, variant + 1
        columns = {"eta": [grid[k][0] for k in chosen], "variance_scale": [grid[k][1] for k in chosen]}
        asked = prompts.with_prompts(prompts.prompts, **columns, variant=chosen, found_at=found)
        rates = {"variants": len(grid), "rate_at_first": sum(at == 1 for at in found) / n, "rate_at_last": sum(at > 0 for at in found) / n}
        return Adversary(asked, meta=rates)

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        table = adversary.prompts.table
        grid = list(zip(table["eta"], table["variance_scale"], strict=True))
        return pipe.sampled_by(self.trajectory(adversary.prompts, grid, table["variant"].tolist(), range(len(grid))))

    def trajectory(self, prompts: PromptSet, grid: list, variants: list[int], numbers=None):
        """A trajectory that draws row k with noise grid[numbers[k]] (numbers: the variants themselves) from the variant's start noise."""
        noise = ByRow(prompts, torch.tensor([grid[k] for k in (variants if numbers is None else numbers)], dtype=torch.float64))
        variant_of = ByRow(prompts, torch.tensor(variants))
        fresh, steps, guidance = self.start == "fresh", self.steps, self.guidance

        class Noisy(OnGrid):
            def __init__(self, pipe: Pipe, seeds: list[int], asked: Sampler, image_ids=None) -> None:
                super().__init__(pipe, seeds, asked_for(asked, steps, guidance), image_ids)
                self.eta, self.v = noise(self.image_ids).to(pipe.device, pipe.dtype).view(len(seeds), 2, 1, 1, 1).unbind(1)

            def start(self) -> Tensor:
                if fresh:
                    variants = variant_of(self.image_ids).tolist()
                    own = [derived_seed(seed, "variant", k) for seed, k in zip(self.seeds, variants, strict=True)]
                    return self.pipe.noise(own, self.sampler.height, self.sampler.width)
                return self.noise()

            def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
                mean, sigma = noisy_step(self.pipe.process, e, x, self.levels[index], self.levels[index + 1], self.eta)
                z = torch.stack([torch.randn(x.shape[1:], generator=g) for g in self.generators]).to(x)
                return mean + self.v * sigma * z

        return Noisy


@dataclass
class Completion(Attack):
    """The original model takes the first steps, the erased one the rest. Artefact: "latents" [images, channels, h, w]."""

    by_original: int  # steps
    steps: int
    guidance: float | None  # null: the protocol's
    source: str  # target, or wrong_concept: the original model is asked for the concept's first sibling

    access: ClassVar[str] = "latents"
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels")
    quick: ClassVar[dict] = {"by_original": 1, "steps": 2}

    def __post_init__(self) -> None:
        if self.source not in ("target", "wrong_concept"):
            raise ValueError(
                f"attack.noise_probes.source={self.source!r} cannot be completed: its first steps are no model's. "
                "Allowed: target, wrong_concept; for images of other kinds use attack=edit_attacks (img2img)."
            )
        if not 0 <= self.by_original <= self.steps:
            raise ValueError(f"attack.noise_probes.by_original={self.by_original} must lie between 0 and steps={self.steps}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    @torch.no_grad()
    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        sampler, last = self.sampler(victim.sampler), self.by_original

        class FirstSteps(OnGrid):
            def __init__(self, *arguments) -> None:
                super().__init__(*arguments)
                self.last = last

        rows = prompts.table.to_dict("records")
        asked = [about_sibling(row, victim.concepts) if self.source == "wrong_concept" else row["prompt"] for row in rows]
        original, begun = ctx.original(), []
        counts = dict(original.counts)
        with original.sampled_by(FirstSteps):
            for text, row in zip(asked, rows, strict=True):
                seeds = [prompts.seed(row["row_id"], rep) for rep in range(prompts.repeats)]
                begun.append(original.sample(original.encode([text] * len(seeds)), seeds, sampler))
        rows_of_original = original.counts["forward_rows"] - counts["forward_rows"]
        original.counts.update(counts)  # the budget counts calls of the erased model
        return Adversary(prompts, {"latents": torch.cat(begun).cpu()}, {"forward_rows_of_the_original": rows_of_original})

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        latents = ByImage(adversary.prompts, adversary.tensors["latents"])

        def trajectory(pipe: Pipe, seeds: list[int], asked: Sampler, image_ids=None) -> Trajectory:
            return from_latents(latents, self.sampler(asked), self.by_original)(pipe, seeds, asked, image_ids)

        with pipe.sampled_by(trajectory):
            yield pipe

    def sampler(self, asked: Sampler) -> Sampler:
        return asked_for(asked, self.steps, self.guidance)


@dataclass
class Inpainting(Attack):
    """Fills a square hole in an image of the concept, for models without an input for it: what is outside is put back after every step.

    Artefact: "latents" [images, channels, h, w], the clean images. The surroundings carry part of the answer.
    """

    hole: float  # side of the centred square, as a share of the image's
    judged: str  # hole (official): the square alone is kept and enlarged; whole: the image
    source: str  # what the images show, see attacks/training_images.py; anything but target is a control

    access: ClassVar[str] = "latents"
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels")

    def __post_init__(self) -> None:
        if self.judged not in JUDGED:
            raise ValueError(f"attack.noise_probes.judged={self.judged!r} is not known. Allowed: {', '.join(JUDGED)}.")
        if not 0 < self.hole <= 1:
            raise ValueError(f"attack.noise_probes.hole={self.hole} must lie above 0 and at most at 1.")
        check_source("noise_probes", self.source)

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        images = row_images(ctx, prompts, victim.concepts, self.source, prompts.repeats)
        return Adversary(prompts, {"latents": victim.pipe.encode_images(images).cpu()})

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        clean, hole = ByImage(adversary.prompts, adversary.tensors["latents"]), self.hole

        class Filling(Trajectory):
            def start(self) -> Tensor:
                self.clean = clean(self.image_ids).to(self.pipe.device, self.pipe.dtype)
                self.drawn = self.noise()
                height, width = self.clean.shape[-2:]
                self.free = square(height, width, hole).to(self.clean)
                return super().start()

            def step(self, e: Tensor, index: int, x: Tensor) -> Tensor:
                x, around = super().step(e, index, x), self.clean
                if index + 1 < self.last:
                    around = self.noised(self.clean, self.drawn, index + 1)
                return self.free * x + (1 - self.free) * around

        with ExitStack() as stack:
            stack.enter_context(pipe.sampled_by(Filling))
            if self.judged == "hole":
                stack.enter_context(pipe.filtered_by(lambda images: (cropped(images, hole), [False] * len(images))))
            yield pipe


def square(height: int, width: int, share: float) -> Tensor:
    """1 inside the centred square, 0 outside, [height, width]."""
    mask = torch.zeros(height, width)
    mask[_middle(height, share), _middle(width, share)] = 1
    return mask


def cropped(images: Tensor, share: float) -> Tensor:
    """The centred square of images [n, 3, h, w], enlarged to their size."""
    inner = images[..., _middle(images.shape[-2], share), _middle(images.shape[-1], share)]
    return F.interpolate(inner, images.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)


def _middle(side: int, share: float) -> slice:
    kept = max(1, round(side * share))
    return slice((side - kept) // 2, (side - kept) // 2 + kept)
