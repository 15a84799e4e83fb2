"""How similar the erased and the original model are inside: linear CKA of their activations on the same inputs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from vestige.bench.contract.plugin import Metric, MetricContext
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores
from vestige.bench.models.process import LENGTH
from vestige.bench.statistics.jackknife import UP_TO_ONE, jackknife_interval
from vestige.bench.statistics.score_intervals import MEASURED
from vestige.bench.vision.representations import TEXT, activations, check_sites, linear_cka, linear_cka_left_out, shared_noise, text_states
from vestige.metrics._rows import places_in, refuse_empty


@dataclass
class Cka(Metric):
    """cka_<site>: linear CKA of original and erased activations over the set's prompts, mean over timesteps; 1: nothing changed.

    Inputs are the ORIGINAL's images of the prompts, noised to each timestep with noise both models share; the erased model
    is run with everything in force that acts inside it. Methods that change only the guidance or filter images leave all
    sites at 1. It compares how the images of ONE set lie to each other: prompts of one concept differ in style and ground,
    so a low value on them says that the inside was rearranged, not that the concept is gone (the emoji oracle without dogs:
    middle block 0.95 on dogs, 0.91 on siblings, 0.86 on others). After Kim, Cha & Kim 2025, arXiv 2503.06991, who compare
    classifiers; sites and inputs for diffusion models are our own choice.

    Intervals leave out one prompt at a time; they are about prompts like these, with the models as they are.

    Sites: text, what the text encoders say, over distinct prompts, only where there are four; and those of the model's family, of UNets
    cross_attention (the outputs of all its layers), mid and up (blocks).
    """

    columns: ClassVar[dict[str, bool]] = {"cka": True}
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels", "states")
    quick: ClassVar[dict] = {"timesteps": [500]}

    sites: list[str]
    timesteps: list[int]  # levels of noise, each told to the denoiser
    unbiased: bool  # false: the common form, inflated when images are fewer than channels (cka_biased_<site>)
    batch_size: int
    seed: int  # of the noise

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError("metric sites=[] compares nothing: name at least one, such as text.")
        if not self.timesteps or not all(0 <= t < LENGTH for t in self.timesteps):
            raise ValueError(f"metric timesteps={self.timesteps} must be one or more of 0 to {LENGTH - 1}.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return check_sites("cka", self.sites, model)

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "cka")
        if len(images) < 4:
            raise ValueError(f"cka compares at least 4 images, the set has {len(images)}.")
        if "private" in images.index:
            raise ValueError(
                "cka needs the prompts' texts, and those of published lists are not stored (bench/prompts/published_lists.py)."
            )
        original, drawn = context.original_pipe(), context.original()
        files = drawn.index["file"].tolist()
        order = places_in(drawn, images, "cka")
        starts = range(0, len(order), self.batch_size)
        parts = [[files[i] for i in order[k : k + self.batch_size]] for k in starts]
        latents = torch.cat([original.encode_images(drawn.pixels(part)).cpu() for part in parts])
        noise = shared_noise(latents, list(zip(images.index["row_id"], images.index["rep"].tolist(), strict=True)), self.seed)
        prompts = images.index["prompt"].tolist()
        before = self.read(original, prompts, latents, noise)
        with context.erased_pipe() as erased:
            after = self.read(erased, prompts, latents, noise)
        groups_of_rows = images.index["group"].tolist()
        group_of = dict(zip(prompts, groups_of_rows, strict=True))
        form = "cka" if self.unbiased else "cka_biased"
        totals, intervals = {}, {}
        for site in dict.fromkeys(site for site, _ in before):
            groups = [group_of[prompt] for prompt in sorted(group_of)] if site == TEXT else groups_of_rows
            pairs = [(x, after[at]) for at, x in before.items() if at[0] == site and len(x) >= 4]
            value = sum(linear_cka(x, y, self.unbiased) for x, y in pairs) / len(pairs) if pairs else float("nan")
            if value == value:
                left_out = np.mean([linear_cka_left_out(x, y, groups, self.unbiased) for x, y in pairs], axis=0)
                totals[f"{form}_{site}"], intervals[f"{form}_{site}"] = value, jackknife_interval(value, left_out, UP_TO_ONE)
        if not totals:
            raise ValueError("cka: the inputs do not differ at any chosen site: nothing to compare. Use a split of several prompts.")
        meta = {"n": len(images), "timesteps": self.timesteps, "prompts": len(group_of), MEASURED: intervals}
        return Scores(totals, None, meta)

    def read(self, pipe, prompts, latents, noise) -> dict[tuple[str, int | None], torch.Tensor]:
        inner = [site for site in self.sites if site != TEXT]
        every: dict[tuple[str, int | None], torch.Tensor] = {}
        for t in self.timesteps if inner else []:
            seen = activations(pipe, prompts, latents, noise, t, inner, self.batch_size)
            every |= {(site, t): x for site, x in seen.items()}
        if TEXT in self.sites:
            every[TEXT, None] = text_states(pipe, sorted(set(prompts)), self.batch_size)
        return every
