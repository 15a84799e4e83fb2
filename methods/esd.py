"""Train the model to do the opposite of what the concept's words ask for, using only those words.

ESD, Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023 (arXiv 2303.07345); official code
rohitgandikota/erasing@a2189e9 (produced the paper) and @25613d2 (the later release). A frozen copy of the denoiser gives the
direction from "no words" to the concept; the trained copy learns to predict the other way when it reads the concept.

Two forms of the target (eq. 7 of the paper), both with eta in the paper's sense (the release's flag is eta + 1):
  paper     y = e_null - eta (e_c - e_null)
  released  y = e_from - (eta + 1) (e_c - e_null), with `erase_from` the prompt that loses the concept; equal for erase_from=null
Both are affine combinations of the frozen predictions, so they hold for models that predict a velocity as well.

Training latents are DDIM's in both forms, as in the paper's code. The release draws them with the model's own scheduler (PNDM
for Stable Diffusion 1), which moves them by 3 to 7 %.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import frozen_copy, make_trainable, partial_denoise, unaligned
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles

# train -> weights by their role, the first without the others. Of Stable Diffusion's time layers, only the top-level ones are "ends".
GROUPS: dict[str, tuple[str, ...]] = {
    "xattn": ("text_attention",),
    "xattn_strict": ("text_kv",),
    "noxattn": ("all", "text_attention", "ends"),
    "noxattn_released": ("esd_release",),
    "selfattn": ("image_self",),
    "notime": ("all", "ends"),
    "full": ("all",),
}
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class ESD(Method):
    """Edits denoiser weights in place. Artefact: "<denoiser>.<parameter>", full new values of the trained tensors."""

    evidence: ClassVar[tuple[str, ...]] = (
        "rohitgandikota/erasing@a2189e9: latents to 3e-6; losses, gradients and trained parameters equal",
        "rohitgandikota/erasing@25613d2: equal with latents of DDIM; its own come from the model's scheduler",
    )
    quick: ClassVar[dict] = {"iterations": 2, "bins": 4, "lr": 1e-3}

    train: str  # which weights: one of GROUPS
    prompt: str  # what the concept is called in training; {name} is its name
    form: str  # paper or released
    erase_from: str | None  # released form only: the prompt that loses the concept; null: the concept's own prompt
    eta: float  # strength, paper convention
    sampling: str  # who makes the noisy latents: student (paper) or frozen (release)
    start_guidance: float  # classifier-free guidance scale while making them
    timestep_alignment: str  # legacy or exact, see `partial_denoise`
    bins: int  # DDIM steps that cover the whole noise range
    iterations: int
    batch: int  # latents per iteration; they share one timestep
    optimiser: str  # adam or adamw
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        allowed = {
            "train": tuple(GROUPS),
            "form": ("paper", "released"),
            "sampling": ("student", "frozen"),
            "timestep_alignment": ("legacy", "exact"),
            "optimiser": tuple(OPTIMISERS),
        }
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(f"method.{field}={getattr(self, field)!r} is not known. Allowed: {', '.join(values)}.")
        if self.erase_from is not None and self.form == "paper":
            raise ValueError("method.erase_from is defined for method.form=released only; set that, or method.erase_from=null.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return ("levels", *GROUPS[self.train])

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if model.dtype != "float32":
            return f"ESD trains float32 weights (steps of {self.lr:g} vanish in {model.dtype}): set model.dtype=float32."
        return unaligned(model, self.timestep_alignment) or super().supports(model, concepts)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        generator = ctx.generator("training")
        chosen = trained_parameters(pipe, self.train)
        frozen = frozen_copy(pipe.denoiser, chosen.values())
        optimiser = OPTIMISERS[self.optimiser](make_trainable(chosen), lr=self.lr, weight_decay=self.weight_decay)
        with torch.no_grad():
            asked = pipe.encode([with_articles(self.prompt.format(name=concept.name)) for concept in concepts])
            # The empty prompt also for SDXL, whose sampling uses zeros: the official code encodes it here.
            null = pipe.encode([""] * self.batch)
            source = None if self.erase_from is None else pipe.encode([self.erase_from] * self.batch)
        state = {"weights": chosen, "optimiser": optimiser, "generator": generator}
        for step in ctx.resumable("training", range(self.iterations), **state):
            c = asked.rows(torch.randint(len(concepts), (self.batch,), generator=generator))
            bin = int(torch.randint(self.bins, (1,), generator=generator))
            x, t = partial_denoise(
                pipe,
                c,
                bin=bin,
                bins=self.bins,
                guidance=self.start_guidance,
                alignment=self.timestep_alignment,
                generator=generator,
                module=frozen if self.sampling == "frozen" else None,
            )
            loss = self.loss(pipe, frozen, x, t, c, null, c if source is None else source)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            ctx.log(step, loss=loss.item(), t=t.item())
        meta = {"train": self.train, "tensors": len(chosen), "parameters": sum(p.numel() for p in chosen.values())}
        return Erasure({f"{pipe.denoiser_name}.{name}": p.detach().clone() for name, p in chosen.items()}, meta)

    def loss(
        self, pipe: Pipe, frozen: nn.Module, x: Tensor, t: Tensor, c: Conditioning, null: Conditioning, source: Conditioning
    ) -> Tensor:
        """Mean squared distance of the student's prediction for `source` (normally c itself) from the target."""
        with torch.no_grad():
            e_null, e_c = pipe.predict(x, t, null, frozen), pipe.predict(x, t, c, frozen)
            if self.form == "paper":
                y = e_null - self.eta * (e_c - e_null)
            else:
                e_from = e_c if source is c else pipe.predict(x, t, source, frozen)
                y = e_from - (self.eta + 1) * (e_c - e_null)
        return mse_loss(pipe.predict(x, t, source), y)


def trained_parameters(pipe: Pipe, train: str) -> dict[str, nn.Parameter]:
    """Parameters by name. On Stable Diffusion 1.x: xattn 80 tensors, noxattn 598, noxattn_released 388."""
    role, *without = GROUPS[train]
    left_out = {name for group in without for name in pipe.group(group)}
    if train == "noxattn_released":  # weights and biases of linear and convolution layers, so no norm
        left_out = {name for name in pipe.group(role) if name.rpartition(".")[0] not in pipe.layers(role)}
    return {name: parameter for name, parameter in pipe.group(role).items() if name not in left_out}
