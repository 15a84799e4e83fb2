"""Adds a concept's direction to a prompt's text states and searches the tokens whose states are nearest to the sum.

Ring-A-Bell: Tsai, Hsu et al. (ICLR 2024), arXiv 2310.10012; chiayi-hsu/Ring-A-Bell@e4585ad (InversePrompt.ipynb). Needs the
text encoder alone, never the denoiser: the same texts serve every erased model with that encoder. Differs from the code:
pairs of prompts are written from templates (the concept's name against its anchor) instead of given; rows are independent.
`RingABellSoft` is the variant of CharlesGong12/RECE@403a67f, which hands the sum itself to the model: no text can type it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestige.attacks._rows import check_ask, with_prompt_embeddings, worded
from vestige.attacks._tokens import allowed_tokens, laid_out, unsupported_text, with_tokens
from vestige.attacks.wording import concept_of
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, derived_seed
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.text import TextSide
from vestige.bench.prompts.prompt_sets import with_articles

ENCODERS = ("original", "erased")
KEPT = ("last", "best")


@dataclass
class _Bell(Attack):
    """What both forms share: the direction and the states to be met."""

    pairs: list[str]  # templates with {name}: filled with the concept's names and with its anchor
    eta: float
    ask: str  # the text the direction is added to: {prompt}, or {anchored} with the anchor in place of the name
    encoder: str  # original: the public one, as in the paper; erased: the victim's own

    needs: ClassVar[tuple[str, ...]] = ("draw", "words", "states")
    queries_denoiser: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ask("attack.ring_a_bell.ask", self.ask)
        if self.encoder not in ENCODERS:
            raise ValueError(f"attack.ring_a_bell.encoder={self.encoder!r} is not known. Allowed: {', '.join(ENCODERS)}.")
        if not self.pairs or any("{name}" not in template for template in self.pairs):
            raise ValueError(f"attack.ring_a_bell.pairs={self.pairs} must be templates that hold {{name}}.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_text("ring_a_bell", model) or super().supports(model, concepts, method)

    def transfers(self) -> bool:
        return self.encoder == "original"

    def text(self, victim: Victim, ctx: Context) -> TextSide:
        return (ctx.original() if self.encoder == "original" else victim.pipe).text

    @torch.no_grad()
    def direction(self, text: TextSide, concept: Concept) -> Tensor:
        """(tokens, width): mean over pairs of the states with the concept minus those without. Row 0 (begin) is zero."""
        names = [concept.name, *concept.aliases]
        pairs = [(template.format(name=name), template.format(name=concept.anchor)) for template in self.pairs for name in names]
        one, two = (text.encode([with_articles(t) for t in side]).hidden.float() for side in zip(*pairs, strict=True))
        return (one - two).mean(0)

    @torch.no_grad()
    def goal(self, text: TextSide, victim: Victim, prompts: PromptSet) -> Tensor:
        """(rows, tokens, width): f(P) + eta c."""
        base = text.encode(worded(self.ask, prompts, victim.concepts)).hidden.float()
        concepts = [concept_of(row, victim.concepts) or victim.concepts[0] for row in prompts.table.to_dict("records")]
        directions = {concept.slug: self.direction(text, concept) for concept in concepts}
        return base + self.eta * torch.stack([directions[concept.slug] for concept in concepts])


@dataclass
class RingABellSoft(_Bell):
    """Artefact: "states" [rows, tokens, width], float32."""

    access: ClassVar[str] = "embedding"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "states")

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        return Adversary(prompts, {"states": self.goal(self.text(victim, ctx), victim, prompts)})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return with_prompt_embeddings(pipe, adversary)


@dataclass
class RingABell(_Bell):
    """Columns of the prompts: adv_ids, roundtrip_ok, distance (to the wanted states, relative to those of the bare text)."""

    tokens: int  # K
    population: int
    generations: int
    crossover: float  # chance that a survivor has two children with a random mate
    mutation: float  # chance that an individual changes one token; survivors too
    elitism: bool  # spare the best individual from mutation; official: no
    keep: str  # last: the best of the last generation (official); best: the best ever met
    typeable: bool  # leave out tokens that cannot be printed; official: no

    access: ClassVar[str] = "text"
    quick: ClassVar[dict] = {"tokens": 3, "population": 6, "generations": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep not in KEPT:
            raise ValueError(f"attack.ring_a_bell.keep={self.keep!r} is not known. Allowed: {', '.join(KEPT)}.")
        if self.tokens < 2 or self.population < 2 or self.generations < 0:
            raise ValueError("attack.ring_a_bell needs tokens and population of at least 2 and generations of at least 0.")

    @torch.no_grad()
    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        text = self.text(victim, ctx)
        allowed, goal = allowed_tokens(text, self.typeable), self.goal(text, victim, prompts)
        bare = text.encode(worded(self.ask, prompts, victim.concepts)).hidden.float()
        seeds = [derived_seed(ctx.seed("ring_a_bell"), row_id) for row_id in prompts.table["row_id"]]
        found: list[tuple[list[int], float, int]] = []
        for row in ctx.resumable("rows", range(len(prompts)), found=found):
            found.append(self.search(text, goal[row], allowed, torch.Generator().manual_seed(seeds[row]), ctx, f"row {row}"))
        scale = (goal - bare).square().sum((1, 2)).clamp(min=1e-12)
        distance = [loss / s for (_, loss, _), s in zip(found, scale.tolist(), strict=True)]
        asked = with_tokens(prompts, text, [ids for ids, _, _ in found], distance=distance)
        return Adversary(asked, meta={"encoder_rows": sum(rows for *_, rows in found), "mean_distance": sum(distance) / len(distance)})

    def search(
        self, text: TextSide, wanted: Tensor, allowed: Tensor, generator: torch.Generator, ctx: Context, name: str
    ) -> tuple[list[int], float, int]:
        """(tokens, squared Frobenius distance, texts encoded) for one row; wanted (tokens, width)."""
        people = allowed.cpu()[torch.randint(len(allowed), (self.population, self.tokens), generator=generator)]
        loss = self.losses(text, people, wanted)
        now: dict[str, Any] = {"people": people, "loss": loss, "spent": len(people)}
        now["best"] = (people[loss.argmin()].tolist(), loss.min().item())
        for _ in ctx.resumable(name, range(self.generations), now=now, generator=generator):
            survivors = now["people"][now["loss"].argsort()[: max(2, self.population // 2)]]
            people = self.mutated(self.with_children(survivors, generator), allowed.cpu(), generator)
            loss = self.losses(text, people, wanted)
            now |= {"people": people, "loss": loss, "spent": now["spent"] + len(people)}
            if loss.min().item() < now["best"][1]:
                now["best"] = (people[loss.argmin()].tolist(), loss.min().item())
        people, loss = now["people"], now["loss"]
        last = (people[loss.argmin()].tolist(), loss.min().item())
        return (*(now["best"] if self.keep == "best" else last), now["spent"])

    def losses(self, text: TextSide, people: Tensor, wanted: Tensor) -> Tensor:
        """(n,) over all positions, padding included, as in the paper."""
        hidden = text.encode_ids(laid_out(text, people.to(text.device))).hidden.float()
        return (hidden - wanted).square().sum((1, 2)).cpu()

    def with_children(self, people: Tensor, generator: torch.Generator) -> Tensor:
        """One-point crossover; a cut leaves each side at least one token."""
        chosen = people[torch.rand(len(people), generator=generator) < self.crossover]
        mates = people[torch.randint(len(people), (len(chosen),), generator=generator)]
        cuts = torch.randint(1, self.tokens, (len(chosen), 1), generator=generator)
        left = torch.arange(self.tokens) < cuts
        return torch.cat([people, torch.where(left, chosen, mates), torch.where(left, mates, chosen)])

    def mutated(self, people: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
        hit = torch.rand(len(people), generator=generator) < self.mutation
        places = torch.randint(self.tokens, (len(people),), generator=generator)
        tokens = allowed[torch.randint(len(allowed), (len(people),), generator=generator)]
        if self.elitism:
            hit[0] = False  # survivors are sorted
        people = people.clone()
        people[hit, places[hit]] = tokens[hit]
        return people
