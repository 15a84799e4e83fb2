"""Does the erased model still know the concept inside, whatever it draws? Linear probes: the concept against its siblings."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Metric, MetricContext, unsupported_reason
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, PromptSet, Scores
from vestige.bench.models.process import LENGTH
from vestige.bench.prompts import prompt_sets
from vestige.bench.statistics.intervals import balanced_interval
from vestige.bench.statistics.score_intervals import MEASURED
from vestige.bench.vision.representations import TEXT, activations, check_sites, fitted_probe, folds_of, shared_noise, text_states
from vestige.metrics._rows import refuse_empty

CONDITIONS = ("empty", "prompt")
SHUFFLES = 20


@dataclass
class ConceptProbe(Metric):
    """Share of held-out images told right, mean of both classes (chance 0.5), by probes on the site's activations:

    probe_<site>_original: learnt and asked in the original model; probe_<site>_transfer: learnt there, asked in the erased
    one; probe_<site>_refit: learnt and asked in the erased one; probe_input: both on the noised images themselves.

    Transfer near `original`: the erased model kept its code for the concept, so the erasure avoids rather than removes it.
    Transfer at chance: that code is gone or moved. Refit says little: a probe that may learn anew tells unlike images apart
    in nearly any features. On the emoji model the oracle, which never saw a dog, has 0.95 (original), 0.50 (transfer) and 0.98
    (refit) at the middle block. Compare it with the oracle's or with probe_input.

    Images are the ORIGINAL's of the concept and of its siblings (with the numbers below those of the probes target and
    siblings, so usually none is drawn), noised to `timestep` with shared noise. Prompts are cross-validated as a whole. The
    scored set itself only says which model is meant: put the metric on one probe. Intervals are over prompts, for the probes as
    they were learnt; the meta data also hold `shuffled`, the original's mean accuracy with labels exchanged among prompts
    (below 0.5: few prompts, balanced folds).

    With condition=empty a site sees the image alone; with prompt also the words. text: prompts alone, no image.
    After "Are We Truly Forgetting?" (arXiv 2503.06991); for diffusion models the protocol is our own.
    """

    columns: ClassVar[dict[str, bool]] = {"probe": True}
    needs: ClassVar[tuple[str, ...]] = ("draw", "levels", "states")
    quick: ClassVar[dict] = {"target_rows": 4, "sibling_rows": 4, "repeats": 1, "folds": 2}

    sites: list[str]  # text, or of the model's family: cross_attention, mid, up of UNets
    timestep: int  # level of noise, told to the denoiser
    condition: str  # empty or prompt
    prompt_style: str  # which templates the prompts are written with
    target_rows: int  # prompts per concept
    sibling_rows: int
    repeats: int  # images per prompt
    folds: int
    ridge: float  # of the probes, relative to the number of features
    batch_size: int
    seed: int  # of noise and folds

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError("metric sites=[] names no place to read states at: give at least one, such as text.")
        if self.condition not in CONDITIONS:
            raise ValueError(f"metric condition={self.condition!r} is not known. Allowed: {', '.join(CONDITIONS)}.")
        if not 0 <= self.timestep < LENGTH or self.ridge <= 0:
            raise ValueError(f"metric timestep={self.timestep} must be in 0 to {LENGTH - 1} and ridge={self.ridge} above 0.")
        if not 2 <= self.folds <= min(self.target_rows, self.sibling_rows):
            raise ValueError(f"metric folds={self.folds} must be at least 2 and at most the prompts of either kind.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if not any(concept.asked_of(concept.siblings) for concept in concepts):
            return "concept_probe tells a concept from its siblings, and these concepts list none that are asked for (held_out)."
        lack = unsupported_reason(self.sets, concepts)
        return check_sites("concept_probe", self.sites, model) or (lack and f"concept_probe's target_rows and sibling_rows: {lack}")

    def sets(self, concepts: list[Concept]) -> list[PromptSet]:
        """What both models are asked: of the concept, of its siblings."""
        return [
            prompt_sets.build(family, family, rows, self.repeats, concepts, self.prompt_style)
            for family, rows in (("target", self.target_rows), ("siblings", self.sibling_rows))
        ]

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "concept_probe")
        original = context.original_pipe()
        sets = self.sets(context.concepts)
        seen = Images.of([context.images(asked) for asked in sets], original, self)
        before = seen.read(original)
        with context.erased_pipe() as erased:
            after = seen.read(erased)
        totals, intervals, shuffled = {}, {}, {}
        flat = original.process.add_noise(seen.latents, seen.noise, torch.full((len(seen.latents),), self.timestep)).flatten(1)
        right = self.asked(flat, flat, seen.labels, self.folds_per_class(seen.labels, seen.groups))
        totals["probe_input"] = balanced(right, seen.labels)
        intervals["probe_input"] = balanced_interval(right, seen.groups, seen.labels)
        for site in self.sites:
            labels, groups = seen.rows_of(site)
            fold = self.folds_per_class(labels, groups)
            questions = {"original": (before, before), "transfer": (before, after), "refit": (after, after)}
            for name, (learnt, asked) in questions.items():
                right = self.asked(learnt[site], asked[site], labels, fold)
                totals[f"probe_{site}_{name}"] = balanced(right, labels)
                intervals[f"probe_{site}_{name}"] = balanced_interval(right, groups, labels)
            shuffled[site] = sum(self.by_chance(before[site], labels, groups, k) for k in range(SHUFFLES)) / SHUFFLES
        meta = {"n": len(seen.labels), MEASURED: intervals, "shuffled": shuffled, "timestep": self.timestep}
        return Scores(totals, None, meta)

    def by_chance(self, x: Tensor, labels: Tensor, groups: list[str], k: int) -> float:
        mixed = exchanged(labels, groups, self.seed + k)
        return balanced(self.asked(x, x, mixed, self.folds_per_class(mixed, groups)), mixed)

    def folds_per_class(self, labels: Tensor, groups: list[str]) -> Tensor:
        fold = torch.zeros(len(labels), dtype=torch.long)
        for kind in (True, False):
            rows = (labels == kind).nonzero().flatten().tolist()
            fold[rows] = folds_of([groups[k] for k in rows], self.folds, self.seed)
        return fold

    def asked(self, learnt: Tensor, asked: Tensor, labels: Tensor, fold: Tensor) -> Tensor:
        """bool [n]: was each row told right by a probe that did not learn from its prompt?"""
        right = torch.zeros(len(labels), dtype=torch.bool)
        for k in range(self.folds):
            held = fold == k
            probe = fitted_probe(learnt[~held], labels[~held], self.ridge)
            right[held] = (probe(asked[held]) > 0) == labels[held]
        return right


@dataclass
class Images:
    """What both models are shown, row by row."""

    metric: ConceptProbe
    prompts: list[str]
    groups: list[str]
    labels: Tensor  # bool [n]: shows the concept
    latents: Tensor
    noise: Tensor

    @classmethod
    def of(cls, sets: list[ImageSet], pipe, metric: ConceptProbe) -> "Images":
        names = [(kind, *row) for kind, s in enumerate(sets) for row in zip(s.index["row_id"], s.index["rep"].tolist(), strict=True)]
        latents = torch.cat([pipe.encode_images(part).cpu() for s in sets for part in s.batches(metric.batch_size)])
        labels = torch.tensor([kind == 0 for kind, _, _ in names])
        texts = [text for s in sets for text in s.index["prompt"]]
        groups = [f"{kind}/{group}" for kind, s in enumerate(sets) for group in s.index["group"]]  # a sentence is learnt or asked
        return cls(metric, texts, groups, labels, latents, shared_noise(latents, names, metric.seed))

    def read(self, pipe) -> dict[str, Tensor]:
        m = self.metric
        inner = [site for site in m.sites if site != TEXT]
        texts = [""] * len(self.prompts) if m.condition == "empty" else self.prompts
        every = activations(pipe, texts, self.latents, self.noise, m.timestep, inner, m.batch_size) if inner else {}
        if TEXT in m.sites:
            every[TEXT] = text_states(pipe, [self.prompts[k] for k in self.first_of_prompt()], m.batch_size)
        return every

    def rows_of(self, site: str) -> tuple[Tensor, list[str]]:
        rows = self.first_of_prompt() if site == TEXT else list(range(len(self.prompts)))
        return self.labels[rows], [self.groups[k] for k in rows]

    def first_of_prompt(self) -> list[int]:
        place: dict[str, int] = {}
        for k, prompt in enumerate(self.prompts):
            place.setdefault(prompt, k)
        return list(place.values())


def balanced(right: Tensor, labels: Tensor) -> float:
    return float((right[labels].double().mean() + right[~labels].double().mean()) / 2)


def exchanged(labels: Tensor, groups: list[str], seed: int) -> Tensor:
    """Labels dealt out anew among groups, as many of each kind."""
    own = dict(zip(groups, labels.tolist(), strict=True))
    names = list(own)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    dealt = {name: own[names[k]] for name, k in zip(names, order, strict=True)}
    return torch.tensor([dealt[group] for group in groups])
