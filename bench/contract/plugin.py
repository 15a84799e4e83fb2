"""The contract of methods, attacks and metrics. These docstrings are its documentation.

A plugin is two files: a class with typed fields in methods/, attacks/ or metrics/ (or anywhere importable), and a YAML in
conf/<group>/ whose `_target_` names the class and whose other keys are its fields. Fields have no defaults: all numbers are in
the YAML. `vestige check method=mine` runs the contract tests on a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from vestige.bench.contract import batches, screen
from vestige.bench.contract.resume import Progress
from vestige.bench.contract.shared import NoSampler, Shared, made_in
from vestige.bench.contract.types import Adversary, Concept, Erasure, ImageSet, ModelSpec, PromptSet, Sampler, Scores, derived_seed

if TYPE_CHECKING:
    import torch

    from vestige.bench.models.pipe import Images, Pipe


@dataclass
class Context:
    """What the harness offers a plugin. Nothing here depends on the clock or on the order of loops."""

    seed_words: tuple  # what this stage's randomness may depend on
    sampler: Sampler  # the protocol's sampler
    original: Callable[[], Pipe]  # an untouched copy of the model, loaded on first use
    images: Callable[[PromptSet, Sampler], ImageSet]  # drawn by the original model, stored, shared by all jobs
    history: list[dict] = field(default_factory=list)  # what `log` collected; saved with the artefact
    progress: Progress = field(default_factory=Progress)  # checkpoints, see `resumable`
    find_or_make: Callable[[Shared, Context], Path] = field(default_factory=made_in)  # see `shared`

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
        return self.images(PromptSet("material", pd.DataFrame(rows), per_prompt), sampler or self.sampler).pixels()

    def log(self, step: int, **numbers: float) -> None:
        self.history.append({"step": step, **{name: float(value) for name, value in numbers.items()}})

    def shared(self, name: str, spec: dict[str, Any], make: Callable[[Pipe, Path, Context], Any]) -> Path:
        """The folder of work that depends on no concept: made once for a model, kept in the store, read by every job that asks.

        `make(pipe, folder, ctx)` fills the folder with the original model; files it finds there are what a killed run had finished.
        `ctx` is a context of its own: its seeds follow the model, the name and the spec, it logs and resumes as usual, and it has no
        sampler. Everything else that decides the result stands in `spec`. The plugin's `shares()` must name the work.
        """
        return self.find_or_make(Shared(name, spec, make), self)

    def for_shared(self, key: str, progress: Progress | None = None) -> Context:
        """The context that `make` gets: nothing in it depends on the job."""
        return replace(self, seed_words=("shared", key), sampler=cast(Sampler, NoSampler()), history=[], progress=progress or Progress())

    def resumable(self, name: str, steps: Sequence, **parts: Any) -> Iterator:
        """`for step in ctx.resumable("training", range(n), word=word, optimiser=optimiser, generator=generator):` goes on after a kill.

        `parts` names all that the body changes: tensors (written in place), generators, anything with a state_dict, and lists or
        dicts of these or of plain data (refilled). A name is used once per stage; such loops may be nested. History and budget
        are kept too: the result is that of an uninterrupted run.
        """
        return self.progress.loop(name, steps, self.history, parts)


class Method:
    """An eraser. Subclass as a dataclass; `erase` produces the artefact, `attach` is the only way to use it.

    version: raise it when results would change. intervention: weights (edited tensors), adapter (inserted modules), sampling
    (changed guidance), filter (images checked at the end) or none. detachable: an owner of the weights can remove it.
    needs: the capabilities and weight groups that a model's family must offer (bench/models/families/base.py); may be a property.
    limits: one sentence on what a white-box attack cannot see, or empty. evidence: comparisons with programs of the authors,
    each "owner/name@commit: what agrees"; `vestige ls methods` shows them.
    """

    version: ClassVar[int] = 1
    intervention: ClassVar[str] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("draw",)
    detachable: ClassVar[bool] = False
    limits: ClassVar[str] = ""
    evidence: ClassVar[tuple[str, ...]] = ()

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        """None if this method can erase these concepts from this model, else a sentence. No model is loaded yet.

        Whether the model's family offers what `needs` names has been asked before.
        """
        return None

    def supports_steps(self) -> str | None:
        """None if this method can erase from a model that it has erased from before (`steps`), else a sentence.

        Each step's `erase` gets the model as the steps before it left it, and their artefacts stay attached under the new one. A
        rule of sampling takes the place of the one before it, so it cannot be put on top.
        """
        if self.intervention == "sampling":
            return (
                f"{type(self).__name__} changes how images are sampled, and a later step would take the place of the one before. "
                "Erase all concepts in one step: leave steps out."
            )
        return None

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        """Files that the artefact depends on, in addition to the model: name -> SHA-256. They are part of the stage's key."""
        return {}

    def shares(self) -> list[Shared]:
        """Work that `erase` will ask `ctx.shared` for: read by all jobs on a model, whatever their concepts."""
        return []

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        """Erase and return the artefact. May leave `pipe` dirty: the harness restores it.

        In a later step of a sequence `pipe` has the steps before it attached; `ctx.original()` and `ctx.generate` are still the
        original model's. The artefact is attached on top of theirs.
        """
        raise TypeError(f"{type(self).__name__} must define erase(pipe, concepts, ctx) -> Erasure.")

    @contextmanager
    def attach(self, pipe: Pipe, erasure: Erasure) -> Iterator[Pipe]:
        """Make `pipe` behave as the erased model inside the `with`. Default: copy the tensors in, restore at the end."""
        with pipe.replaced(erasure.tensors):
            yield pipe


@dataclass
class Victim:
    """The erased model as an attack sees it, with the judge that the attack may query. The harness counts every call."""

    pipe: Pipe  # with the method attached
    concepts: list[Concept]
    method: Method
    sampler: Sampler
    judge: Callable[[torch.Tensor, list[str]], torch.Tensor]  # (uint8 images, expected labels) -> bool [n]
    touched: frozenset[str] = frozenset()  # parts of the model that the erasure changed, see Erasure.touched
    batch_size: int = 32  # images drawn at once

    def images(self, prompts: PromptSet, rows: list[int] | None = None) -> torch.Tensor:
        """One image per row (first repetition) with the row's own seed, uint8 [n, 3, h, w]."""
        return self.drawn(prompts, rows).pixels

    def drawn(self, prompts: PromptSet, rows: list[int] | None = None) -> Images:
        """The same with the answer of an output filter: status ok, blocked or nan."""
        table = prompts.table if rows is None else prompts.table.iloc[rows]
        texts = table["prompt"].tolist()
        texts = screen.drawable(texts) if screen.applies(self.concepts) else texts
        wanted = [batches.Wanted(text, prompts.seed(name, 0), (name, 0)) for text, name in zip(texts, table["row_id"], strict=True)]
        return batches.joined([images for _, images in batches.draw(self.pipe, batches.cut(wanted, self.batch_size), self.sampler)])


class Attack:
    """An attempt to get the concept back; the base class itself is the control that does nothing.

    access: none, text, latents (where sampling starts and how it steps), images (queries), gradients, embedding or weights.
    evidence, needs: as of a Method.
    """

    version: ClassVar[int] = 1
    access: ClassVar[str] = "none"
    queries_denoiser: ClassVar[bool] = True  # False: an attack on the text encoder alone
    evidence: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("draw",)

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        """None if this attack applies, else a sentence that reaches the table. No model is loaded yet."""
        return None

    def transfers(self) -> bool:
        """True: the search never queries the erased model, so one search (on the original model) serves all methods."""
        return False

    def inputs(self) -> dict[str, str]:
        """Files of the user's own that the attack reads: name -> SHA-256. They enter the stage's key."""
        return {}

    def shares(self) -> list[Shared]:
        """Work that `attack` will ask `ctx.shared` for: read by all jobs on a model, whatever their concepts."""
        return []

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        """Search for prompts, embeddings or weights. Row ids and their order stay those of `prompts`.

        A search that queries the judge after each try stores in the column found_at at which try it succeeded: 1, 2, ...; 0: already
        without attack; -1: never. The table then shows the rate at the first and at the last try.
        """
        raise TypeError(f"{type(self).__name__} must define attack(victim, prompts, ctx) -> Adversary.")

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        """Apply learned tensors. Default: tensors named "<part>.<parameter>" are copied in, and restored at the end."""
        return pipe.replaced(adversary.tensors)


def unsupported_reason(check: Callable[..., object], *asked) -> str | None:
    """The answer of `supports` from a check that may raise: its sentence, or None."""
    try:
        check(*asked)
    except ValueError as reason:
        return str(reason)
    return None


def _no_model(*_):
    raise ValueError("this metric needs the model, but here it is given images only.")


@dataclass
class MetricContext:
    """What a metric may use in addition to the images it scores. A model is loaded when it is first used."""

    concepts: list[Concept]
    original: Callable[[], ImageSet]  # the original model's images of the same prompts and seeds
    features: Callable[[ImageSet, str], torch.Tensor]  # (images, extractor) -> [n, d], computed once per set
    original_pipe: Callable[[], Pipe] = _no_model  # the untouched model
    erased_pipe: Callable[[], AbstractContextManager[Pipe]] = _no_model  # the model that drew the scored images, attack in force
    images: Callable[[PromptSet], ImageSet] = _no_model  # of other prompts, drawn by the original, stored, shared by all jobs


class Metric:
    """A number per image, or per set of images. columns: name -> whether higher is better on kept prompts.

    On target prompts lower presence is better; the leaderboard knows the role of each row.
    rates: columns with yes (1) or no (0) for each image; `*_right` means all columns that end so. Their intervals lie within 0 and 1
    and have a width even when every answer is the same (bench/statistics/score_intervals.py); those of other columns may not.
    needs: as of a Method.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("draw",)
    columns: ClassVar[dict[str, bool]] = {}
    rates: ClassVar[tuple[str, ...]] = ()

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        """None if this metric can score this model's images, else a sentence. No model is loaded yet.

        Whether the model's family offers what `needs` names has been asked before.
        """
        return None

    def inputs(self) -> dict[str, str]:
        """Files that the score depends on (weights, the user's own or shipped, and lists): name -> digest. They enter the stage's key."""
        return {}

    def asks(self, asked: PromptSet, concepts: list[Concept]) -> dict[str, list[str]]:
        """Judge -> the labels it must know to score images of these prompts. Checked before anything runs."""
        return {}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        """Score a set. Raise ValueError with a sentence for an empty set."""
        raise TypeError(f"{type(self).__name__} must define score(images, context) -> Scores.")
