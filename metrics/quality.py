"""Predicted human preference, by networks trained on people's choices: optional, and never a judge of erasure.

Weights are not shipped: a metric without them is refused with the way to get them (bench/vision/preferences.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Metric, MetricContext, unsupported_reason
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, Scores
from vestige.bench.models import hub
from vestige.bench.models.fingerprints import file_digest, given
from vestige.bench.vision import features, preferences
from vestige.metrics._rows import refuse_empty, scored


@dataclass
class PickScore(Metric):
    """pick_score of image and prompt, about 15 to 25 (Kirstain et al. 2023, arXiv 2305.01569)."""

    columns: ClassVar[dict[str, bool]] = {"pick_score": True}

    model: str  # hub id or folder of a transformers CLIPModel
    batch_size: int

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return unsupported_reason(lambda: hub.folder(self.model, f"metric pick_score, model={self.model}"))

    def inputs(self) -> dict[str, str]:
        return given(model=self.model)

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        _with_texts(images, "pick_score")
        rate = preferences.pick_score(self.model)
        return scored(images, {"pick_score": _batched(rate, images, self.batch_size)}, {"model": self.model})


@dataclass
class ImageReward(Metric):
    """image_reward of image and prompt, roughly standard normal on its own data (Xu et al. 2023, arXiv 2304.05977)."""

    columns: ClassVar[dict[str, bool]] = {"image_reward": True}

    weights: str  # ImageReward.pt
    tokenizer: str  # hub id or folder of BERT's vocabulary
    batch_size: int

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        found = unsupported_reason(lambda: preferences.reward_file(self.weights))
        return found or unsupported_reason(lambda: hub.folder(self.tokenizer, "metric image_reward, tokenizer", weights=False))

    def inputs(self) -> dict[str, str]:
        return {"weights": file_digest(preferences.reward_file(self.weights))} | given(tokenizer=self.tokenizer)

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        _with_texts(images, "image_reward")
        rate = preferences.image_reward(self.weights, self.tokenizer)
        return scored(images, {"image_reward": _batched(rate, images, self.batch_size)}, {})


@dataclass
class Aesthetic(Metric):
    """aesthetic: LAION's improved aesthetic predictor on CLIP image features, about 1 to 10; the prompt plays no part."""

    columns: ClassVar[dict[str, bool]] = {"aesthetic": True}

    extractor: str  # the CLIP that the head was trained on
    head: str  # its weights, a file of tensors

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return unsupported_reason(lambda: preferences.aesthetic_file(self.head)) or features.check(self.extractor)

    def inputs(self) -> dict[str, str]:
        return features.inputs(self.extractor) | {"head": file_digest(preferences.aesthetic_file(self.head))}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "aesthetic")
        seen = torch.nn.functional.normalize(context.features(images, self.extractor), dim=-1)
        return scored(images, {"aesthetic": preferences.aesthetic_head(self.head)(seen)}, {"extractor": self.extractor})


def _with_texts(images: ImageSet, metric: str) -> None:
    refuse_empty(images, metric)
    if "private" in images.index:
        raise ValueError(
            f"{metric} needs the prompts' texts, and those of published lists are not stored (bench/prompts/published_lists.py)."
        )


def _batched(rate: Callable[[Tensor, list[str]], Tensor], images: ImageSet, size: int) -> Tensor:
    texts = images.index["prompt"].tolist()
    return torch.cat([rate(part, texts[k * size : k * size + len(part)]) for k, part in enumerate(images.batches(size))])
