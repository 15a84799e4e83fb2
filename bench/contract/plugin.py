"""The contract of methods, attacks and metrics. These docstrings are its documentation.

A plugin is two files: a class with typed fields in methods/, attacks/ or metrics/ (or anywhere importable) and a YAML in
conf/<group>/ whose `_target_` names the class and whose keys are its fields. Fields have no defaults: all numbers stand in
the YAML. `vestige check method=mine` runs the contract tests on a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vestige.bench.contract import screen
from vestige.bench.contract.resume import Progress
from vestige.bench.contract.types import Adversary, Concept, Erasure, ImageSet, ModelSpec, PromptSet, Sampler, Scores, derived_seed

if TYPE_CHECKING:
    import torch

    from vestige.bench.models.pipe import Images, Pipe


@dataclass
class Context:
    """What the harness offers a plugin while it works. Nothing here depends on wall clock or loop order."""

    seed_words: tuple  # what this stage's randomness may depend on
    sampler: Sampler  # the protocol's sampler
    original: Callable[[], Pipe]  # an untouched copy of the model, loaded on first use
    score_table: Callable[[PromptSet, Sampler], ImageSet]  # drawn by the original model, stored, shared by all jobs
    history: list[dict] = field(default_factory=list)  # what `log` collected; written beside the artefact
    progress: Progress = field(default_factory=Progress)  # checkpoints, see `resumable`

    def seed(self, purpose: str) -> int:
        """A seed for one purpose ("latents", "order"), equal in every repetition of this stage."""
        return derived_seed(*self.seed_words, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose; move the drawn tensors to the device afterwards."""
        import torch

        return torch.Generator().manual_seed(self.seed(purpose))

    def generate(self, prompts: list[str], per_prompt: int, sampler: Sampler | None = None) -> torch.Tensor:
        """Images by the ORIGINAL model, uint8 [len(prompts) * per_prompt, 3, h, w], those of one prompt together."""
        import pandas as pd

        rows = [{"row_id": f"{k:04d}", "prompt": p, "role": "free", "expect": "", "names": 1, "group": p} for k, p in enumerate(prompts)]
        return self.score_table(PromptSet("material", pd.DataFrame(rows), per_prompt), sampler or self.sampler).pixels()

    def log(self, step: int, **numbers: float) -> None:
        self.history.append({"step": step, **{name: float(value) for name, value in numbers.items()}})

    def resumable(self, name: str, steps: Sequence, **parts: Any) -> Iterator:
        """`for step in ctx.resumable("training", range(n), word=word, optimiser=optimiser, generator=generator):` goes on after a kill.

        `parts` names all that the body changes: tensors (written in place), generators, anything with a state_dict, and lists or
        dicts of these or of plain data (refilled). A name is used once per stage; such loops may be nested. History and budget
        are kept too: the end is that of a run in peace.
        """
        return self.progress.loop(name, steps, self.history, parts)


class Method:
    """An eraser. Subclass as a dataclass; `erase` produces the artefact, `attach` is the only way to use it.

    version: raise it when results would change. intervention: weights (edited tensors), adapter (inserted modules), sampling
    (changed guidance), filter (images checked at the end) or none. detachable: an owner of the weights can take it off.
    limits: one sentence on what a white-box attack cannot see, or empty. evidence: comparisons with programs of the authors,
    each "owner/name@commit: what agrees"; `vestige ls methods` shows them.
    """

    version: ClassVar[int] = 1
    intervention: ClassVar[str] = "weights"
    families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl")
    detachable: ClassVar[bool] = False
    limits: ClassVar[str] = ""
    evidence: ClassVar[tuple[str, ...]] = ()

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        """None if this method can erase these concepts from this model, else a sentence. No model is loaded yet."""
        if model.family not in self.families:
            return f"{type(self).__name__} is written for {', '.join(self.families)}; model {model.name!r} is {model.family}."
        return None

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        """Files the artefact depends on beside the model: name -> SHA-256. They enter the stage's key."""
        return {}

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        """Erase and return the artefact. May leave `pipe` dirty: the harness restores it."""
        raise TypeError(f"{type(self).__name__} must define erase(pipe, concepts, ctx) -> Erasure.")

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        """Make `pipe` behave as the erased model inside the `with`. Default: copy the tensors in, restore at the end."""
        with pipe.replaced(erasure.tensors):
            yield pipe


@dataclass
class Victim:
    """The erased model as an attack sees it, with the judge the attack may ask. The harness counts every call."""

    pipe: Pipe  # with the method attached
    concepts: list[Concept]
    method: Method
    sampler: Sampler
    judge: Callable[[torch.Tensor, list[str]], torch.Tensor]  # (uint8 images, expected labels) -> bool [n]

    def images(self, prompts: PromptSet, rows: list[int] | None = None) -> torch.Tensor:
        """One image per row (first repetition) with the row's own seed, uint8 [n, 3, h, w]."""
        return self.drawn(prompts, rows).pixels

    def drawn(self, prompts: PromptSet, rows: list[int] | None = None) -> Images:
        """The same with the answer of an output filter: status ok, blocked or nan."""
        table = prompts.table if rows is None else prompts.table.iloc[rows]
        seeds = [prompts.seed(row_id, 0) for row_id in table["row_id"]]
        texts = table["prompt"].tolist()
        image_ids = [(row_id, 0) for row_id in table["row_id"]]
        return self.pipe(screen.drawable(texts) if screen.applies(self.concepts) else texts, seeds, self.sampler, image_ids)


class Attack:
    """An attempt to get the concept back; the base class itself is the control that does nothing.

    access: none, text, latents (where sampling starts and how it steps), images (queries), gradients, embedding or weights.
    evidence: as of a Method.
    """

    version: ClassVar[int] = 1
    access: ClassVar[str] = "none"
    queries_denoiser: ClassVar[bool] = True  # False: an attack on the text encoder alone
    evidence: ClassVar[tuple[str, ...]] = ()
    families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        """None if this attack applies, else a sentence that reaches the table. No model is loaded yet."""
        if model.family not in self.families:
            return f"{type(self).__name__} is written for {', '.join(self.families)}; model {model.name!r} is {model.family}."
        return None

    def transfers(self) -> bool:
        """True: the search never asks the erased model, so one search (with the original in the victim's place) serves all methods."""
        return False

    def inputs(self) -> dict[str, str]:
        """Files of the user's own that the attack reads: name -> SHA-256. They enter the stage's key."""
        return {}

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        """Search for prompts, embeddings or weights. Row ids and their order stay those of `prompts`.

        A search that asks the judge after each try tells when it first succeeded in the column found_at: 1-based, 0 before the
        attack already, -1 never. The table then shows the rate at the first and at the last try.
        """
        raise TypeError(f"{type(self).__name__} must define attack(victim, prompts, ctx) -> Adversary.")

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        """Put learnt tensors in force. Default: tensors named "<part>.<parameter>" are copied in and later restored."""
        return pipe.replaced(adversary.tensors)


def unsupported_reason(check: Callable[..., object], *asked) -> str | None:
    """What `supports` answers when a check raises: its sentence, or None."""
    try:
        check(*asked)
    except ValueError as reason:
        return str(reason)
    return None


def _no_model(*_):
    raise ValueError("this metric looks inside the model, and the place it is used in has only images.")


@dataclass
class MetricContext:
    """What a metric may ask for beside the images it scores. Models are loaded when they are first asked for."""

    concepts: list[Concept]
    original: Callable[[], ImageSet]  # the original model's images of the same prompts and seeds
    features: Callable[[ImageSet, str], torch.Tensor]  # (images, extractor) -> [n, d], computed once per set
    original_pipe: Callable[[], Pipe] = _no_model  # the untouched model
    erased_pipe: Callable[[], AbstractContextManager[Pipe]] = _no_model  # the model that drew the scored images, attack in force
    score_table: Callable[[PromptSet], ImageSet] = _no_model  # of other prompts, drawn by the original, stored, shared by all jobs


class Metric:
    """A number per image, or per set of images. columns: name -> whether higher is better on kept prompts.

    On target prompts the reading of presence-like columns is the reverse; the leaderboard knows the role of each row.
    rates: columns that say yes (1) or no (0) of each image, `*_right` for all that end so. Their intervals lie within 0 and 1
    and have a width even when every answer is the same (bench/statistics/score_intervals.py); those of other columns may not.
    """

    version: ClassVar[int] = 1
    columns: ClassVar[dict[str, bool]] = {}
    rates: ClassVar[tuple[str, ...]] = ()

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        """None if this metric can score this model's images, else a sentence. No model is loaded yet."""
        return None

    def inputs(self) -> dict[str, str]:
        """Files that the score depends on (weights, the user's own or shipped, and lists): name -> digest. They enter the stage's key."""
        return {}

    def asks(self, asked: PromptSet, concepts: list[Concept]) -> dict[str, list[str]]:
        """Judge -> the labels it must know to score images of these prompts. Checked before anything runs."""
        return {}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        """Score a set. Raise ValueError with a sentence for an empty set."""
        raise TypeError(f"{type(self).__name__} must define score(images, material) -> Scores.")
