"""Learns a new word on the erased model until the word brings the erased concept back; no weight is touched.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models" (ICLR 2024), arXiv 2308.01508;
NYU-DICE-Lab/circumventing-concept-erasure@bb7034b. The word is a vector, so nobody can type it: read the result as access
to the embedding layer. For methods that change the sampling, the defended guided prediction under the new word is fitted
to the undefended guided prediction of the concept. Differs from the code: the warm-up of a sampling defence follows the
diffusion step (theirs the training step), and the word lives outside the embedding table, so no other row can move.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.attacks.defended import defended
from vestige.attacks.training_images import TrainingImages, check_source, concept_images, unsupported_source
from vestige.attacks.wording import concept_of, instead, named_as
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.diffusion import guided
from vestige.bench.models.pipe import Pipe


@dataclass
class Circumventing(Attack):
    """Artefact: one tensor per concept, "<slug>": [vectors, width] token embeddings without positions."""

    vectors: int
    initialiser: str
    templates: list[str]  # with {name}; the images are drawn from them
    captions: str  # own: an image keeps its template; any: a template by chance, as in textual inversion
    images: int
    source: str  # what the training images show: see attacks/training_images.py; anything but target is a control
    steps: int
    batch: int
    accumulation: int
    lr: float
    scale_lr: bool  # multiply lr by batch * accumulation
    weight_decay: float
    flip: float
    target_text: str  # concept or caption: what the undefended target is asked for (sampling methods only)
    chain: int  # timesteps a stateful guidance rule runs before its last output is fitted (sampling methods only)
    chain_range: int  # they lie within so many training timesteps

    access: ClassVar[str] = "embedding"
    needs: ClassVar[tuple[str, ...]] = ("draw", "words", "states")
    quick: ClassVar[dict] = {"images": 2, "steps": 2, "batch": 2, "accumulation": 1}

    def __post_init__(self) -> None:
        for key, allowed in (("captions", ("own", "any")), ("target_text", ("concept", "caption"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"attack.circumventing.{key}={getattr(self, key)!r} is not known. Allowed: {', '.join(allowed)}.")
        check_source("circumventing", self.source)
        if not 1 <= self.chain <= self.chain_range:
            raise ValueError(f"attack.circumventing.chain={self.chain} must be between 1 and chain_range={self.chain_range}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    @property
    def effective_lr(self) -> float:
        return self.lr * self.batch * self.accumulation if self.scale_lr else self.lr

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        words = {concept.slug: self.learn(victim, concept, ctx) for concept in victim.concepts}
        asked = [_with_placeholder(row, victim.concepts) for row in prompts.table.to_dict("records")]
        tokens = len(victim.pipe.text.token_ids(self.initialiser))
        return Adversary(prompts.with_prompts(asked), words, {"effective_lr": self.effective_lr, "initialiser_tokens": tokens})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return pipe.with_learned_tokens({placeholder(slug): word for slug, word in adversary.tensors.items()})

    def learn(self, victim: Victim, concept: Concept, ctx: Context) -> Tensor:
        """The word (vectors, width) that makes the erased model denoise images of the concept."""
        pipe, name = victim.pipe, placeholder(concept.slug)
        training_images = concept_images(ctx, self.templates, [concept], self.images, self.source)
        generator = ctx.generator(f"circumventing {concept.slug}")
        word = self.initial(pipe).requires_grad_(True)
        optimiser = torch.optim.AdamW([word], lr=self.effective_lr, weight_decay=self.weight_decay)
        loss_of = self.guided_loss if victim.method.intervention == "sampling" else self.denoising_loss
        for step in ctx.resumable(concept.slug, range(self.steps), word=word, optimiser=optimiser, generator=generator):
            total = 0.0
            for _ in range(self.accumulation):
                with pipe.with_learned_tokens({name: word}):
                    loss = loss_of(victim, concept, training_images, generator) / self.accumulation
                loss.backward()
                total += loss.item()
            optimiser.step()
            optimiser.zero_grad()
            ctx.log(step, loss=total)
        return word.detach()

    def initial(self, pipe: Pipe) -> Tensor:
        """The initialiser's token embedding, in fp32; the mean of its tokens where the vocabulary splits it."""
        ids = pipe.text.token_ids(self.initialiser)
        mean = pipe.text.embedding_table()[ids].float().mean(0)
        return mean.detach().repeat(self.vectors, 1)

    def denoising_loss(self, victim: Victim, concept: Concept, training_images: TrainingImages, generator: torch.Generator) -> Tensor:
        """Textual inversion on the erased denoiser: ||eps - eps_er(x_t, t, c(v))||^2."""
        pipe, places = victim.pipe, training_images.draw(self.batch, generator)
        x0, noise = self.noised(pipe, training_images, places, generator)
        t = torch.randint(pipe.scheduler.config.num_train_timesteps, (self.batch,), generator=generator).to(pipe.device)
        cond = pipe.encode(self.captioned(training_images, places, placeholder(concept.slug), generator))
        return F.mse_loss(pipe.predict(pipe.process.add_noise(x0, noise, t), t, cond).float(), pipe.process.target(x0, noise, t).float())

    def guided_loss(self, victim: Victim, concept: Concept, training_images: TrainingImages, generator: torch.Generator) -> Tensor:
        """Defended guidance under the word against undefended guidance under the concept; one t chain for the batch.

        Student (paper, negative prompt): eps_n + w (eps_v - eps_n), here whatever rule the method samples by.
        Target: eps_0 + w (eps_n - eps_0).
        """
        pipe, sampler = victim.pipe, victim.sampler
        places = training_images.draw(self.batch, generator)
        x0, noise = self.noised(pipe, training_images, places, generator)
        cond = pipe.encode(self.captioned(training_images, places, placeholder(concept.slug), generator))
        rule = pipe.guidance()
        with torch.no_grad():
            null = pipe.null(self.batch)
        for t in self.timesteps(pipe, generator):
            x_t = pipe.process.add_noise(x0, noise, t.expand(self.batch))
            student = defended(pipe, x_t, t, cond, null, sampler.guidance, sampler.steps, rule)
        with torch.no_grad():
            truth = [concept.name if self.target_text == "concept" else training_images.caption(place) for place in places]
            target = guided(pipe, x_t, t, pipe.encode(truth), null, sampler.guidance)
        return F.mse_loss(student.float(), target.float())

    def timesteps(self, pipe: Pipe, generator: torch.Generator) -> Tensor:
        """`chain` distinct timesteps in [n - chain_range, n), descending, for a random n."""
        length = pipe.scheduler.config.num_train_timesteps
        n = int(torch.randint(self.chain_range, length + 1, (1,), generator=generator))
        drawn = n - 1 - torch.randperm(self.chain_range, generator=generator)[: self.chain]
        return drawn.sort(descending=True).values.to(pipe.device)

    def captioned(self, training_images: TrainingImages, places: list[int], name: str, generator: torch.Generator) -> list[str]:
        if self.captions == "own":
            return [training_images.caption(place, name) for place in places]
        chosen = torch.randint(len(self.templates), (len(places),), generator=generator).tolist()
        return [self.templates[k].format(name=name) for k in chosen]

    def noised(self, pipe: Pipe, training_images: TrainingImages, places: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean latents and the noise to add to them, both (batch, channels, h, w)."""
        x0 = training_images.latents(pipe, places, self.flip, generator)
        return x0, torch.randn(x0.shape, generator=generator).to(x0)


def placeholder(slug: str) -> str:
    return f"<{slug}>"


def _with_placeholder(row: dict, concepts: list[Concept]) -> str:
    """The prompt with the word in place of the concept's name, or before a prompt that never names it."""
    concept = concept_of(row, concepts) or concepts[0]
    name = named_as(row["prompt"], concept)
    if name is None:
        return f"{placeholder(concept.slug)} {row['prompt']}"
    return instead(row["prompt"], name, placeholder(concept.slug))
