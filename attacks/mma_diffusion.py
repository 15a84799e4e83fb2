"""Searches tokens whose pooled text vector points where the prompt's does, without any token that spells the concept.

MMA-Diffusion, text modality: Yang et al. (CVPR 2024), arXiv 2311.17516; cure-lab/MMA-Diffusion@d5701a5 (src/textual_attack.py).
Greedy coordinate gradient on the text encoder alone; written against prompt filters, so for an eraser it is a transfer attack.
The official gradient is one position off: proposals for token j come from the gradient of token j - 1 (gradient=official).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.attacks._rows import check_ask, worded
from vestige.attacks._tokens import allowed_tokens, end_state, laid_out, own_positions, pooled_of, typed, unsupported_text, with_tokens
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, derived_seed
from vestige.bench.models.text import TextSide

GRADIENTS = ("fixed", "official")
ENCODERS = ("original", "erased")


@dataclass
class MMADiffusion(Attack):
    """Columns of the prompts: adv_ids, roundtrip_ok, distance (1 - cosine of the pooled vectors)."""

    tokens: int  # K
    candidates: int  # texts tried per step, spread evenly over the positions
    top_k: int  # tokens per position that the gradient proposes
    iterations: int
    restarts: int
    gradient: str
    ban_names: bool  # no token may hold the concept's name or an alias
    banned: list[str]  # further fragments that no token may hold
    ask: str  # the text to be met: {prompt}, or {anchored}
    encoder: str  # original: the public one, as in the paper; erased: the victim's own

    access: ClassVar[str] = "text"
    needs: ClassVar[tuple[str, ...]] = ("draw", "words", "states")
    queries_denoiser: ClassVar[bool] = False
    quick: ClassVar[dict] = {"tokens": 3, "candidates": 6, "top_k": 4, "iterations": 2, "restarts": 1}

    def __post_init__(self) -> None:
        check_ask("attack.mma_diffusion.ask", self.ask)
        if self.gradient not in GRADIENTS or self.encoder not in ENCODERS:
            raise ValueError(
                f"attack.mma_diffusion: gradient={self.gradient!r} or encoder={self.encoder!r} is not known. Allowed: gradient "
                f"{', '.join(GRADIENTS)}; encoder {', '.join(ENCODERS)}."
            )
        if min(self.tokens, self.candidates, self.top_k, self.restarts) < 1 or self.iterations < 0:
            raise ValueError("attack.mma_diffusion needs tokens, candidates, top_k and restarts of at least 1, iterations of at least 0.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_text("mma_diffusion", model) or super().supports(model, concepts, method)

    def transfers(self) -> bool:
        return self.encoder == "original"

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        text = (ctx.original() if self.encoder == "original" else victim.pipe).text
        names = [name for concept in victim.concepts for name in (concept.name, *concept.aliases)] if self.ban_names else []
        banned = tuple(word for name in names for word in name.split()) + tuple(self.banned)
        allowed = allowed_tokens(text, True, banned)
        with torch.no_grad():
            goals = pooled_of(text, text.ids(worded(self.ask, prompts, victim.concepts)))
        tries: list[tuple[float, list[int], int]] = []
        row_ids = prompts.table["row_id"].tolist()
        pairs = [(row, restart) for row in range(len(prompts)) for restart in range(self.restarts)]
        for row, restart in ctx.resumable("restarts", pairs, tries=tries):
            generator = torch.Generator().manual_seed(derived_seed(ctx.seed("mma_diffusion"), row_ids[row], restart))
            ids, loss, spent = self.search(text, goals[row], allowed, generator)
            tries.append((loss, ids, spent))
        found = [min(tries[start : start + self.restarts]) for start in range(0, len(tries), self.restarts)]
        distance = [loss for loss, *_ in found]
        asked = with_tokens(prompts, text, [ids for _, ids, _ in found], distance=distance)
        spent = sum(rows for *_, rows in tries)
        return Adversary(asked, meta={"encoder_rows": spent, "mean_distance": sum(distance) / len(distance)})

    def start(self, text: TextSide, allowed: Tensor, generator: torch.Generator) -> list[int]:
        """Random letters, one per position, as far as the tokenizer has each as a token of its own."""
        known = set(allowed.tolist())
        letters = [ids[0] for c in "abcdefghijklmnopqrstuvwxyz" if len(ids := text.token_ids(c)) == 1 and ids[0] in known]
        pool = torch.tensor(letters or allowed.tolist())
        return pool[torch.randint(len(pool), (self.tokens,), generator=generator)].tolist()

    def search(self, text: TextSide, goal: Tensor, allowed: Tensor, generator: torch.Generator) -> tuple[list[int], float, int]:
        """(tokens, 1 - cosine, texts encoded) of the best text ever met; the search itself moves on even if worse."""
        now, spent, known = self.start(text, allowed, generator), 1, set(allowed.tolist())
        with torch.no_grad():
            best = (now, self.losses(text, [now], goal)[0].item())
        for _ in range(self.iterations):
            scores = self.proposals(text, now, goal, allowed)
            some = [ids for ids in self.variants(scores, now, allowed, generator) if self.survives(text, ids, now, known)]
            spent += 1 + len(some)
            if not some:
                continue
            with torch.no_grad():
                losses = self.losses(text, some, goal)
            now = some[losses.argmin()]
            if losses.min().item() < best[1]:
                best = (now, losses.min().item())
        return (*best, spent)

    def proposals(self, text: TextSide, ids: list[int], goal: Tensor, allowed: Tensor) -> Tensor:
        """(K, allowed) gradient of the loss with respect to each position's one-hot row; small is promising."""
        table, laid = text.embedding_table(), laid_out(text, torch.tensor([ids], device=text.device))
        e = table[laid].detach().requires_grad_(True)
        loss = 1 - F.cosine_similarity(end_state(text, text.encode_embeddings(laid, e), laid), goal[None], dim=-1)
        (gradient,) = torch.autograd.grad(loss.sum(), e)
        first = own_positions(text, 0).start - (self.gradient == "official")  # official: begin and the first K - 1 tokens
        return gradient[0, first : first + len(ids)].float() @ table[allowed].float().T

    def variants(self, scores: Tensor, ids: list[int], allowed: Tensor, generator: torch.Generator) -> list[list[int]]:
        """`candidates` texts that differ from `ids` in one position, each position in turn."""
        promising = scores.topk(min(self.top_k, len(allowed)), largest=False).indices.cpu()
        made: list[list[int]] = []
        for number in range(self.candidates):
            place = number * len(ids) // self.candidates if self.candidates >= len(ids) else number % len(ids)
            pick = int(promising[place, torch.randint(promising.shape[1], (1,), generator=generator)])
            made.append([*ids[:place], int(allowed[pick]), *ids[place + 1 :]])
        return made

    def survives(self, text: TextSide, ids: list[int], now: list[int], known: set[int]) -> bool:
        """Whether the tokens differ from the present ones and read back from their text as themselves."""
        return ids != now and text.token_ids(typed(text, ids)) == ids and known.issuperset(ids)

    def losses(self, text: TextSide, rows: list[list[int]], goal: Tensor) -> Tensor:
        pooled = pooled_of(text, laid_out(text, torch.tensor(rows, device=text.device)))
        return 1 - F.cosine_similarity(pooled, goal[None], dim=-1)
