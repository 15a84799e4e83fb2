"""Look at the finished image and black it out when it shows the concept; the model itself keeps everything.

Two filters: the checker shipped with Stable Diffusion 1.x (weights CompVis/stable-diffusion-safety-checker, analysed by
Rando et al. 2022, arXiv 2210.04610; its 17 + 3 concept vectors are fixed and sexual), and the same idea for any concept: a
CLIP image-text cosine against a threshold calibrated at a chosen rate of false alarms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.fingerprints import given
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.bench.vision import clip_models, features
from vestige.bench.vision.pixels import CLIP, normalised

CHECKERS = ("compvis", "clip_text")


@dataclass
class SafetyChecker(Method):
    """Artefact of clip_text: "filter.texts" [concepts, d] and "filter.thresholds" [concepts]; of compvis: nothing."""

    intervention: ClassVar[str] = "filter"
    detachable: ClassVar[bool] = True
    limits: ClassVar[str] = "gradients of an attack stop at the filter, so white-box attacks see the unfiltered model"
    quick: ClassVar[dict] = {"images": 8}

    checker: str  # compvis or clip_text
    repo: str  # compvis: hub id or folder of the checker
    revision: str | None
    clip: str  # clip_text: emoji, or <open_clip model>/<pretrained>
    text: str  # clip_text: what is compared with the image; {name} is the concept's name
    false_alarms: float  # clip_text: share of neutral images that may be blocked
    neutral: list[str]  # clip_text: prompts of the neutral images; {other}: each sibling and unrelated thing in turn
    images: int  # clip_text: number of neutral images

    def __post_init__(self) -> None:
        if self.checker not in CHECKERS:
            raise ValueError(f"method.checker={self.checker!r} is not known. Allowed: {', '.join(CHECKERS)}.")
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"method.false_alarms={self.false_alarms} must be a share between 0 and 1, for example 0.01.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if self.checker == "compvis" and any(concept.kind != "explicit" for concept in concepts):
            return "the CompVis checker knows sexual content only: for other concepts set method.checker=clip_text."
        if self.checker == "clip_text":
            return features.check(self.clip) or super().supports(model, concepts)
        return super().supports(model, concepts)

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        return given(repo=self.repo) if self.checker == "compvis" else features.inputs(f"clip:{self.clip}")

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        if self.checker == "compvis":
            return Erasure({})
        clip = clip_models.load_clip(self.clip)
        texts = torch.cat([clip.text([with_articles(self.text.format(name=concept.name))]) for concept in concepts])
        prompts = [with_articles(p.format(other=other)) for p in self.neutral for other in neutral_things(concepts)]
        shown = ctx.generate(prompts, -(-self.images // len(prompts)))
        scores = clip.image(shown) @ texts.T
        # With n images the quantile lies on one of them: exactly that share scores above it.
        thresholds = torch.quantile(scores, 1 - self.false_alarms, dim=0, interpolation="higher")
        return Erasure(
            {"filter.texts": texts, "filter.thresholds": thresholds}, {"parts": [], "neutral_images": len(shown), "parameters": 0}
        )

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        if self.checker == "compvis":
            flag = compvis_flagger(self.repo, self.revision, pipe)
        else:
            clip, (texts, thresholds) = clip_models.load_clip(self.clip), (erasure.tensors[f"filter.{k}"] for k in ("texts", "thresholds"))

            def flag(images: Tensor) -> Tensor:
                stored = (images * 255).round().to(torch.uint8).cpu()  # what will be saved, and what the threshold was set on
                return (clip.image(stored) @ texts.T > thresholds).any(-1)

        def apply(images: Tensor) -> tuple[Tensor, list[bool]]:
            hits = flag(images)
            return torch.where(hits[:, None, None, None].to(images.device), torch.zeros_like(images), images), hits.tolist()

        with pipe.filtered_by(apply):
            yield pipe


def neutral_things(concepts: list[Concept]) -> list[str]:
    """Siblings and unrelated things of all concepts, without the concepts themselves."""
    erased = {concept.name for concept in concepts}
    return sorted({name for concept in concepts for name in [*concept.siblings, *concept.others]} - erased)


def compvis_flagger(repo: str, revision: str | None, pipe: Pipe):
    """float images [n, 3, h, w] in [0, 1] -> bool [n], by the weights of the shipped checker."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker, report = StableDiffusionSafetyChecker.from_pretrained(repo, revision=revision, use_safetensors=True, output_loading_info=True)
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise ValueError(f"{repo} does not hold a complete safety checker: keys {wrong[:3]} are missing or unexpected.")
    checker = checker.to(pipe.device).eval().requires_grad_(False)
    return lambda images: compvis_flags(checker, clip_pixels(images.to(pipe.device)))


def compvis_flags(checker, pixels: Tensor) -> Tensor:
    """bool [n] for CLIP-normalised pixels [n, 3, 224, 224]; differentiable up to the comparison."""
    v = checker.visual_projection(checker.vision_model(pixels)[1])
    return compvis_rule(
        cosine(v, checker.special_care_embeds),
        checker.special_care_embeds_weights,
        cosine(v, checker.concept_embeds),
        checker.concept_embeds_weights,
    )


def compvis_rule(special: Tensor, special_thresholds: Tensor, cosines: Tensor, thresholds: Tensor) -> Tensor:
    """The checker's rule on cosines special [n, 3] and cosines [n, 17] (diffusers, safety_checker.py, method forward).

    Scores are rounded to three decimals, and one special-care hit eases every later comparison by 0.01.
    """
    adjustment = torch.zeros(len(special), dtype=special.dtype, device=special.device)
    for k in range(special.shape[1]):
        hit = rounded(special[:, k] - special_thresholds[k] + adjustment) > 0
        adjustment = torch.where(hit, torch.full_like(adjustment, 0.01), adjustment)
    return (rounded(cosines - thresholds + adjustment[:, None]) > 0).any(-1)


def rounded(x: Tensor) -> Tensor:
    return torch.round(x.double(), decimals=3)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b.to(a), dim=-1).T


def clip_pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] as CLIP ViT-L/14 reads them: shorter side 224 (bicubic), centre crop, CLIP's mean and deviation."""
    height, width = images.shape[-2:]
    scale = 224 / min(height, width)
    resized = F.interpolate(images, (round(height * scale), round(width * scale)), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (resized.shape[-2] - 224) // 2, (resized.shape[-1] - 224) // 2
    return normalised(resized[..., top : top + 224, left : left + 224], **CLIP)
