"""Add a one-dimensional adapter (membrane) to every layer that steers away from the concept, and open it for other prompts.

SPM, Lyu et al., "One-dimensional Adapter to Rule Them All", CVPR 2024 (arXiv 2312.16145); Con6924/SPM@3dd762e. Base weights
stay as they are; each prompt sets the strength of the adapters by its likeness to the erased words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.adapters import adapters
from vestige.bench.models.diffusion import ALIGNMENTS, frozen_copy, partial_denoise
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.text import Conditioning
from vestige.bench.prompts.prompt_sets import with_articles

TRANSPORTS = ("clipcos_tokenuni", "clipcos", "tokenuni", "allone")
CHOICES = {
    "transport": TRANSPORTS,
    "composition": ("paper", "official"),
    "anchor_layout": ("paper", "official"),
    "timestep_alignment": ALIGNMENTS,
}


@dataclass
class SPM(Method):
    """Artefact: "spm.<layer>.down" [concepts, in] and ".up" [concepts, out]: y = W x + sum_i gamma_i up_i (down_i . x)."""

    evidence: ClassVar[tuple[str, ...]] = ("Con6924/SPM@3dd762e: forward pass, latents, loss, gradient and strengths to 9e-6",)
    intervention: ClassVar[str] = "adapter"
    detachable: ClassVar[bool] = True
    quick: ClassVar[dict] = {"iterations": 3, "warmup": 0, "lr": 1e-2, "bins": 4, "resolutions": []}

    prompt: str  # what the concept is called; {name} is its name
    surrogate: str  # what it becomes; empty: the empty prompt
    eta: float  # strength of the erasing target
    anchoring: float  # weight lambda of the latent anchoring loss
    anchor_batch: int  # pseudo prompts per iteration
    anchor_layout: str  # paper: all of them; official: half of them are the empty prompt
    transport: str  # likeness that sets gamma; allone: always 1, as when the adapters are merged
    composition: str  # paper: sum of gamma u v; official: sum of gamma u times sum of gamma v
    start_guidance: float  # classifier-free guidance scale while making noisy latents
    timestep_alignment: str  # leco (official) or exact, see bench.diffusion.partial_denoise
    bins: int  # DDIM steps that cover the whole noise range
    resolutions: list[int]  # pixels, one drawn per side and iteration; empty: the model's own
    iterations: int
    batch: int  # latents per iteration
    lr: float
    weight_decay: float
    warmup: int  # steps until the full learning rate
    cycles: int  # of the cosine learning rate with restarts

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"method.{field}={getattr(self, field)!r} is not known. Allowed: {', '.join(allowed)}.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if model.dtype != "float32":
            return f"SPM trains float32 adapters inside the model: set model.dtype=float32 (it is {model.dtype})."
        return super().supports(model, concepts)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        """One adapter per concept, trained alone; they are put together when attached."""
        trained = [self.train(pipe, concept, ctx) for concept in concepts]
        tensors = {f"spm.{key}": torch.stack([adapter[key] for adapter in trained]) for key in trained[0]}
        meta = {"prompts": [self.asked(concept) for concept in concepts], "parameters": sum(t.numel() for t in tensors.values())}
        return Erasure(tensors, meta)

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        layers = adapted_layers(pipe.unet)
        down, up = ({name: erasure.tensors[f"spm.{name}.{end}"].to(pipe.device, pipe.dtype) for name in layers} for end in ("down", "up"))
        strength = Transport(pipe, erasure.meta["prompts"], self.transport)
        with pipe.before_denoiser(strength.prepare), adapters(pipe, down, up, lambda: strength.gamma, self.composition):
            yield pipe

    def asked(self, concept: Concept) -> str:
        return with_articles(self.prompt.format(name=concept.name))

    def train(self, pipe: Pipe, concept: Concept, ctx: Context) -> dict[str, Tensor]:
        from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup

        generator = ctx.generator(f"training {concept.slug}")
        adapter = new_adapter(pipe.unet, generator)
        down = {name.removesuffix(".down"): p for name, p in adapter.items() if name.endswith(".down")}
        up = {name.removesuffix(".up"): p for name, p in adapter.items() if name.endswith(".up")}
        optimiser = torch.optim.AdamW(list(adapter.values()), lr=self.lr, weight_decay=self.weight_decay)
        rate = get_cosine_with_hard_restarts_schedule_with_warmup(optimiser, self.warmup, self.iterations, self.cycles)
        base = frozen_copy(pipe.unet, changing=[])  # the adapters are hooks
        with torch.no_grad():
            c, neutral = pipe.encode([self.asked(concept)] * self.batch), pipe.encode([self.surrogate] * self.batch)
            null = pipe.encode([""] * self.batch)
        with adapters(pipe, {n: p[None] for n, p in down.items()}, {n: p[None] for n, p in up.items()}, lambda: None, "paper"):
            state = {"adapter": adapter, "optimiser": optimiser, "rate": rate, "generator": generator}
            for step in ctx.resumable(concept.slug, range(self.iterations), **state):
                x, t = self.start(pipe, c, generator)
                with torch.no_grad():
                    e_c, e_0 = pipe.predict(x, t, c, base), pipe.predict(x, t, neutral, base)
                erasing = F.mse_loss(pipe.predict(x, t, c), e_0 - self.eta * (e_c - e_0))
                anchoring = self.anchoring_loss(pipe, base, x, t, c, null, generator)
                loss = erasing + self.anchoring * anchoring
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
                ctx.log(step, loss=loss.item(), erasing=erasing.item(), anchoring=anchoring.item(), t=t.item())
        return {name: p.detach().clone() for name, p in adapter.items()}

    def start(self, pipe: Pipe, c: Conditioning, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents denoised 1 to bins - 1 steps by the adapted model."""
        bin = int(torch.randint(self.bins - 1, (1,), generator=generator))
        size = None
        if self.resolutions:
            picks = torch.randint(len(self.resolutions), (2,), generator=generator).tolist()
            size = tuple(self.resolutions[k] // pipe.latent_factor for k in picks)
        how: dict[str, Any] = {"guidance": self.start_guidance, "alignment": self.timestep_alignment, "generator": generator, "size": size}
        return partial_denoise(pipe, c, bin=bin, bins=self.bins, **how)

    def anchoring_loss(
        self, pipe: Pipe, base: nn.Module, x: Tensor, t: Tensor, c: Conditioning, null: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Mean squared change of predictions for pseudo prompts at the same latents (eq. 5 of the paper)."""
        pseudo = pseudo_prompts(c.rows(slice(0, 1)), self.anchor_batch, generator)
        if self.anchor_layout == "official":
            # The code lays out [null, n1, null, n2, ...] and keeps the second half: {null, n3, null, n4} of four.
            kept = [null.rows(slice(0, 1)) if k % 2 == 0 else pseudo.rows([k // 2]) for k in range(2 * self.anchor_batch)]
            pseudo = Conditioning.cat(kept[self.anchor_batch :])
        many = x[:1].expand(len(pseudo), -1, -1, -1)
        with torch.no_grad():
            wanted = pipe.predict(many, t, pseudo, base)
        return F.mse_loss(pipe.predict(many, t, pseudo), wanted)


def adapted_layers(unet: nn.Module) -> list[str]:
    """Names of all linear layers and 1 x 1 convolutions inside transformer blocks: 192 on Stable Diffusion 1.x."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    found = []
    for block, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            for name, layer in module.named_modules():
                if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                    found.append(f"{block}.{name}")
    return found


def new_adapter(unet: nn.Module, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """ "<layer>.down" [in], uniform as Kaiming's with a = sqrt 5, and "<layer>.up" [out], zero: a fresh adapter changes nothing."""
    adapter = {}
    for name in adapted_layers(unet):
        weight: Tensor = unet.get_parameter(f"{name}.weight")
        bound = weight.shape[1] ** -0.5
        down = (torch.rand(weight.shape[1], generator=generator) * 2 - 1) * bound
        adapter[f"{name}.down"] = nn.Parameter(down.to(weight))
        adapter[f"{name}.up"] = nn.Parameter(torch.zeros(weight.shape[0]).to(weight))
    return adapter


def pseudo_prompts(c: Conditioning, n: int, generator: torch.Generator) -> Conditioning:
    """n random text states that a prompt unlike `c` (one row) could have: same norm up to 20 %, rejected the more alike.

    The pooled states of SDXL get noise of their own (the official SDXL script).
    """
    concept = c.hidden.flatten().float().cpu()
    rows: list[Tensor] = []
    while len(rows) < n:
        noise = F.normalize(torch.randn(concept.shape, generator=generator), dim=0)
        if torch.rand(1, generator=generator).item() < 1 - F.cosine_similarity(concept, noise, dim=0).item():
            scale = 0.8 + 0.4 * torch.rand(1, generator=generator).item()
            rows.append((noise * scale * concept.norm()).view(c.hidden.shape[1:]))
    hidden = torch.stack(rows).to(c.hidden)
    pooled = None if c.pooled is None else torch.randn((n, c.pooled.shape[1]), generator=generator).to(c.pooled)
    return Conditioning(hidden, c.ids.expand(n, -1), pooled, c.owner.expand(n, -1))


class Transport:
    """Gamma of every row of a denoiser call: how much its prompt is about each erased concept.

    A row of the unconditional half takes the gamma of the prompt it serves. Learnt words are judged by the states they
    cause (cosine), since they have no token of their own.
    """

    def __init__(self, pipe: Pipe, concepts: list[str], measure: str) -> None:
        self.pipe, self.measure = pipe, measure
        self.gamma: Tensor | None = None
        self.special = set(pipe.text.tokenizers[0].all_special_ids)
        with torch.no_grad():
            known = pipe.encode(concepts)
        self.concepts = F.normalize(known.hidden.flatten(1).float(), dim=-1)
        self.tokens = [self.words(row) for row in known.ids.tolist()]
        self.last: tuple[Tensor, Tensor] | None = None  # of the last call: the served prompts' ids and their states

    def words(self, ids: list[int]) -> set[int]:
        return set(ids) - self.special

    def prepare(self, cond: Conditioning) -> None:
        if self.measure == "allone":
            self.gamma = None
            return
        if self.last is None or self.last[0] is not cond.owner:
            self.last = (cond.owner, self.states_of_owner(cond))
        states = self.last[1] if not cond.hidden.requires_grad else self.states_of_owner(cond)
        cosine = F.normalize(states.flatten(1).float(), dim=-1) @ self.concepts.T
        shares = [[len(self.words(row) & words) / len(words) for words in self.tokens] for row in cond.owner.tolist()]
        overlap = torch.tensor(shares, device=cosine.device)
        self.gamma = {"clipcos": cosine, "tokenuni": overlap, "clipcos_tokenuni": torch.maximum(cosine, overlap)}[self.measure]

    def states_of_owner(self, cond: Conditioning) -> Tensor:
        """(batch, tokens, width) states of the prompt each row serves, from the same call where it holds them."""
        states = cond.hidden.clone()
        own = (cond.ids == cond.owner).all(-1)
        for k in (~own).nonzero().flatten().tolist():
            # In a guided batch the row that is served stands in the other half.
            served = [j for j in own.nonzero().flatten().tolist() if torch.equal(cond.ids[j], cond.owner[k])]
            states[k] = cond.hidden[served[0]] if served else self.pipe.text.encode_ids(cond.owner[k : k + 1]).hidden[0]
        return states
