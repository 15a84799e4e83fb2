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

from vestige.attacks.defended import defended, unsupported_defence
from vestige.attacks.training_images import TrainingImages, check_source, concept_images, unsupported_source
from vestige.attacks.wording import concept_of, instead, named_as
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.diffusion import guided
from vestige.bench.models.pipe import Pipe


@dataclass
class Circumventing(Attack):
    """Artefact: "<slug>" of each concept, [vectors, width] token embeddings without positions, of the first text encoder; those of
    further ones are "<slug>.<encoder>"."""

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
    chain: int  # levels a stateful guidance rule runs through before its last output is fitted (sampling methods only)
    chain_range: int  # they lie within so many neighbouring timesteps; on a flow, parts of its training of equal share

    access: ClassVar[str] = "embedding"
    needs: ClassVar[tuple[str, ...]] = ("draw", "loss", "words")
    quick: ClassVar[dict] = {"images": 2, "steps": 2, "batch": 2, "accumulation": 1}

    def __post_init__(self) -> None:
        for key, allowed in (("captions", ("own", "any")), ("target_text", ("concept", "caption"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"attack.circumventing.{key}={getattr(self, key)!r} is not known. Allowed: {', '.join(allowed)}.")
        check_source("circumventing", self.source)
        if not 1 <= self.chain <= self.chain_range:
            raise ValueError(f"attack.circumventing.chain={self.chain} must be between 1 and chain_range={self.chain_range}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        reason = unsupported_source(self.source, concepts) or unsupported_defence(model, method)
        return reason or super().supports(model, concepts, method)

    @property
    def effective_lr(self) -> float:
        return self.lr * self.batch * self.accumulation if self.scale_lr else self.lr

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        tensors: dict[str, Tensor] = {}
        for concept in victim.concepts:
            first, *further = self.learn(victim, concept, ctx).items()
            tensors |= {concept.slug: first[1]} | {f"{concept.slug}.{encoder}": rows for encoder, rows in further}
        asked = [_with_placeholder(row, victim.concepts) for row in prompts.table.to_dict("records")]
        tokens = len(victim.pipe.text.token_ids(self.initialiser))
        return Adversary(prompts.with_prompts(asked), tensors, {"effective_lr": self.effective_lr, "initialiser_tokens": tokens})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        words: dict[str, dict[str, Tensor]] = {}  # placeholder -> encoder -> rows
        for name, rows in adversary.tensors.items():
            slug, _, encoder = name.partition(".")
            words.setdefault(placeholder(slug), {})[encoder or pipe.text.readers[0].name] = rows
        return pipe.with_learned_tokens(dict(words))

    def learn(self, victim: Victim, concept: Concept, ctx: Context) -> dict[str, Tensor]:
        """The word that makes the erased model denoise images of the concept: rows (vectors, width) of each text encoder."""
        pipe, name = victim.pipe, placeholder(concept.slug)
        training_images = concept_images(ctx, self.templates, [concept], self.images, self.source)
        generator = ctx.generator(f"circumventing {concept.slug}")
        word = {encoder: rows.requires_grad_(True) for encoder, rows in self.initial(pipe).items()}
        optimiser = torch.optim.AdamW(word.values(), lr=self.effective_lr, weight_decay=self.weight_decay)
        loss_of = self.guided_loss if victim.method.intervention == "sampling" else self.training_loss
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
        return {encoder: rows.detach() for encoder, rows in word.items()}

    def initial(self, pipe: Pipe) -> dict[str, Tensor]:
        """Of each encoder the initialiser's token embedding, in fp32; the mean of its tokens where the vocabulary splits it."""
        means = {r.name: r.table[r.token_ids(self.initialiser)].float().mean(0) for r in pipe.text.readers}
        return {encoder: mean.detach().repeat(self.vectors, 1) for encoder, mean in means.items()}

    def training_loss(self, victim: Victim, concept: Concept, training_images: TrainingImages, generator: torch.Generator) -> Tensor:
        """Textual inversion on the erased model: its own training loss under captions that hold the word."""
        pipe, places = victim.pipe, training_images.draw(self.batch, generator)
        x0 = training_images.latents(pipe, places, self.flip, generator)
        at = pipe.corruption(x0, generator)
        cond = pipe.encode(self.captioned(training_images, places, placeholder(concept.slug), generator))
        return pipe.loss(x0, cond, at).mean()

    def guided_loss(self, victim: Victim, concept: Concept, training_images: TrainingImages, generator: torch.Generator) -> Tensor:
        """Defended guidance under the word against undefended guidance under the concept; one chain of levels for the batch.

        Student (paper, negative prompt): eps_n + w (eps_v - eps_n), here whatever rule the method samples by.
        Target: eps_0 + w (eps_n - eps_0).
        """
        pipe, sampler = victim.pipe, victim.sampler
        places = training_images.draw(self.batch, generator)
        x0 = training_images.latents(pipe, places, self.flip, generator)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        cond = pipe.encode(self.captioned(training_images, places, placeholder(concept.slug), generator))
        rule = pipe.guidance()
        with torch.no_grad():
            null = pipe.null(self.batch)
        for level in self.levels(pipe, generator):
            x_t = pipe.process.add_noise(x0, noise, level.expand(self.batch))
            student = defended(pipe, x_t, level, cond, null, sampler.guidance, sampler.steps, rule)
        with torch.no_grad():
            truth = [concept.name if self.target_text == "concept" else training_images.caption(place) for place in places]
            target = guided(pipe, x_t, level, pipe.encode(truth), null, sampler.guidance)
        return F.mse_loss(student.float(), target.float())

    def levels(self, pipe: Pipe, generator: torch.Generator) -> Tensor:
        """`chain` distinct levels, descending, from parts [n - chain_range, n) of the training distribution, for a random n."""
        length = pipe.process.length
        n = int(torch.randint(self.chain_range, length + 1, (1,), generator=generator))
        drawn = n - 1 - torch.randperm(self.chain_range, generator=generator)[: self.chain]
        parts = drawn.sort(descending=True).values.tolist()
        return torch.stack([pipe.process.level_at((part + 0.5) / length) for part in parts]).to(pipe.device)

    def captioned(self, training_images: TrainingImages, places: list[int], name: str, generator: torch.Generator) -> list[str]:
        if self.captions == "own":
            return [training_images.caption(place, name) for place in places]
        chosen = torch.randint(len(self.templates), (len(places),), generator=generator).tolist()
        return [self.templates[k].format(name=name) for k in chosen]


def placeholder(slug: str) -> str:
    return f"<{slug}>"


def _with_placeholder(row: dict, concepts: list[Concept]) -> str:
    """The prompt with the word in place of the concept's name, or before a prompt that never names it."""
    concept = concept_of(row, concepts) or concepts[0]
    name = named_as(row["prompt"], concept)
    if name is None:
        return f"{placeholder(concept.slug)} {row['prompt']}"
    return instead(row["prompt"], name, placeholder(concept.slug))
