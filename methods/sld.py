"""Steer away from a safety text in every sampling step, but only where the image is drifting towards it.

SLD, Schramowski et al., "Safe Latent Diffusion", CVPR 2023 (arXiv 2211.05105); ml-research/safe-latent-diffusion@a42923c
and diffusers' StableDiffusionPipelineSafe, which the tests compare with. Changes no weight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure
from vestige.bench.models.conditioning import OTHER, Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step, classifier_free


@dataclass
class SLD(Method):
    """Artefact: no tensors; the safety text in meta."""

    version: ClassVar[int] = 2
    evidence: ClassVar[tuple[str, ...]] = (
        "ml-research/safe-latent-diffusion@a42923c: latents equal for its four settings; images under PNDM as diffusers' class",
    )
    intervention: ClassVar[str] = "sampling"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs")
    detachable: ClassVar[bool] = True

    text: str  # per concept; {name} is its name. Several concepts are joined by ", "
    warmup: int  # delta: denoiser calls without steering
    warmup_schedule: int | None  # the schedule length `warmup` counts on; null: `warmup` is taken as it is
    scale: float  # s_S
    threshold: float  # lambda
    momentum_scale: float  # s_m
    momentum_beta: float  # beta_m

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        return Erasure({}, {"safety_text": ", ".join(self.text.format(name=concept.name) for concept in concepts)})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        text = erasure.meta["safety_text"]

        def factory():
            plain, safety, momentum = classifier_free(), pipe.encode([text]).detach(), None

            def rule(step: Step) -> Tensor:
                nonlocal momentum
                if step.scale <= 1:
                    return plain(step)
                e_null, e_cond, e_safety = predict_three(step, safety)
                momentum = torch.zeros_like(e_null, dtype=torch.float32) if momentum is None else momentum
                steering, momentum = self.steering(e_null, e_cond, e_safety, momentum)
                guidance = e_cond - e_null
                if step.index >= self.warmup_calls(step.total if step.steps is None else step.steps):
                    guidance = guidance - steering.to(guidance)
                return e_null + step.scale * guidance

            return rule

        with pipe.guided_by(factory):
            yield pipe

    def warmup_calls(self, steps: int) -> float:
        """steps: asked of the sampler, not the calls its scheduler makes of them, which differ by one for PNDM."""
        return self.warmup if self.warmup_schedule is None else self.warmup * steps / self.warmup_schedule

    def steering(self, e_null: Tensor, e_cond: Tensor, e_safety: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """(gamma, next momentum), both float32; eqs. 4 to 8 of the paper, all tensors (batch, channels, h, w).

        The paper prints max(1, phi) in eq. 6; both code bases clamp at most one. In float32 because half precision rounds
        small differences to zero before the scale, up to 5000, is applied.
        """
        e_null, e_cond, e_safety = e_null.float(), e_cond.float(), e_safety.float()
        apart = e_cond - e_safety
        strength = torch.where(apart < self.threshold, (self.scale * apart).abs().clamp(max=1.0), torch.zeros_like(apart))
        gamma = strength * (e_safety - e_null) + self.momentum_scale * momentum
        return gamma, self.momentum_beta * momentum + (1 - self.momentum_beta) * gamma


def predict_three(step: Step, safety: Conditioning) -> tuple[Tensor, Tensor, Tensor]:
    """(unconditional, conditional, safety) predictions of one sampling step from one denoiser call."""
    serving = replace(safety.repeat(len(step.x)).as_branch(OTHER), owner=step.cond.owner)
    e_null, e_cond, e_safety = step.predict([step.null.serving(step.cond), step.cond, serving])
    return e_null, e_cond, e_safety
