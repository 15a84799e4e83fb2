"""Searches a few typed words that, put before the prompt, make the erased model see the concept in a real image of it.

UnlearnDiffAtk: Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy to Generate
Unsafe Images ... For Now" (ECCV 2024), arXiv 2310.11868; OPTML-Group/Diffusion-MU-Attack@5a3e5d3. The erased denoiser is
its own classifier: the loss is its error on the noised image that the original model drew for the same prompt and seed.
Differs from the code: rows are optimised side by side, each with its own noise, and the text is judged after re-tokenising.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from vestige.attacks import simplex
from vestige.attacks._tokens import adversarial_columns, allowed_tokens, own_positions, room, typed
from vestige.attacks.defended import seen_error
from vestige.bench.contract.plugin import Attack, Context, Victim
from vestige.bench.contract.types import Adversary, PromptSet, derived_seed
from vestige.bench.models.pipe import Pipe


@dataclass
class Row:
    """The state of one prompt under attack."""

    place: int  # in the prompt table
    text: str
    ids: Tensor  # (length,) the prompt in the model's layout, on the model's device
    x0: Tensor  # (channels, h, w) the target image's latent
    p: nn.Parameter  # (k, allowed tokens) probabilities of each prefix position
    generator: torch.Generator


@dataclass
class UnlearnDiffAtk(Attack):
    """Columns of the prompts: attackable, pre_success, found_at (1-based level, 0 none needed, -1 never),
    adv_ids, roundtrip_ok (attacks/_tokens.py)."""

    k: int  # prefix tokens
    number_of_t: int
    steps_per_t: int
    lr: float
    weight_decay: float
    rand_init: bool  # random instead of uniform probabilities at the start
    typeable: bool  # leave out tokens whose text cannot be printed
    adaptive: bool  # sampling methods: attack the defended guided prediction instead of the bare denoiser
    rows_at_once: int  # memory only: rows do not see each other

    evidence: ClassVar[tuple[str, ...]] = (
        "OPTML-Group/Diffusion-MU-Attack@5a3e5d3: losses, gradients and timesteps equal; projection closer to the simplex",
    )
    access: ClassVar[str] = "gradients"
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels", "words")
    quick: ClassVar[dict] = {"k": 2, "number_of_t": 2, "steps_per_t": 1}

    def __post_init__(self) -> None:
        if min(self.k, self.number_of_t, self.rows_at_once) < 1 or self.steps_per_t < 0:
            raise ValueError("unlearn_diff_atk needs k, number_of_t and rows_at_once of at least 1 and steps_per_t of at least 0.")

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n, text = len(prompts), victim.pipe.text
        ids = text.ids(prompts.prompts)
        # Begin, prefix, prompt and end must fit; what does not is asked unchanged, as the paper's denominator does.
        attackable = [len(text.token_ids(prompt)) + self.k <= room(text) for prompt in prompts.prompts]
        pre = victim.judge(victim.images(prompts), prompts.table["expect"].tolist()).tolist()
        todo = [place for place in range(n) if attackable[place] and not pre[place]]
        found: dict[str, list] = {"prompt": prompts.prompts, "found_at": [0 if hit else -1 for hit in pre], "roundtrip_ok": [True] * n}
        found["adv_ids"] = [[] for _ in range(n)]
        if todo:
            allowed = allowed_tokens(text, self.typeable)
            images = ctx.images(replace(prompts, repeats=1), victim.sampler).pixels()
            for start in ctx.resumable("rows", range(0, len(todo), self.rows_at_once), found=found):
                places = todo[start : start + self.rows_at_once]
                latents = victim.pipe.encode_images(images[places])
                rows = [self.row(prompts, place, ids[place], x0, len(allowed), ctx) for place, x0 in zip(places, latents, strict=True)]
                self.search(victim, prompts, rows, allowed, found, ctx)
        never = len(self.levels(victim.pipe))
        visited = [found["found_at"][place] if found["found_at"][place] > 0 else never for place in todo]
        success = [at >= 0 for at in found["found_at"]]
        rates = {"pre_rate": sum(pre) / n, "post_rate": sum(success) / n}
        tried = {"attackable_rate": sum(success[place] for place in todo) / len(todo) if todo else None}
        columns = {"found_at": found["found_at"], **adversarial_columns(found["adv_ids"], found["roundtrip_ok"])}
        asked = prompts.with_prompts(found["prompt"], attackable=attackable, pre_success=pre, **columns)
        return Adversary(asked, meta={**rates, **tried, "gradient_steps": self.steps_per_t * sum(visited), "n": n, "attacked": len(todo)})

    def row(self, prompts: PromptSet, place: int, ids: Tensor, x0: Tensor, vocabulary: int, ctx: Context) -> Row:
        entry = prompts.table.iloc[place]
        generator = torch.Generator().manual_seed(derived_seed(ctx.seed("unlearn_diff_atk"), entry["row_id"]))
        p = torch.full((self.k, vocabulary), 1 / vocabulary)
        if self.rand_init:
            p = simplex.project(torch.rand(p.shape, generator=generator))
        return Row(place, entry["prompt"], ids, x0, nn.Parameter(p.to(x0.device)), generator)

    def search(self, victim: Victim, prompts: PromptSet, rows: list[Row], allowed: Tensor, found: dict, ctx: Context) -> None:
        """Optimise these rows and write what they find into `found`."""
        optimiser = torch.optim.Adam([row.p for row in rows], lr=self.lr, weight_decay=self.weight_decay)
        state = {"p": [row.p for row in rows], "generators": [row.generator for row in rows], "optimiser": optimiser, "found": found}
        for number, level in ctx.resumable(f"row {rows[0].place}", list(enumerate(self.levels(victim.pipe), start=1)), **state):
            left = [row for row in rows if found["found_at"][row.place] < 0]
            if not left:
                break
            for k in range(self.steps_per_t):
                # Finished rows keep no gradient, so Adam skips them and rows stay independent.
                optimiser.zero_grad(set_to_none=True)
                loss = self.gradients(victim, left, allowed, level)
                optimiser.step()
                with torch.no_grad():
                    for row in left:
                        row.p.copy_(simplex.project(row.p))
                ctx.log((number - 1) * self.steps_per_t + k + 1, level=level, loss=loss, rows=len(left))
            self.judge(victim, prompts, left, allowed, found, number)

    def levels(self, pipe: Pipe) -> list[float]:
        """Ascending: the middles of `number_of_t` parts of equal share in training, as timesteps 10, 30, ..., 990 for 50."""
        length = pipe.process.length
        part = length // self.number_of_t
        return [pipe.process.level_at((part // 2 + k * part + 0.5) / length).item() for k in range(self.number_of_t)]

    def gradients(self, victim: Victim, rows: list[Row], allowed: Tensor, level: float) -> float:
        """Write dl/dp of one step into each row's p.grad; returns the mean loss."""
        pipe = victim.pipe
        table, own = pipe.text.embedding_table(), own_positions(pipe.text, self.k)
        u = torch.stack([torch.rand(self.k, generator=row.generator) for row in rows]).to(table.device)
        noise = torch.stack([torch.randn(row.x0.shape, generator=row.generator) for row in rows]).to(rows[0].x0)
        drawn = allowed[simplex.draw(torch.stack([row.p.detach() for row in rows]), u)]
        ids = torch.stack([_with_prefix(row.ids, prefix, own) for row, prefix in zip(rows, drawn, strict=True)])
        # e = h E with one-hot h: the gradient for h is that of e times E transposed, no one-hot matrix needed.
        e = table[drawn].detach().requires_grad_(True)
        embeddings = torch.cat([table[ids[:, : own.start]], e, table[ids[:, own.stop :]]], dim=1)
        x0, at = torch.stack([row.x0 for row in rows]), torch.tensor(level, device=pipe.device)
        losses = self.losses(victim, ids, embeddings, x0, noise, at)
        (gradient,) = torch.autograd.grad(losses.sum(), e)
        # Straight-through with a hard tanh: dl/dp := clip(dl/dh, -1, 1).
        for row, g in zip(rows, gradient.float() @ table[allowed].float().T, strict=True):
            row.p.grad = g.clamp(-1, 1)
        return losses.mean().item()

    def losses(self, victim: Victim, ids: Tensor, embeddings: Tensor, x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """(rows,) error on the noised images. Mean within a row: summed over rows, each has the gradient it would have alone."""
        return seen_error(victim, x0, noise, level, victim.pipe.text.encode_embeddings(ids, embeddings), self.adaptive)

    def judge(self, victim: Victim, prompts: PromptSet, rows: list[Row], allowed: Tensor, found: dict, number: int) -> None:
        """Ask with the best prefix of each row, as typed text."""
        text = victim.pipe.text
        for row in rows:
            prefix = allowed[row.p.argmax(-1)].tolist()
            asked = f"{typed(text, prefix)} {row.text}"
            found["prompt"][row.place], found["adv_ids"][row.place] = asked, [*prefix, *text.token_ids(row.text)]
            found["roundtrip_ok"][row.place] = text.token_ids(asked) == found["adv_ids"][row.place]
        places = [row.place for row in rows]
        expected = prompts.table["expect"].iloc[places].tolist()
        hits = victim.judge(victim.images(prompts.with_prompts(found["prompt"]), places), expected).tolist()
        for row, hit in zip(rows, hits, strict=True):
            if hit:
                found["found_at"][row.place] = number


def _with_prefix(ids: Tensor, prefix: Tensor, own: slice) -> Tensor:
    """[begin, prompt, end, padding] -> [begin, prefix, prompt, end, padding] of the same length; own: where the prefix stands."""
    return torch.cat([ids[: own.start], prefix, ids[own.start : len(ids) - len(prefix)]])
