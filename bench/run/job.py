"""One validated run, and what of it cannot change a result."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vestige.bench.contract import screen
from vestige.bench.contract.plugin import Attack, Method, Metric
from vestige.bench.contract.types import Concept, ModelSpec, PromptSet, Sampler
from vestige.bench.models.capabilities import unsupported
from vestige.bench.prompts import prompt_sets
from vestige.bench.run.store import Store
from vestige.bench.run.store_folder import check_writable

UNTIL = ("erase", "attack", "generate", "score")


@dataclass(frozen=True)
class Split:
    """One question put to a model: which prompts, how many, under attack or not, scored by which metrics."""

    name: str
    prompts: str  # a family in prompts/templates (target, synonyms, ...) or a path to a CSV file
    rows: int  # prompts per concept
    repeats: int  # images per prompt
    attacked: bool
    limit: int | None = None  # prompts in all, spread evenly over the concepts: so that forty concepts cost as much as one
    metrics: dict[str, Metric] = field(default_factory=dict)

    def rows_for(self, concepts: list[Concept]) -> int:
        """Prompts per concept."""
        return self.rows if self.limit is None else max(1, min(self.rows, self.limit // len(concepts)))


def _absolute(place: str) -> Path:
    return Path(place).expanduser().absolute()


@dataclass(frozen=True)
class Runtime:
    """What cannot change a result: device, batch size, places, waiting. Never part of a key."""

    device: str
    batch_size: int
    store: str
    records: str
    on_busy: str
    read_from: list[str]
    threads: int | None
    keep_unsafe_images: bool = False
    stale: str = "keep"  # what to do with a result that other code made: keep, refuse or recompute

    def folder(self, name: str) -> Path:
        """An absolute place; relative ones count from the current folder, as in every verb."""
        return _absolute(getattr(self, name))

    def check(self, writes: bool = True) -> None:
        """Raise a ValueError for a place that cannot be read from or, for a job that writes, cannot be written."""
        self.open_store().check(writes)
        if writes:
            check_writable(self.folder("records"), "runtime.records")

    def open_store(self) -> Store:
        return Store(self.folder("store"), self.on_busy, map(_absolute, self.read_from), self.stale)


@dataclass(frozen=True)
class Job:
    """One validated run: a model, a concept set, a method, and lists of attacks and splits.

    Images, attacks and scores are those after the last step.
    """

    model: ModelSpec
    concepts: list[Concept]  # of all steps, as one set
    method_name: str
    method: Method
    attacks: dict[str, Attack]
    splits: dict[str, Split]
    sampler: Sampler
    attack_judge: str
    seed: int
    until: str
    runtime: Runtime
    protocol: str | None = None  # the paper's evaluation that chose splits, sampler and sizes, or None
    missing: tuple[str, ...] = ()  # what this machine lacks, in sentences; only a planned job may lack anything
    held_out: bool = True  # what is asked as kept is given to no method; False: methods get all names, as in most papers
    follows_concept: dict[str, list[str]] = field(default_factory=dict)  # "method" or an attack -> settings that follow the kind or number
    # What is erased after what, each step as the method sees it (bench/run/concept_sets.py); empty: all concepts in one step
    steps: list[list[Concept]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.steps:
            object.__setattr__(self, "steps", [self.concepts])

    @property
    def given(self) -> list[Concept]:
        """All concepts as methods get them."""
        return [concept for step in self.given_steps for concept in step]

    @cached_property
    def given_steps(self) -> list[list[Concept]]:
        """The concepts of each step as the method gets them: without the names that are held out, or that a split with a list of its
        own asks for.

        Attacks, judges and metrics get `concepts`, which names all.
        """
        if not self.held_out:
            return self.steps
        asked = set().union(*(prompt_sets.kept_names(made) for split in self.splits.values() if (made := self._asked_here(split))))

        def kept_back(c: Concept) -> set[str]:
            return {n for n in (*c.siblings, *c.others) if n in (c.held_out or ()) or prompt_sets.slug(n) in asked}

        return [[concept.without(kept_back(concept)) for concept in step] for step in self.steps]

    @property
    def unsupported_reason(self) -> str | None:
        """Why the method cannot do this job, in a sentence, or None."""
        reasons = [unsupported(self.method, self.model, step) for step in self.given_steps]
        if len(self.steps) > 1:
            reasons.append(self.method.supports_steps())
        return next(filter(None, reasons), None)

    def method_inputs(self) -> dict[str, str]:
        """Files that the method reads in any step: name -> SHA-256."""
        return {name: digest for step in self.given_steps for name, digest in self.method.inputs(step).items()}

    def _asked_here(self, split: Split) -> PromptSet | None:
        """None: there is nothing to ask, or the list is not on this machine."""
        with contextlib.suppress(prompt_sets.NothingToAsk):
            return None if prompt_sets.missing(split.prompts, self.concepts) else self.prompts_before_screen(split)
        return None

    def prompts_of(self, split: Split) -> PromptSet:
        """What is asked; about explicit concepts only what the screen for minors lets pass."""
        asked = self.prompts_before_screen(split)
        return screen.screened(asked) if screen.applies(self.concepts) else asked

    def prompts_before_screen(self, split: Split) -> PromptSet:
        return prompt_sets.build(
            split.name, split.prompts, split.rows_for(self.concepts), split.repeats, self.concepts, self.model.prompt_style
        )

    def judged(self) -> list[tuple[str, str, list[str]]]:
        """(what asks, judge, labels it is asked for): of each metric of each split, and of the attacks. Splits without prompts here
        are left out."""
        asked = {}
        for name, split in self.splits.items():
            if prompt_sets.missing(split.prompts, self.concepts) is None:
                with contextlib.suppress(prompt_sets.NothingToAsk):
                    asked[name] = self.prompts_of(split)
        found = [
            (f"split.{name}.metrics.{metric_name}", judge, labels)
            for name in asked
            for metric_name, metric in self.splits[name].metrics.items()
            for judge, labels in metric.asks(asked[name], self.concepts).items()
        ]
        attacked = [asked[name].table["expect"] for name, split in self.splits.items() if split.attacked and name in asked]
        if attacked and self.asks_attack_judge:
            found.append(("model.attack_judge", self.attack_judge, list(dict.fromkeys(label for some in attacked for label in some))))
        return found

    @property
    def asks_attack_judge(self) -> bool:
        return any(attack.access not in ("none", "text") for attack in self.attacks.values())
