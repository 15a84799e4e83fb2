"""Zero the few weights of the denoiser's feed-forward layers that react most, and more, to the concept. No training.

ConceptPrune, Chavhan et al., "ConceptPrune: Concept Editing in Diffusion Models via Skilled Neuron Pruning", ICLR 2025
(arXiv 2405.19237); ruchikachavhan/concept-prune@72927d9. A weight's score is its size times the norm of what it reads
(Wanda, arXiv 2306.11695), for prompts with the concept and for paired prompts without it, at each of the first denoiser
calls. Generations stop after these calls: later ones do not enter. Reading the pruned layers' inputs gives the numbers
that the official hooks on the layers before them take.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec, Sampler
from vestige.bench.models.diffusion import choose_parameters
from vestige.bench.models.families import family
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import GuidanceRule, Step, classifier_free
from vestige.bench.prompts.prompt_sets import with_articles

# Which layers -> weights of the denoiser by their role; None: those of the text encoders that are what ffn2 is in the denoiser.
# The paper's method is ffn2; the others are its ablations.
LAYERS = {"ffn2": "mlp_out", "ffn1": "mlp_in", "attn_k": "cross_k", "attn_v": "cross_v", "text": None}


@dataclass
class ConceptPrune(Method):
    """Artefact: "prune.<part>.<layer>", int32: flat positions in the layer's weight that become zero."""

    quick: ClassVar[dict] = {"calls": 2, "steps": 4, "things": ["car", "tree"]}

    layers: str  # one of LAYERS
    ratio: float  # rho, share of each output row's weights that are looked at, by score
    calls: int  # T, denoiser calls from the noisiest on (text: one reading)
    select_ratio: float  # a weight goes if it is chosen at more than this share of the calls; 0: at any
    reference: str  # a prompt without the concept; {thing}, {other}: the concept's unrelated things in turn
    target: str  # its pair with the concept; {name}, {thing}, {other}
    things: list[str]  # one pair of prompts each; none: the concept's unrelated things
    scheduler: str | None  # of the generations, a class of diffusers; null: the protocol's
    steps: int
    guidance: float
    batch: int  # prompts per denoiser call; no influence on the result

    def __post_init__(self) -> None:
        if self.layers not in LAYERS:
            raise ValueError(f"method.layers={self.layers!r} is not known. Allowed: {', '.join(LAYERS)}.")
        if not 0 < self.ratio < 1:
            raise ValueError(f"method.ratio={self.ratio} must lie between 0 and 1: method.ratio=0.01.")
        if not 0 <= self.select_ratio < 1:
            raise ValueError(f"method.select_ratio={self.select_ratio} must be at least 0 and less than 1; 0 is the plain union.")
        if not 1 <= self.calls <= self.steps:
            raise ValueError(f"method.calls={self.calls} must lie between 1 and method.steps={self.steps}.")
        if "{name}" not in self.target:
            raise ValueError(f"method.target={self.target!r} must name the concept: {{name}}.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        group = LAYERS[self.layers]
        return ("draw", "words") if group is None else ("draw", "outputs", group)

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if (not self.things or "{other}" in self.reference + self.target) and not all(concept.others for concept in concepts):
            return "its prompts name unrelated things: set method.things, or give the concept file entries under `others`."
        if self.scheduler is not None and not family(model.family).diffusion:
            return f"{self.scheduler} draws with diffusion models, which those of family {model.family} are not: set method.scheduler=null."
        return super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        chosen: dict[str, Tensor] = {}
        for concept in concepts:
            for layer, mask in self.masks(pipe, concept, ctx).items():
                chosen[layer] = chosen[layer] | mask if layer in chosen else mask
        pruned = sum(int(mask.sum()) for mask in chosen.values())
        if pruned == 0:
            raise ValueError(f"no weight was chosen: raise method.ratio ({self.ratio}) or lower method.select_ratio ({self.select_ratio}).")
        meta: dict[str, Any] = {"parameters": pruned, "share": pruned / sum(mask.numel() for mask in chosen.values())}
        meta["parts"] = sorted({layer.partition(".")[0] for layer in chosen})
        meta |= {"scheduler": self.sampler(ctx).scheduler, "calls": self.calls}
        return Erasure({f"prune.{layer}": mask.flatten().nonzero()[:, 0].int() for layer, mask in chosen.items()}, meta)

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        new = {}
        for key, places in erasure.tensors.items():
            name = f"{key.removeprefix('prune.')}.weight"
            weight = pipe.parameter(name)
            new[name] = weight.detach().flatten().index_fill(0, places.to(weight.device, torch.int64), 0).view_as(weight)
        with pipe.replaced(new):
            yield pipe

    def prompts(self, concept: Concept) -> tuple[list[str], list[str]]:
        """(without the concept, with it), paired."""
        others = concept.others or [""]
        fills = [
            {"name": concept.name, "thing": thing, "other": others[k % len(others)]}
            for k, thing in enumerate(self.things or concept.others)
        ]
        without, having = ([with_articles(text.format(**fill)) for fill in fills] for text in (self.reference, self.target))
        return without, having

    def sampler(self, ctx: Context) -> Sampler:
        own: dict[str, Any] = {} if self.scheduler is None else {"scheduler": self.scheduler, "arguments": {}}
        if self.scheduler == "PNDMScheduler":
            own["arguments"] = {"skip_prk_steps": True}  # as Stable Diffusion ships it
        return replace(ctx.sampler, steps=self.steps, guidance=self.guidance, **own)

    def masks(self, pipe: Pipe, concept: Concept, ctx: Context) -> dict[str, Tensor]:
        """Layer -> bool, shaped as its weight: chosen at more than select_ratio of the calls."""
        without, having = (self.norms(pipe, prompts, ctx) for prompts in self.prompts(concept))
        masks = {}
        for layer, norms in having.items():
            weight = pipe.parameter(f"{layer}.weight")
            skills = (skilled(weight, a, b, self.ratio).int() for a, b in zip(norms, without[layer], strict=True))
            counts = sum(skills, start=torch.zeros((), dtype=torch.int32))
            masks[layer] = counts > self.select_ratio * len(norms)
        return masks

    def names(self, pipe: Pipe) -> list[str]:
        """The layers looked at, "<part>.<layer>"."""
        group = LAYERS[self.layers]
        if group is not None:
            return [f"{pipe.denoiser_name}.{name}" for name in pipe.layers(group)]
        encoders = {part: pipe.parts[part] for part in pipe.family.encoders if part in pipe.parts}
        weights = [f"{part}.{n}" for part, module in encoders.items() for n in choose_parameters(module, pipe.family.text_mlp)]
        return [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]

    def norms(self, pipe: Pipe, prompts: list[str], ctx: Context) -> dict[str, Tensor]:
        """Layer -> [calls, in]: the norm of every input column over all prompts, tokens and guidance halves, rows normalised.

        All prompts start from the same latents, as with the official fixed seed.
        """
        names = self.names(pipe)
        calls = 1 if self.layers == "text" else self.calls
        squares = {name: torch.zeros(calls, pipe.parameter(f"{name}.weight").shape[1], device=pipe.device) for name in names}
        now = Calls(calls)

        def reader(name: str):
            def read(module, args, kwargs):
                squares[name][now.index] += F.normalize(args[0].flatten(0, -2).float(), dim=-1).square().sum(0)

            return read

        with pipe.hooked({name: reader(name) for name in names}, pre=True):
            for start in range(0, len(prompts), self.batch):
                some = prompts[start : start + self.batch]
                if self.layers == "text":
                    pipe.encode([*some, *[""] * len(some)])  # the prompt and the empty one that guidance reads
                else:
                    with pipe.guided_by(now.rule), suppress(Enough):
                        pipe.sample(pipe.encode(some), [ctx.seed("latents")] * len(some), self.sampler(ctx))
        return {name: each.sqrt() for name, each in squares.items()}


class Enough(Exception):
    """Ends a generation whose rest is of no interest."""


class Calls:
    """Plain guidance that counts the denoiser calls of a generation and ends it after `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.index = limit, 0

    def rule(self) -> GuidanceRule:
        usual = classifier_free()

        def predict(step: Step) -> Tensor:
            if step.index >= self.limit:
                raise Enough
            self.index = step.index
            return usual(step)

        return predict


def skilled(weight: Tensor, concept: Tensor, reference: Tensor, ratio: float) -> Tensor:
    """bool [out, in]: weights among the floor(ratio * in) best of their row for the concept, and better than for the reference.

    concept, reference [in]: norms of the inputs. Score: |weight| * norm, in float32.
    """
    size = weight.detach().abs().float()
    best = (size * concept).topk(int(ratio * size.shape[1]), dim=1).indices
    return torch.zeros_like(size, dtype=torch.bool).scatter_(1, best, True) & (size * concept > size * reference)
