"""Fine-tunes the erased model for a few steps and asks again: does the concept come back?

After Meta-Unlearning (arXiv 2410.12777) and ResAlign (arXiv 2507.16302; AntigoneRandy/ResAlign@14775d3). With data=target
the attacker owns images of the concept; with data=unrelated an honest user trains on other things, and what comes back
was only hidden. The parts of the model that the erasure changed are trained, text encoders too, and no others. With
data=target any model learns anything in enough steps: compare with source=never_knew and with the same attack on a model that
never saw the concept.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vestige.attacks._finetune import fine_tune, new_lora, training_loss, with_lora
from vestige.attacks.training_images import TrainingImages, check_source, concept_images, original_images, unsupported_source
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.diffusion import make_trainable
from vestige.bench.models.pipe import Pipe

TUNERS = {"full_unet": (), "xattn": ("text_attention",), "lora": ("attention",)}  # and the weight groups they need


@dataclass
class Relearning(Attack):
    """Artefact: the tuned parameters by name, or adapters (see `new_lora`); prompts stay as they are."""

    data: str  # target: images of the concept; unrelated: of its `others`
    tuner: str  # full_unet: all weights of the changed parts; xattn: of the denoiser only what reads the text; lora: adapters
    rank: int  # of lora
    templates: list[str]  # with {name}
    images: int  # per concept
    source: str  # data=target: what the images show, see attacks/training_images.py; anything but target is a control
    steps: int
    batch: int
    accumulation: int
    lr: float
    weight_decay: float
    caption_dropout: float
    flip: float

    access: ClassVar[str] = "weights"
    quick: ClassVar[dict] = {"images": 2, "steps": 2, "batch": 2, "accumulation": 1}

    def __post_init__(self) -> None:
        for key, allowed in (("data", ("target", "unrelated")), ("tuner", tuple(TUNERS))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"attack.relearning.{key}={getattr(self, key)!r} is not known. Allowed: {', '.join(allowed)}.")
        check_source("relearning", self.source)
        if self.data == "unrelated" and self.source != "target":
            raise ValueError(f"attack.relearning.source={self.source} is a control of data=target; data=unrelated is one itself.")
        if self.rank < 1:
            raise ValueError(f"attack.relearning.rank={self.rank} must be at least 1.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return ("draw", "loss", *TUNERS[self.tuner])

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        if method.intervention in ("sampling", "filter"):
            return f"not applicable: {type(method).__name__} changes no weights ({method.intervention}), so there is nothing to tune back."
        if model.dtype != "float32":
            return f"relearning needs model.dtype=float32: small steps vanish in {model.dtype}."
        if self.data == "unrelated" and not any(concept.others for concept in concepts):
            return "data=unrelated needs the entry `others` in the concept file: names of unrelated things to train on."
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        pipe, generator = victim.pipe, ctx.generator("relearning")
        training_images = self.training_images(victim.concepts, ctx)
        parts = tuned_parts(victim)
        if self.tuner == "lora":
            tuned = new_lora(pipe, parts, self.rank, ctx.generator("adapters"))
            adapted: AbstractContextManager = with_lora(pipe, tuned)
        else:
            tuned, adapted = self.weights(pipe, parts), nullcontext()
        numbers = {key: getattr(self, key) for key in ("steps", "accumulation", "lr", "weight_decay")}
        with adapted:
            fine_tune(make_trainable(tuned), lambda: self.loss(pipe, training_images, generator), generator, ctx, **numbers)
        tensors = {name: parameter.detach().clone() for name, parameter in tuned.items()}
        return Adversary(prompts, tensors, {"images_seen": self.steps * self.batch * self.accumulation})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return with_lora(pipe, adversary.tensors) if self.tuner == "lora" else super().attach(pipe, adversary)

    def weights(self, pipe: Pipe, parts: list[str]) -> dict[str, nn.Parameter]:
        """The weights to train, by "<part>.<parameter>"."""
        chosen = {part: dict(pipe.parts[part].named_parameters()) for part in parts}
        if self.tuner == "xattn" and pipe.denoiser_name in chosen:
            chosen[pipe.denoiser_name] = pipe.group("text_attention")
        return {f"{part}.{name}": parameter for part, named in chosen.items() for name, parameter in named.items()}

    def training_images(self, concepts: list[Concept], ctx: Context) -> TrainingImages:
        n = self.images * len(concepts)
        if self.data == "target":
            return concept_images(ctx, self.templates, concepts, n, self.source)
        return original_images(ctx, self.templates, self.unrelated_things(concepts), n)

    def unrelated_things(self, concepts: list[Concept]) -> list[str]:
        erased = {concept.name for concept in concepts}
        return sorted({other for concept in concepts for other in concept.others} - erased)

    def loss(self, pipe: Pipe, training_images: TrainingImages, generator: torch.Generator) -> Tensor:
        return training_loss(pipe, training_images, self.batch, generator, self.flip, self.caption_dropout)


def tuned_parts(victim: Victim) -> list[str]:
    """Of the denoiser and the text encoders those that the erasure changed; without any the denoiser."""
    pipe = victim.pipe
    known = dict.fromkeys((pipe.denoiser_name, *pipe.family.encoders))
    return [part for part in known if part in victim.touched] or [pipe.denoiser_name]
