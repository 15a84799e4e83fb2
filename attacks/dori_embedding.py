"""Searches text states, position by position, under which the erased model denoises towards an image of the concept.

DoRI: Kowalczuk et al., "Finding Dori: Memorization in Text-to-Image Diffusion Models Is Less Local Than Assumed" (2025),
arXiv 2507.16880; sprintml/finding_dori could not be obtained, numbers follow a third-party summary of the paper. Theirs asks
for a memorised training image; here a row's image is one that the original model drew for the row's prompt from another
seed, so what is judged is the concept and not the copy. The states replace the text encoder's output: an erasure of the text
encoder is bypassed by construction, and meta["text_encoder_edited"] says when to read the result so. The number of steps is
the claim: also publish source=never_knew with the same number.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from vestige.attacks._rows import with_prompt_embeddings
from vestige.attacks.defended import seen_error, unsupported_defence
from vestige.attacks.training_images import check_source, row_images, unsupported_source
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, derived_seed
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.families.base import Corruption
from vestige.bench.models.pipe import Pipe

STARTS = ("prompt", "empty", "normal")


@dataclass
class DoriEmbedding(Attack):
    """Artefact: "states" [rows, tokens, width], float32. Prompts stay: adapters that read token ids still see them."""

    start: str  # prompt: the row's own states; empty: those of the empty text; normal: standard normal numbers
    steps: int
    batch: int  # pairs of noise and level per row and step, drawn anew each time
    lr: float
    norm_limit: float | None  # longest allowed state of a position, as a multiple of the prompt's own; null: free
    source: str  # what the images show, see attacks/training_images.py; anything but target is a control
    adaptive: bool  # sampling methods: the defended guided prediction learns to denoise, as in UnlearnDiffAtk; else the bare denoiser
    rows_at_once: int  # memory only: rows do not see each other

    version: ClassVar[int] = 2
    access: ClassVar[str] = "embedding"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "loss", "states")
    quick: ClassVar[dict] = {"steps": 2, "batch": 2}

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"attack.dori_embedding.start={self.start!r} is not known. Allowed: {', '.join(STARTS)}.")
        if min(self.batch, self.rows_at_once) < 1 or self.steps < 0:
            raise ValueError("dori_embedding needs batch and rows_at_once of at least 1 and steps of at least 0.")
        check_source("dori_embedding", self.source)

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        reason = unsupported_source(self.source, concepts) or (unsupported_defence(model, method) if self.adaptive else None)
        return reason or super().supports(model, concepts, method)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        pipe = victim.pipe
        x0 = pipe.encode_images(row_images(ctx, prompts, victim.concepts, self.source, 1))
        with torch.no_grad():
            cond = pipe.encode(prompts.prompts)
        limits = cond.hidden.float().norm(dim=-1, keepdim=True)
        found: list[Tensor] = []
        losses: list[tuple[float, float]] = []
        for begin in ctx.resumable("rows", range(0, len(prompts), self.rows_at_once), found=found, losses=losses):
            some = list(range(begin, min(begin + self.rows_at_once, len(prompts))))
            generators = [self.generator(prompts, k, ctx) for k in some]
            states, loss = self.fitted(victim, x0[some], cond.rows(some), limits[some], generators, ctx, f"row {begin}")
            found.append(states)
            losses += loss
        states = torch.cat(found)
        meta = {
            "loss_before": sum(first for first, _ in losses) / len(losses),
            "loss_after": sum(last for _, last in losses) / len(losses),
            "norm_growth": (states.norm(dim=-1, keepdim=True) / limits).mean().item(),
            "text_encoder_edited": _text_differs(pipe, ctx.original()),
        }
        return Adversary(prompts, {"states": states}, meta)

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return with_prompt_embeddings(pipe, adversary)

    def generator(self, prompts: PromptSet, place: int, ctx: Context) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(ctx.seed("dori_embedding"), prompts.table["row_id"].iloc[place]))

    def initial(self, pipe: Pipe, cond: Conditioning, generators: list[torch.Generator]) -> Tensor:
        if self.start == "normal":
            return torch.stack([torch.randn(cond.hidden.shape[1:], generator=g) for g in generators]).to(pipe.device)
        with torch.no_grad():
            return (cond if self.start == "prompt" else pipe.encode([""] * len(cond))).hidden.float().clone()

    def fitted(
        self, victim: Victim, x0: Tensor, cond: Conditioning, limits: Tensor, generators: list[torch.Generator], ctx: Context, name: str
    ) -> tuple[Tensor, list[tuple[float, float]]]:
        """States y [rows, tokens, width] and each row's (first, last) loss: min_y E l_er(x_0, y), l the training loss."""
        y, when = nn.Parameter(self.initial(victim.pipe, cond, generators)), ctx.generator(f"dori_embedding timesteps {name}")
        optimiser = torch.optim.Adam([y], lr=self.lr)
        first: list[float] = []
        state = {"y": y, "optimiser": optimiser, "generators": generators, "when": when, "first": first}
        for step in ctx.resumable(name, range(self.steps), **state):
            loss = self.losses(victim, x0, cond, y, generators, when)
            optimiser.zero_grad()
            (y.grad,) = torch.autograd.grad(loss.sum(), y)
            optimiser.step()
            if self.norm_limit is not None:
                with torch.no_grad():
                    y.mul_((self.norm_limit * limits / y.norm(dim=-1, keepdim=True)).clamp(max=1))
            first[:] = first or loss.tolist()
            ctx.log(step, loss=loss.mean().item())
        with torch.no_grad():
            last = self.losses(victim, x0, cond, y, generators, when).tolist()
        return y.detach(), list(zip(first or last, last, strict=True))

    def losses(
        self, victim: Victim, x0: Tensor, cond: Conditioning, y: Tensor, generators: list[torch.Generator], when: torch.Generator
    ) -> Tensor:
        """[rows] the training loss of each row, mean over `batch` fresh pairs of noise and level."""
        pipe = victim.pipe
        if self.adaptive and victim.method.intervention == "sampling":
            # A defence's guidance knows one level per call: the rows share those of `when`.
            noise = torch.stack([torch.randn((self.batch, *x0.shape[1:]), generator=g) for g in generators]).to(x0)
            told = replace(cond, hidden=y.to(pipe.dtype))
            levels = (pipe.process.random_level(1, when)[0].to(pipe.device) for _ in range(self.batch))
            errors = [seen_error(victim, x0, e, level, told, True) for e, level in zip(noise.unbind(1), levels, strict=True)]
            return torch.stack(errors).mean(0)
        at = [pipe.corruption(row.expand(self.batch, *row.shape), g) for row, g in zip(x0, generators, strict=True)]
        together = Corruption(torch.cat([one.noise for one in at]), torch.cat([one.level for one in at]))
        told = replace(cond.repeat(self.batch), hidden=y.to(pipe.dtype).repeat_interleave(self.batch, 0))
        return pipe.loss(x0.repeat_interleave(self.batch, 0), told, together).view(len(x0), self.batch).mean(1)


def _text_differs(one: Pipe, other: Pipe) -> bool:
    encoders = tuple(f"{part}." for part in one.family.encoders)
    text = [{n: p for n, p in pipe.named_parameters() if n.startswith(encoders)} for pipe in (one, other)]
    return any(not torch.equal(p, text[1][name]) for name, p in text[0].items())
