"""Take away the directions of the text states in which a linear probe reads the concept: INLP, R-LACE and LEACE as erasers.

None of the three was published for text-to-image models (see methods/_guardedness.py for their papers); rows, labels and the
anchored form are ours. Probes are fitted to minimal pairs: the same sentence with the concept and with what it should become.
Guardedness is weak here: attention is not linear and all rows act together, so these are baselines.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.families import family
from vestige.bench.models.pipe import Pipe
from vestige.bench.prompts.prompt_sets import with_articles
from vestige.methods._checks import check_pairs, unsupported_reason
from vestige.methods._closed_form import NO_HYPERPLANE, LinearEdit, hyperplane, kept_names, left_out
from vestige.methods._guardedness import inlp, joined, leace, rlace

POSITIONS = ("begin", "concept", "after", "end", "padding")
NEUTRAL = ("empty", "siblings", "others")
FILLS = ("zero", "mean", "anchor")


@dataclass(frozen=True)
class Examples:
    """Token rows x [n, d] in float64; z [n, concepts], 1 where the row belongs to that concept; place [n], index into POSITIONS;
    anchor [n], true for the rows of the texts that the concepts should become."""

    x: Tensor
    z: Tensor
    place: Tensor
    anchor: Tensor


@dataclass
class LinearErasure(LinearEdit):
    """h -> h - s L (R h - b). Artefact: see LinearEdit; with a shift unless fill is zero."""

    becomes: str  # what a concept is told apart from and, anchored, sent to: {anchor}, {sibling} or a text
    edits: list[str]  # which words of a concept count as the concept: name, aliases
    templates: list[str]  # sentences with {name}; {other} is each unrelated thing in turn
    neutral: list[str]  # further texts without the concept: any of NEUTRAL
    positions: list[str]  # token rows that enter: any of POSITIONS
    padding: int  # padding rows of each sentence, drawn at random
    centre: bool  # fit to rows less the mean of their position
    fill: str  # what stands in the erased directions: zero (T h), mean (of all rows) or anchor (mean of the anchor's rows)
    strength: float  # s: 1 erases, more overshoots

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"edits": ("name", "aliases"), "neutral": NEUTRAL, "positions": POSITIONS}
        for key, allowed in choices.items():
            unknown = set(getattr(self, key)) - set(allowed)
            if unknown:
                raise ValueError(f"method.{key}={getattr(self, key)} contains {sorted(unknown)}. Allowed: {', '.join(allowed)}.")
        if self.fill not in FILLS:
            raise ValueError(f"method.fill={self.fill!r} is not known. Allowed: {', '.join(FILLS)}.")
        if not self.templates or not all("{name}" in template for template in self.templates):
            raise ValueError('method.templates needs sentences, each with {name}: for example method.templates=["a photo of a {name}"].')
        if not self.positions or not self.edits:
            raise ValueError("method.positions and method.edits must not be empty: for example method.positions=[concept,end,padding].")
        if not 0 < self.strength <= 2:
            raise ValueError(f"method.strength={self.strength} must lie above 0 and not above 2.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if self.form == "merge" and self.fill != "zero" and not family(model.family).normed:
            return NO_HYPERPLANE.format(family=model.family)
        texts = {"becomes": self.becomes, "templates": "".join(self.templates)}
        return unsupported_reason(concepts, texts, self.neutral_names, self.anchored_name) or super().supports(model, concepts)

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        check_pairs(pipe, [(name, self.anchored_name(concept)) for concept in concepts for name in self.words_of(concept)])
        if self.form == "merge" and self.fill != "zero":
            hyperplane(pipe)  # raises where the shift cannot be merged
        seen = self.examples(pipe, concepts, ctx.generator("padding"))
        left, right, facts = self.subspace(centred(seen) if self.centre else seen.x, seen.z, ctx)
        middle = {"zero": None, "mean": seen.x.mean(0), "anchor": seen.x[seen.anchor].mean(0)}[self.fill]
        shift = None if middle is None else self.strength * left @ (right @ middle)
        facts |= {"examples": len(seen.x), "directions": left.shape[1], "left_out": left_out(concepts, self.neutral_names)}
        return self.artefact(pipe, -self.strength * left, right.T.contiguous(), shift, **facts)

    def subspace(self, x: Tensor, z: Tensor, ctx: Context) -> tuple[Tensor, Tensor, dict]:
        """(L [d, k], R [k, d], facts for the record) from rows x [n, d] with labels z [n, concepts]."""
        raise TypeError(f"{type(self).__name__} must define subspace(x, z, ctx).")

    # Rows

    @property
    def neutral_names(self) -> list[str]:
        return [source for source in self.neutral if source != "empty"]

    def anchored_name(self, concept: Concept) -> str:
        return self.becomes.format(anchor=concept.anchor, sibling=next(iter(concept.siblings), ""))

    def words_of(self, concept: Concept) -> list[str]:
        return [concept.name] * ("name" in self.edits) + concept.aliases * ("aliases" in self.edits)

    def examples(self, pipe: Pipe, concepts: list[Concept], generator: torch.Generator) -> Examples:
        """Minimal pairs of every concept, rows at matched positions, then the neutral texts."""
        none, parts = torch.zeros(len(concepts)), []  # parts: (rows, places, label, anchor)
        for label, concept in zip(torch.eye(len(concepts)), concepts, strict=True):
            for sentence in sentences(self.templates, concept):
                for word in self.words_of(concept):
                    rows, places = self.rows(pipe, sentence, [word, self.anchored_name(concept)], generator)
                    parts += [(rows[0], places, label, False), (rows[1], places, none, True)]
        for name, concept in kept_names(concepts, self.neutral_names).items():
            for sentence in sentences(self.templates, concept):
                rows, places = self.rows(pipe, sentence, [name], generator)
                parts.append((rows[0], places, none, False))
        if "empty" in self.neutral:
            empty = pipe.null(1).hidden[0]
            parts.append((empty, ["begin", "end"] + ["padding"] * (len(empty) - 2), none, False))
        sizes = torch.tensor([len(rows) for rows, *_ in parts])
        return Examples(
            torch.cat([rows for rows, *_ in parts]).double(),
            torch.stack([label for _, _, label, _ in parts]).double().repeat_interleave(sizes, 0).to(pipe.device),
            torch.tensor([POSITIONS.index(place) for _, places, *_ in parts for place in places], device=pipe.device),
            torch.tensor([anchor for *_, anchor in parts]).repeat_interleave(sizes).to(pipe.device),
        )

    def rows(self, pipe: Pipe, sentence: str, names: list[str], generator: torch.Generator) -> tuple[list[Tensor], list[str]]:
        """The sentence's rows [n, d] with each of the names in it, at matched positions, and the kinds of these positions."""
        head, _, tail = sentence.rpartition("{name}")
        heads = [with_articles(head.replace("{name}", name) + name) for name in names]
        hidden = pipe.encode([with_articles(text + tail) for text in heads]).hidden
        lasts = [len(pipe.text.token_ids(text)) for text in heads]  # position of each name's last token
        after = len(pipe.text.token_ids(with_articles(heads[0] + tail))) - lasts[0]
        room = pipe.text.length - max(lasts) - after - 2
        drawn = torch.randperm(room, generator=generator)[: self.padding].sort().values.tolist()
        steps = {"concept": [0], "after": range(1, after + 1), "end": [after + 1], "padding": [after + 2 + k for k in drawn]}
        chosen = [(place, step) for place in POSITIONS[1:] if place in self.positions for step in steps[place]]
        begin = ["begin"] * ("begin" in self.positions)
        places = begin + [place for place, _ in chosen]
        return [h[[0] * len(begin) + [last + step for _, step in chosen]] for h, last in zip(hidden, lasts, strict=True)], places


def at_least_one(method: LinearErasure, *fields: str) -> None:
    for field in fields:
        if getattr(method, field) < 1:
            raise ValueError(f"method.{field}={getattr(method, field)} must be at least 1.")


def sentences(templates: list[str], concept: Concept) -> list[str]:
    """The templates with only {name} left open."""
    return [t.replace("{other}", other) for t in templates for other in (concept.others if "{other}" in t else [""])]


def centred(seen: Examples) -> Tensor:
    """Rows less the mean of their position: otherwise position itself may count as a direction to take away."""
    x = seen.x.clone()
    for place in seen.place.unique():
        x[seen.place == place] -= x[seen.place == place].mean(0)
    return x


@dataclass
class INLP(LinearErasure):
    """Iterative null-space projection: T projects away the directions of one linear probe after the other."""

    iterations: int  # directions of each concept
    min_accuracy: float  # of a probe on its own rows; below it no further direction is taken
    penalty: float  # C of the linear support vector machine

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "iterations")

    def subspace(self, x: Tensor, z: Tensor, ctx: Context) -> tuple[Tensor, Tensor, dict]:
        basis = joined([inlp(x, y, self.iterations, self.min_accuracy, self.penalty) for y in z.T])
        return basis.T, basis, {}


@dataclass
class RLACE(LinearErasure):
    """The projection of a given rank against which the best probe is worst: a minimax game, for each concept by itself."""

    rank: int  # directions of each concept
    iterations: int
    batch: int
    lr: float
    weight_decay: float
    evaluate_every: int  # steps
    epsilon: float  # stops when a fresh probe's accuracy comes that near to the majority's

    quick: ClassVar[dict] = {"iterations": 20, "evaluate_every": 10}

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "rank", "iterations", "batch", "evaluate_every")

    def subspace(self, x: Tensor, z: Tensor, ctx: Context) -> tuple[Tensor, Tensor, dict]:
        bases = []
        for y in z.T:
            settings = (self.rank, self.iterations, self.batch, self.lr, self.weight_decay, self.evaluate_every, self.epsilon)
            basis, facts = rlace(x, y, *settings, ctx.generator("game"))
            ctx.log(int(facts.pop("steps")), **facts)
            bases.append(basis)
        basis = joined(bases)
        return basis.T, basis, {}


@dataclass
class LEACE(LinearErasure):
    """The least-moving affine map after which the concepts' labels and the states are uncorrelated; all concepts at once."""

    shrinkage: bool  # of the covariance: needed with fewer rows than dimensions
    tolerance: float  # whitened singular values below it are kept

    def subspace(self, x: Tensor, z: Tensor, ctx: Context) -> tuple[Tensor, Tensor, dict]:
        if not self.shrinkage and len(x) <= x.shape[1]:
            raise ValueError(
                f"without shrinkage {len(x)} rows cannot tell {x.shape[1]} dimensions apart: set method.shrinkage=true, or add "
                "templates or padding."
            )
        left, right, values = leace(x, z, self.shrinkage, self.tolerance)
        if left.shape[1] == 0:
            raise ValueError(f"no direction reaches method.tolerance={self.tolerance}: the largest is {values[0]:.1e}. Lower it.")
        # Labels that mean nothing would still give about this much.
        chance = 0.5 * (x.shape[1] / len(x)) ** 0.5
        return left, right, {"singular_values": values.tolist(), "chance_level": chance}
