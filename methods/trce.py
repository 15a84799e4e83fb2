"""Move the end token of unsafe prompts to that of safe ones in closed form, then teach the first denoising steps the safe way.

TRCE, Chen et al., "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models", ICCV 2025 (arXiv
2503.07389); ddgoodgood/TRCE@0da9b71. Stage 1 edits keys and values of cross-attention; stage 2 trains self-attention and the
queries of cross-attention on latents from the concept's own sampling runs. The official phrase pairs were written by a
language model for each concept; here a concept's words are paired with one safe text, or a file of pairs is given.

Stage 1 is solved in float64. The code inverts a float32 matrix, which without a ridge is not its own formula: in one case the
edit had norm 371 where the formula gives 1380.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import frozen_copy, make_trainable
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import LinearEdit, check_spanned, edit_keeping, kept_names, sum_of_squares, width_of, worded
from vestige.methods._trajectories import latents_of

PHRASES = ("name", "aliases", "descriptions")
SOURCES = ("empty", "siblings", "others")
EOT_INDICES = ("whitespace", "token")
STEERED = ("image_self", "cross_q")  # weights that stage 2 trains, by their role


@dataclass(frozen=True)
class Pairs:
    """(unsafe phrase, safe phrase) pairs that are erased together, and the concept whose unrelated things fill {other}."""

    name: str
    phrases: list[tuple[str, str]]
    concept: Concept


@dataclass
class TRCE(LinearEdit):
    """Artefact: "edit.U", "edit.V" (see LinearEdit) and, unless epochs is 0, "<denoiser>.<parameter>" of the trained tensors."""

    evidence: ClassVar[tuple[str, ...]] = ("ddgoodgood/TRCE@0da9b71: stage 1 to 5e-7, stage 2's hinge and gradient to 1e-5",)
    quick: ClassVar[dict] = {
        **{"runs": 2, "steps": 3, "early": 2, "kept_runs": 2, "kept_batch": 2, "lr": 1e-2},
        "templates": ["a photo of {name}"],
    }

    # Stage 1
    phrases: list[str]  # what is called unsafe: any of PHRASES
    safe: str  # what every such phrase is paired with; {anchor} is the concept's anchor, {sibling} its first sibling
    pairs: str | None  # a JSON file [[unsafe, safe], ...] in place of these
    edited_pairs: int  # so many pairs, from the first, enter stage 1; 0: stage 2 alone
    templates: list[str]  # wordings of both phrases and of preserved names: {name}, and {other}: each unrelated thing in turn
    eot_index: str  # whitespace (official): the number of words + 1; token: where the end token really stands
    token_weights: list[float]  # of begin token, first end token, last position and first keyword
    prior: list[str]  # whose wordings are preserved: any of SOURCES
    captions: str | None  # a text file, one caption a line, that joins the prior (paper: MS COCO 2014)
    preserve: float  # weight of the preserved rows' mean square, beside 1 for all pairs
    ridge: float  # pull towards the original weights
    # Stage 2
    epochs: int  # over the sampling runs; 0: stage 1 alone
    steered_pairs: int  # so many pairs, from the first, are sampled
    prompt: str  # how a phrase is asked for; {name}
    runs: int  # sampling runs of unsafe phrases for each concept, as many of every pair
    steps: int  # DDIM steps of a run
    run_guidance: float
    early: int  # the unsafe latents come from the first so many steps
    latent_offset: int  # steps that a latent is ahead of the timestep it is used with: 1 (official) or 0
    guidance: float  # scale w of the references e_0 + w (e_c - e_0)
    margin: float  # of the hinge
    kept_runs: int  # unconditional sampling runs to preserve
    kept_batch: int  # latents of them per iteration
    kept_timesteps: str  # bin (official): anywhere in the step's bin; grid: the step's own
    kept_weight: float
    batch: int  # unsafe latents per iteration
    shuffle: bool  # official: in the order of the pairs
    lr: float
    weight_decay: float
    accumulate_grads: bool  # gradients are never zeroed (official)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, allowed in (("eot_index", EOT_INDICES), ("kept_timesteps", ("bin", "grid")), ("latent_offset", (0, 1))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"method.{field}={getattr(self, field)!r} is not known. Allowed: {', '.join(map(str, allowed))}.")
        for field, known in (("phrases", PHRASES), ("prior", SOURCES)):
            unknown = set(getattr(self, field)) - set(known)
            if unknown:
                raise ValueError(f"method.{field}={getattr(self, field)} contains {sorted(unknown)}. Allowed: {', '.join(known)}.")
        if not self.phrases:
            raise ValueError("method.phrases is empty: for example method.phrases=[name,aliases].")
        if not self.templates or not all("{name}" in template for template in [*self.templates, self.prompt]):
            raise ValueError('method.templates and method.prompt need {name}: for example method.templates=["a photo of {name}"].')
        if len(self.token_weights) != 4 or min(self.token_weights) < 0 or max(self.token_weights) == 0:
            raise ValueError(
                f"method.token_weights={self.token_weights} must be four weights, not all 0: begin token, first end token, last "
                "position, first keyword. The paper's choice is [0,1,0,0]."
            )
        if self.epochs and not 1 <= self.early <= self.steps:
            raise ValueError(f"method.early={self.early} must lie between 1 and method.steps={self.steps}.")
        for field in ("pairs", "captions"):
            if getattr(self, field) is not None and not Path(getattr(self, field)).is_file():
                raise ValueError(f"method.{field}={getattr(self, field)!r} is no file: give the path of one, or null.")
        if self.pairs is not None:
            read_pairs(self.pairs)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on a setting
        return (*super().needs, *(("levels", *STEERED) if self.epochs else ()))

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if self.epochs and model.dtype != "float32":
            return f"TRCE trains float32 weights (it is {model.dtype}): set model.dtype=float32, or method.epochs=0 for stage 1 alone."
        if self.pairs is None and any(concept.kind == "explicit" for concept in concepts):
            return "explicit concepts need your own phrases: set method.pairs to a JSON file [[unsafe, safe], ...]."
        texts = {"safe": self.safe, "templates": "".join(self.templates)}
        sources = [source for source in self.prior if source != "empty"]
        becomes = self.safe_name if self.pairs is None else lambda _: ""  # a file has safe texts of its own
        return unsupported_reason(concepts, texts, sources, becomes) or super().supports(model, concepts)

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        from vestige.bench.models.fingerprints import given

        return given(pairs=self.pairs, captions=self.captions)

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        groups = self.groups(concepts)
        check_pairs(pipe, [pair for group in groups for pair in group.phrases])
        first = self.artefact(pipe, *self.edit(pipe, groups, concepts))
        if self.epochs == 0:
            return first
        original = frozen_copy(pipe.denoiser, steered(pipe).values())
        with super().attach(pipe, first):
            trained = self.steer(pipe, original, groups, ctx)
        parameters = first.meta["parameters"] + sum(tensor.numel() for tensor in trained.values())
        return Erasure(first.tensors | trained, {**first.meta, "parameters": parameters, "tensors": len(trained)})

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        trained = {name: tensor for name, tensor in erasure.tensors.items() if not name.startswith("edit.")}
        with super().attach(pipe, erasure), pipe.replaced(trained):
            yield pipe

    def groups(self, concepts: list[Concept]) -> list[Pairs]:
        if self.pairs is not None:
            return [Pairs("file", read_pairs(self.pairs), concepts[0])]
        made = []
        for concept in concepts:
            said = {"name": [concept.name], "aliases": concept.aliases, "descriptions": concept.descriptions}
            safe = self.safe_name(concept)
            made.append(Pairs(concept.slug, [(unsafe, safe) for source in self.phrases for unsafe in said[source]], concept))
        return made

    def safe_name(self, concept: Concept) -> str:
        return self.safe.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    # Stage 1

    @torch.no_grad()
    def edit(self, pipe: Pipe, groups: list[Pairs], concepts: list[Concept]) -> tuple[Tensor, Tensor]:
        """Factors (U, V) of T: sum_i w_i |W'c_i - W g_i|^2 / sentences + preserve mean_j |W'p_j - W p_j|^2."""
        rows, goals, sentences = [], [], 0
        if self.edited_pairs == 0:
            return (torch.zeros(width_of(pipe), 1, device=pipe.device),) * 2
        for group in groups:
            for unsafe, safe in group.phrases[: self.edited_pairs]:
                asked, wanted = (self.worded(phrase, group.concept) for phrase in (unsafe, safe))
                c, g = self.paired_rows(pipe, asked, wanted, unsafe)
                rows.append(c)
                goals.append(g)
                sentences += len(asked)
        edit, goal, kept = torch.cat(rows), torch.cat(goals), self.kept_texts(concepts)
        check_spanned(len(edit) + len(kept) * pipe.text.length * (self.preserve > 0), edit.shape[1], self.ridge)
        square = sum_of_squares(pipe, kept) / max(1, len(kept) * pipe.text.length)
        return edit_keeping(edit, goal, 1 / sentences, self.preserve * square, self.ridge)

    def worded(self, phrase: str, concept: Concept) -> list[str]:
        return [with_articles(text) for text in worded(self.templates, phrase, concept)]

    def paired_rows(self, pipe: Pipe, asked: list[str], wanted: list[str], keyword: str) -> tuple[Tensor, Tensor]:
        """C and G [n, d], float64, times the root of their weights; only positions that weigh anything."""
        length, hidden = pipe.text.length, pipe.encode([*asked, *wanted]).hidden.double()
        rows, goals = [], []
        for k, (text, safe) in enumerate(zip(asked, wanted, strict=True)):
            end, last = self.tokens_of(pipe, text) + 1, length - 1
            # The code lists a row for every word of the phrase, but has weights for the first of them only.
            places = [0, min(end, last), last, min(self.tokens_of(pipe, text[: text.index(keyword)]) + 1, last)]
            aims = [0, min(self.tokens_of(pipe, safe) + 1, last), last, last]
            base = [1, 1, length - end - 1, 1]
            for place, aim, weight in zip(places, aims, [a * b for a, b in zip(base, self.token_weights, strict=True)], strict=True):
                if weight > 0:
                    rows.append(hidden[k, place] * weight**0.5)
                    goals.append(hidden[len(asked) + k, aim] * weight**0.5)
        return torch.stack(rows), torch.stack(goals)

    def tokens_of(self, pipe: Pipe, text: str) -> int:
        """The length of a text, in words for the official index."""
        return len(text.split()) if self.eot_index == "whitespace" else len(pipe.text.token_ids(text))

    def kept_texts(self, concepts: list[Concept]) -> list[str]:
        names = kept_names(concepts, [source for source in self.prior if source != "empty"])
        texts = Path(self.captions).read_text(encoding="utf-8").splitlines() if self.captions else []
        return texts + [""] * ("empty" in self.prior) + [text for name in names for text in self.worded(name, names[name])]

    # Stage 2

    def steer(self, pipe: Pipe, original: nn.Module, groups: list[Pairs], ctx: Context) -> dict[str, Tensor]:
        """ "<denoiser>.<parameter>", trained from the stage-1 weights now in `pipe`; `original` is the untouched denoiser."""
        chosen = steered(pipe)
        first = frozen_copy(pipe.denoiser, chosen.values())
        unsafe, safe, pair, x, s = self.unsafe_latents(pipe, original, groups, ctx)
        grid = self.grid(pipe).to(pipe.device)
        order = torch.randperm(len(s), generator=ctx.generator("order")) if self.shuffle else torch.arange(len(s))
        iterations = order.split(self.batch)
        kept, kept_t = self.kept_latents(pipe, original, len(iterations), ctx)
        optimiser = torch.optim.AdamW(make_trainable(chosen), lr=self.lr, weight_decay=self.weight_decay)
        with torch.no_grad():
            null = pipe.null(1)
        for step, picked in enumerate(iterations):
            texts = unsafe.rows(pair[picked]), safe.rows(pair[picked]), null.repeat(len(picked))
            hinge = self.hinge(pipe, original, x[picked].to(pipe.device), grid[s[picked]], *texts)
            few, t, plain = kept[step].to(pipe.device), kept_t[step].to(pipe.device), null.repeat(self.kept_batch)
            with torch.no_grad():
                wanted = pipe.predict(few, t, plain, first)
            preserving = mse_loss(pipe.predict(few, t, plain), wanted)
            loss = hinge + self.kept_weight * preserving
            if not self.accumulate_grads:
                optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            ctx.log(step, loss=loss.item(), steering=hinge.item(), preserving=preserving.item())
        return {f"{pipe.denoiser_name}.{name}": parameter.detach().clone() for name, parameter in chosen.items()}

    def hinge(
        self, pipe: Pipe, original: nn.Module, x: Tensor, t: Tensor, unsafe: Conditioning, safe: Conditioning, null: Conditioning
    ) -> Tensor:
        """max(0, |e - e_safe|^2 - |e - e_unsafe|^2 + margin), mean over the batch and both guidance branches.

        x (batch, c, h, w), t (batch,); squares are means over a latent. The two references are guided predictions of the
        original model, e_0 + w (e_c - e_0).
        """
        with torch.no_grad():
            three = Conditioning.cat([unsafe, safe, null])
            e_unsafe, e_safe, e_0 = pipe.predict(torch.cat([x, x, x]), t.repeat(3), three, original).chunk(3)
        both = pipe.predict(torch.cat([x, x]), t.repeat(2), Conditioning.cat([unsafe, null]))
        near, far = ((both - (e_0 + self.guidance * (e - e_0)).repeat(2, 1, 1, 1)).square().mean((1, 2, 3)) for e in (e_safe, e_unsafe))
        return (near - far + self.margin).clamp_min(0).mean()

    @torch.no_grad()
    def unsafe_latents(
        self, pipe: Pipe, original: nn.Module, groups: list[Pairs], ctx: Context
    ) -> tuple[Conditioning, Conditioning, Tensor, Tensor, Tensor]:
        """Unsafe and safe texts (a row for each pair); and, for every visit of a run: pair, latent, step index.

        A run is sampled once, by the original model, and visited once in each epoch.
        """
        unsafe, safe, known = [], [], 0
        visits: list[list[Tensor]] = []
        for group in groups:
            phrases = group.phrases[: self.steered_pairs]
            unsafe.append(pipe.encode([self.asked(pair[0]) for pair in phrases]))
            safe.append(pipe.encode([self.asked(pair[1]) for pair in phrases]))
            pair = torch.arange(self.runs) * len(phrases) // self.runs
            run, generator = torch.arange(self.runs).repeat(self.epochs), ctx.generator(f"runs {group.name}")
            s = torch.randint(self.early, (len(run),), generator=generator)
            done = s + self.latent_offset
            x = latents_of(pipe, original, unsafe[-1].rows(pair), run, done, self.steps, self.run_guidance, generator)
            visits.append([each.unflatten(0, (self.epochs, -1)) for each in (known + pair[run], x, s)])
            known += len(phrases)
        pairs, latents, steps = (torch.cat(parts, 1).flatten(0, 1) for parts in zip(*visits, strict=True))
        return Conditioning.cat(unsafe), Conditioning.cat(safe), pairs, latents, steps

    @torch.no_grad()
    def kept_latents(self, pipe: Pipe, original: nn.Module, iterations: int, ctx: Context) -> tuple[Tensor, Tensor]:
        """Unconditional latents [iterations, kept_batch, c, h, w] and their timesteps; the runs take turns."""
        generator = ctx.generator("unconditional runs")
        run = torch.arange(iterations * self.kept_batch) % self.kept_runs
        s = torch.randint(self.steps, (len(run),), generator=generator)
        null = pipe.null(min(self.kept_runs, len(run)))
        x = latents_of(pipe, original, null, run, s + self.latent_offset, self.steps, 1.0, generator)
        t = self.grid(pipe)[s]
        if self.kept_timesteps == "bin":
            t = t + torch.randint(pipe.process.length // self.steps, t.shape, generator=generator)
        return x.unflatten(0, (iterations, -1)), t.unflatten(0, (iterations, -1))

    def grid(self, pipe: Pipe) -> Tensor:
        """[steps] levels of a sampling run's denoiser calls; the last is 0."""
        return pipe.process.grid(self.steps, offset=0)[:-1]

    def asked(self, phrase: str) -> str:
        return with_articles(self.prompt.format(name=phrase))


def steered(pipe: Pipe) -> dict[str, nn.Parameter]:
    """What stage 2 trains, by parameter name."""
    return {name: parameter for group in STEERED for name, parameter in pipe.group(group).items()}


def read_pairs(file: str) -> list[tuple[str, str]]:
    """Pairs in the official format."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    if not content or not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair) for pair in content):
        raise ValueError(f"method.pairs={file!r} must hold a JSON list of pairs of texts: [[unsafe, safe], ...].")
    return [(unsafe, safe) for unsafe, safe in content]
