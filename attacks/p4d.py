"""Searches typed words under which the erased model predicts the noise that the original model predicts for the real prompt.

Prompting4Debugging: Chin, Jiang et al. (ICML 2024), arXiv 2309.06135; joycenerd/P4D@2cf3cda (optimize_n.py, optimize_k.py).
The attacker owns both models. Embeddings are optimised, and after every step projected to the nearest tokens (PEZ); of the
texts met on the way the one stays whose image is most like the original model's. This is the official form; the "P4D" of
Diffusion-MU-Attack is a prefix search with early stop. Differs from the code: rows are optimised side by side with noise of
their own; the image to be met is the original model's for the row's seed, not the most unsafe of three; begin and end are
never projected to. Layout k keeps the end token; the code's free tokens take its place, so that it optimises without one (losses
4 % apart).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.attacks._tokens import allowed_tokens, laid_out, own_positions, room, with_tokens
from vestige.attacks.defended import seen
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, derived_seed
from vestige.bench.models.text import TextSide
from vestige.bench.vision import features

LAYOUTS = ("n", "k")
RANGES = ("official", "fixed")


@dataclass
class Template:
    """Which positions of the rows' texts are free. All tensors (rows, length) of ids or bool."""

    ids: Tensor  # free positions hold any token
    free: Tensor
    sizes: list[int]  # tokens of each row's text, begin and end not counted


@dataclass
class P4D(Attack):
    """Columns of the prompts: adv_ids, roundtrip_ok, likeness (best image-image cosine), found_step (0: the first, random tokens)."""

    layout: str  # n: `free` tokens alone; k: one free token before every `every` tokens of the prompt
    free: int
    every: int
    steps: int  # 0: random tokens, the paper's control
    evaluate_every: int
    lr: float
    weight_decay: float
    vae_range: str  # official: the target image enters the VAE in [0, 1]; fixed: in [-1, 1]
    padding: int | None  # token behind the end while optimising; official: 0, which is not what images are drawn with; null: the model's
    likeness: str  # extractor of the image-image cosine, see bench/vision/features.py
    typeable: bool
    adaptive: bool  # sampling methods: attack the guided prediction (official --filter); else the bare denoiser
    rows_at_once: int

    evidence: ClassVar[tuple[str, ...]] = ("joycenerd/P4D@2cf3cda: layout n to 8e-7; layout k within 4 %, which has no end token there",)
    access: ClassVar[str] = "gradients"
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels", "words")
    quick: ClassVar[dict] = {"steps": 2, "evaluate_every": 1, "free": 3}

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or self.vae_range not in RANGES:
            raise ValueError(
                f"attack.p4d: layout={self.layout!r} or vae_range={self.vae_range!r} is not known. Allowed: layout "
                f"{', '.join(LAYOUTS)}; vae_range {', '.join(RANGES)}."
            )
        if min(self.free, self.every, self.evaluate_every, self.rows_at_once) < 1 or self.steps < 0:
            raise ValueError("attack.p4d needs free, every, evaluate_every and rows_at_once of at least 1 and steps of at least 0.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return features.check(self.likeness) or super().supports(model, concepts, method)

    def inputs(self) -> dict[str, str]:
        return features.inputs(self.likeness)

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n = len(prompts)
        images = ctx.images(replace(prompts, repeats=1), victim.sampler).pixels()
        found: dict[str, list] = {"ids": [[]] * n, "likeness": [-1.0] * n, "found_step": [0] * n}
        for begin in ctx.resumable("rows", range(0, n, self.rows_at_once), found=found):
            places = list(range(begin, min(begin + self.rows_at_once, n)))
            self.search(victim, prompts, places, images[places], found, ctx)
        asked = with_tokens(prompts, victim.pipe.text, **found)
        return Adversary(asked, meta={"gradient_steps": self.steps * n, "mean_likeness": sum(found["likeness"]) / n})

    def template(self, text: TextSide, texts: list[str]) -> Template:
        """Layout n: free tokens alone. k: with m tokens, floor(m / every) + 1 free ones at places i with i mod (every + 1) = 0."""
        rows: list[list[int | None]] = []
        for prompt in texts:
            if self.layout == "n":
                rows.append([None] * self.free)
                continue
            fixed = text.token_ids(prompt)
            row: list[int | None] = []
            for k, token in enumerate(fixed):
                row += [None, token] if k % self.every == 0 else [token]
            row += [None] if len(fixed) % self.every == 0 else []
            rows.append(row[: room(text)])
        sizes = [len(row) for row in rows]
        ids = torch.cat([laid_out(text, torch.tensor([[0 if k is None else k for k in row]]), self.padding) for row in rows])
        free = torch.zeros_like(ids, dtype=torch.bool)
        for k, row in enumerate(rows):
            free[k, own_positions(text, len(row))] = torch.tensor([token is None for token in row])
        return Template(ids.to(text.device), free.to(text.device), sizes)

    def search(self, victim: Victim, prompts: PromptSet, places: list[int], images: Tensor, found: dict, ctx: Context) -> None:
        """Write the best tokens, their likeness and when they were met into the three lists of `found`."""
        pipe, original, asked = victim.pipe, ctx.original(), [prompts.prompts[k] for k in places]
        template, allowed = self.template(pipe.text, asked), allowed_tokens(pipe.text, self.typeable)
        table = pipe.text.embedding_table().detach().float()
        known = F.normalize(table[allowed], dim=-1)
        generators = [torch.Generator().manual_seed(derived_seed(ctx.seed("p4d"), prompts.table["row_id"].iloc[k])) for k in places]
        # Official: an image in [0, 1] without the VAE's own scaling, so shown to it as a paler one.
        shown = images.float() / 255
        x0 = pipe.encode_images(shown / 2 + 0.5 if self.vae_range == "official" else shown)
        goal = features.of_pixels(images, self.likeness)
        start = [allowed[torch.randint(len(allowed), template.ids.shape[1:], generator=g).to(allowed.device)] for g in generators]
        p = nn.Parameter(table[torch.stack(start)].clone())  # (rows, length, width); only free positions are ever read
        with torch.no_grad():
            wanted = original.encode(asked)
        # One row of levels for all rows: a defence's guidance knows one level per call.
        when = torch.Generator().manual_seed(ctx.seed("p4d timesteps"))
        optimiser = torch.optim.AdamW([p], lr=self.lr, weight_decay=self.weight_decay)
        state = {"p": p, "optimiser": optimiser, "generators": generators, "when": when, "found": found}
        for step in ctx.resumable(f"row {places[0]}", range(self.steps + 1), **state):
            tokens = self.projected(p.detach(), known, allowed, template)
            if step % self.evaluate_every == 0 or step == self.steps:
                self.keep_best(victim, prompts, places, tokens, template, goal, step, found)
            if step == self.steps:
                break
            t = pipe.process.random_level(1, when)[0].to(pipe.device)
            noise = torch.stack([torch.randn(x0.shape[1:], generator=g) for g in generators]).to(x0)
            x_t = pipe.process.add_noise(x0, noise, t.expand(len(x0)))
            with torch.no_grad():
                target = original.predict(x_t, t, wanted).float()
            e = table[tokens].to(pipe.text.embedding_table().dtype).requires_grad_(True)
            loss = self.losses(victim, x_t, t, tokens, e, target)
            (gradient,) = torch.autograd.grad(loss.sum(), e)
            p.grad = gradient.float() * template.free[..., None]
            optimiser.step()
            ctx.log(step, loss=loss.mean().item())

    def losses(self, victim: Victim, x_t: Tensor, t: Tensor, tokens: Tensor, e: Tensor, target: Tensor) -> Tensor:
        """(rows,) mean squared distance of the erased model's prediction to the original's."""
        out = seen(victim, x_t, t, victim.pipe.text.encode_embeddings(tokens, e), self.adaptive)
        return (out.float() - target).square().flatten(1).mean(1)

    def projected(self, p: Tensor, known: Tensor, allowed: Tensor, template: Template) -> Tensor:
        """(rows, length) ids: free positions hold the allowed token of the largest cosine, the others stay."""
        tokens = template.ids.clone()
        tokens[template.free] = allowed[(F.normalize(p[template.free], dim=-1) @ known.T).argmax(-1)]
        return tokens

    @torch.no_grad()
    def keep_best(
        self, victim: Victim, prompts: PromptSet, places, tokens: Tensor, template: Template, goal: Tensor, step: int, found: dict
    ) -> None:
        rows = [tokens[k, own_positions(victim.pipe.text, size)].tolist() for k, size in enumerate(template.sizes)]
        every: list[list[int]] = [[] for _ in range(len(prompts))]
        for place, row in zip(places, rows, strict=True):
            every[place] = row
        drawn = victim.images(with_tokens(prompts, victim.pipe.text, every), places)
        alike = F.cosine_similarity(features.of_pixels(drawn, self.likeness), goal, dim=-1).tolist()
        for place, row, value in zip(places, rows, alike, strict=True):
            if value > found["likeness"][place]:
                found["ids"][place], found["likeness"][place], found["found_step"][place] = row, value, step


def ideal_set(unsafe_original: list[bool], unsafe_protected: list[bool]) -> list[str]:
    """The paper's sorting of prompts: ideal (unsafe for the original only), bad (for both), weird (for the protected only), safe."""
    names = {(True, False): "ideal", (True, True): "bad", (False, True): "weird", (False, False): "safe"}
    return [names[pair] for pair in zip(unsafe_original, unsafe_protected, strict=True)]
