"""Fine-tunes the erased model for a few steps and asks again: does the concept come back?

After Meta-Unlearning (arXiv 2410.12777) and ResAlign (arXiv 2507.16302; AntigoneRandy/ResAlign@14775d3). With data=target
the attacker owns pictures of the concept; with data=unrelated an honest user trains on other things, and what comes back
was only hidden. The text encoder stays as the erasure left it. With data=target any model learns anything in enough steps:
compare with the same attack on a concept the model never knew.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.material import Material, original_pictures
from bench.diffusion import add_noise, choose_parameters, make_trainable, training_target
from bench.pipe import Pipe
from bench.plugin import Attack, Context, Method, Victim
from bench.types import Adversary, Concept, ModelSpec, PromptSet

TUNED = {"full_unet": r".", "xattn": r"attn2\."}


@dataclass
class Relearning(Attack):
    """Artefact: the tuned denoiser parameters by name; prompts stay as they are."""

    data: str  # target: pictures of the concept; unrelated: of its `others`
    tuner: str  # full_unet or xattn
    templates: list[str]  # with {name}
    images: int  # per concept
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
        for key, allowed in (("data", ("target", "unrelated")), ("tuner", tuple(TUNED))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"attack.relearning.{key}={getattr(self, key)!r} is not known. Allowed: {', '.join(allowed)}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        if method.mechanism in ("sampling", "filter"):
            return f"not applicable: {type(method).__name__} changes no weights ({method.mechanism}), so there is nothing to tune back."
        if model.dtype != "float32":
            return f"relearning needs model.dtype=float32: small steps vanish in {model.dtype}."
        if self.data == "unrelated" and not any(concept.others for concept in concepts):
            return "data=unrelated needs the entry `others` in the concept file: names of unrelated things to train on."
        return super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        pipe = victim.pipe
        material = original_pictures(ctx, self.templates, self.things(victim.concepts), self.images * len(victim.concepts))
        chosen = choose_parameters(pipe.unet, TUNED[self.tuner])
        optimiser = torch.optim.AdamW(make_trainable(chosen), lr=self.lr, weight_decay=self.weight_decay)
        generator = ctx.generator("relearning")
        for step in range(self.steps):
            total = 0.0
            for _ in range(self.accumulation):
                loss = self.loss(pipe, material, generator) / self.accumulation
                loss.backward()
                total += loss.item()
            optimiser.step()
            optimiser.zero_grad()
            ctx.log(step, loss=total, pictures_seen=(step + 1) * self.batch * self.accumulation)
        tuned = {f"{pipe.denoiser_name}.{name}": parameter.detach().clone() for name, parameter in chosen.items()}
        return Adversary(prompts, tuned, {"pictures_seen": self.steps * self.batch * self.accumulation})

    def things(self, concepts: list[Concept]) -> list[str]:
        if self.data == "target":
            return [concept.name for concept in concepts]
        erased = {concept.name for concept in concepts}
        return sorted({other for concept in concepts for other in concept.others} - erased)

    def loss(self, pipe: Pipe, material: Material, generator: torch.Generator) -> Tensor:
        """||eps - eps_theta(x_t, t, c)||^2 with uniform t; some captions are dropped, as in the model's own training."""
        places = material.draw(self.batch, generator)
        x0 = material.latents(pipe, places, self.flip, generator)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        t = torch.randint(pipe.scheduler.config.num_train_timesteps, (self.batch,), generator=generator).to(pipe.device)
        dropped = torch.rand(self.batch, generator=generator) < self.caption_dropout
        captions = ["" if drop else material.caption(place) for place, drop in zip(places, dropped.tolist(), strict=True)]
        with torch.no_grad():
            cond = pipe.encode(captions)
        return F.mse_loss(pipe.predict(add_noise(pipe, x0, noise, t), t, cond).float(), training_target(pipe, x0, noise, t).float())
