"""A published table as jobs of our grid: the commands, what is missing on this machine, and the cost.

Loads no model; torch only when judges are asked whether their weights are here.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.papers.mapping import Absent, PaperMap, PaperTable, lacks, names, of_kind
from vestige.bench.papers.published import Published
from vestige.bench.places import config_folders
from vestige.bench.run import choices

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Seconds of one guided denoiser step of one image. sd1: 30,000 images of 50 steps take about 12 hours on one A100-class GPU in
# fp16 at batch 8. sdxl: four times the pixels and three times the parameters. sd3, flux: a guess from
# their operations (flux without a second branch). janus: a guess for a token. emoji: a guess for one CPU core at batch 32.
SECONDS = {"sd1": 0.029, "sd2": 0.029, "sdxl": 0.2, "sd3": 0.3, "flux": 0.7, "janus": 0.02, "emoji": 0.006}
ASSUMED = {
    "photo": "{seconds} s per guided step of one image on one A100-class GPU in fp16; erasing and judging not counted",
    "emoji": "{seconds} s per guided step of one image on one CPU core; erasing and judging not counted",
}
UNKNOWN = "without the images of jobs whose protocol or concept is missing"
STEPS = 50  # where neither a protocol nor a published sampler says it


@dataclass(frozen=True)
class Work:
    """Jobs that one command runs: every method on every concept (a+b: erased together)."""

    model: str
    protocol: str | None
    methods: tuple[str, ...]
    concepts: tuple[str, ...]
    attacks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """What stands after `vestige run`."""
        concepts = [f"[{c.replace('+', ',')}]" if "+" in c else c for c in self.concepts]
        sweep = ["-m"] if len(self.methods) * len(concepts) > 1 else []
        protocol = [f"protocol={self.protocol}"] if self.protocol else []
        attacks = [f"attack=[{','.join(('none', *self.attacks))}]"] if self.attacks else []
        runtime = [] if domain_of(self.model) == "emoji" else ["runtime=gpu"]
        chosen = [f"method={','.join(self.methods)}", f"concept={','.join(concepts)}"]
        # Papers gave methods every name that they then scored.
        return [*sweep, f"model={self.model}", *protocol, *chosen, *attacks, "held_out=false", *runtime, *self.settings]

    def lacks(self, concept: str, extra: Path | None) -> list[str]:
        """Names of its command that no config has."""
        asked = [("concept", concept), *(("attack", name) for name in self.attacks)]
        asked += [("protocol", self.protocol)] if self.protocol else []
        return [why for group, name in asked if (why := lacks(group, name, extra))]

    def runnable(self, extra: Path | None) -> Work | None:
        """The part of it whose names all exist."""
        concepts = tuple(concept for concept in self.concepts if not self.lacks(concept, extra))
        return replace(self, concepts=concepts) if concepts else None

    def command(self, extra: Path | None) -> str:
        return shlex.join(["vestige", "run", *(["--config-dir", str(extra)] if extra else []), *self.words()])


@dataclass
class TablePlan:
    """What one table asks of our grid."""

    table: PaperTable
    rows: list[Published]
    work: list[Work] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)  # a printed word -> why nothing of ours stands for it
    missing: list[str] = field(default_factory=list)  # what this machine lacks, in sentences
    jobs: int = 0
    images: int = 0
    seconds: float = 0.0
    assumed: list[str] = field(default_factory=list)


def plan(paper: PaperMap, table: PaperTable, rows: list[Published], model: str | None, extra: Path | None, ask: bool) -> TablePlan:
    """model: instead of the paper's own. extra: a folder with more configs. ask: judges too whether their weights are here."""
    if model is not None:
        _known_model(model, extra)
    made = TablePlan(table, [row for row in rows if row.table == table.name])
    jobs: dict[str, list[tuple[str, str]]] = {}  # model -> (method, concept) in the table's order
    for row in made.rows:
        here = model or paper.models.get(row.model)
        lost = uncovered(paper, table, row, here, extra)
        made.uncovered |= lost
        if here is not None and not lost:
            wanted = jobs.setdefault(here, [])
            wanted += [job for job in jobs_of(paper, table, row, here, extra) if job not in wanted]
    for here, wanted in jobs.items():
        made.work += _grouped(here, table, wanted, extra)
    _survey(made, extra, ask)
    return made


def uncovered(paper: PaperMap, table: PaperTable, row: Published, model: str | None, extra: Path | None) -> dict[str, str]:
    """The words of a row that nothing of ours stands for: word -> why. Weights, judges and config files are no matter here."""
    method = method_of(paper, row, model, extra)
    words = {row.model: model, row.method: method, row.concept: concepts_of(table, row, model), row.metric: table.reading(row)}
    return {
        word: ours.reason if isinstance(ours, Absent) else "not in Vestige"
        for word, ours in words.items()
        if ours is None or isinstance(ours, Absent)
    }


def method_of(paper: PaperMap, row: Published, model: str | None, extra: Path | None) -> str | Absent | None:
    """Our method for a row; on the emoji model one with numbers tuned for it, because those of a paper would erase nothing there."""
    name = paper.methods.get(row.method)
    if not isinstance(name, str):
        return name
    if lacks("method", name, extra):
        return None
    if domain_of(model) == "emoji" and name != "original" and model not in choices.tuned_for("method", name, config_folders(extra)):
        return Absent(f"method {name} has no numbers tuned for the {model} model")
    return name


def concepts_of(table: PaperTable, row: Published, model: str | None) -> list[str] | Absent | None:
    """What is erased for a row, one entry per job."""
    if domain_of(model) == "emoji":
        return of_kind(table.emoji, row, row.concept) or Absent("it has no counterpart on the emoji model")
    return of_kind(table.concepts, row, row.concept)


def jobs_of(paper: PaperMap, table: PaperTable, row: Published, model: str, extra: Path | None) -> list[tuple[str, str]]:
    """(method, concept) of a covered row: its own, and the original model to compare with."""
    method, concepts = method_of(paper, row, model, extra), concepts_of(table, row, model)
    assert isinstance(method, str) and isinstance(concepts, list), "a covered row has both"
    return [(name, concept) for concept in concepts for name in dict.fromkeys(["original", method])]


def domain_of(model: str | None) -> str:
    return "emoji" if model == "emoji" else "photo"


def _known_model(name: str, extra: Path | None) -> None:
    known = sorted(names("model", extra))
    if name not in known:
        near = difflib.get_close_matches(name, known, 2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"--model {name!r} is not known.{hint} Known: {', '.join(known)}.")


def _grouped(model: str, table: PaperTable, jobs: list[tuple[str, str]], extra: Path | None) -> list[Work]:
    """Concepts that the same methods erase go into one command."""
    by_methods: dict[tuple, list[str]] = {}
    for concept in dict.fromkeys(c for _, c in jobs):
        by_methods.setdefault(tuple(m for m, c in jobs if c == concept), []).append(concept)
    settings = settings_of(table, model)
    return [
        Work(model, table.protocol, methods, tuple(concepts), tuple(table.attacks), settings) for methods, concepts in by_methods.items()
    ]


def settings_of(table: PaperTable, model: str) -> tuple[str, ...]:
    """More words of a table's commands. Those of the paper's model would mean nothing on the emoji model."""
    if domain_of(model) == "emoji":
        return ()
    words = list(table.settings)
    if table.sampler:
        scheduler, steps, guidance, pixels = table.sampler.split()
        words += [f"model.sampler.scheduler={scheduler}", f"model.sampler.steps={steps}", f"model.sampler.guidance={guidance}"]
        words += [f"model.sampler.{side}={pixels}" for side in ("height", "width")]
    return tuple(words)


# What is missing, and the cost


def _survey(made: TablePlan, extra: Path | None, ask: bool) -> None:
    lost: dict[str, None] = {}
    for work in made.work:
        emoji = domain_of(work.model) == "emoji"
        steps = max((int(row.sampler.split()[1]) for row in made.rows if row.sampler), default=STEPS)
        for concept in work.concepts:
            gone = work.lacks(concept, extra)
            tree, why = (None, None) if gone else composed(replace(work, methods=("original",), concepts=(concept,)), extra)
            if tree is None:
                # The paper's own sizes; on the emoji model they would mean nothing.
                images = 0 if emoji else made.table.images or 0
                made.assumed.append(f"{images:,} images of {steps} steps for each job, as in the paper's code" if images else UNKNOWN)
                tree, broken = composed(Work(work.model, None, ("original",), ("dog",)), extra)
                if tree is None:
                    raise ValueError(broken)
                lost |= dict.fromkeys([*gone, *([why] if why else []), *missing(tree, False)])
            else:
                lost |= dict.fromkeys(missing(tree, ask))
                steps = int(tree.model.sampler.steps)
                try:
                    images = images_of(tree)
                except ValueError as mistake:  # prompts that cannot be written for this concept
                    images, lost = 0, lost | {str(mistake): None}
            jobs, seconds = len(work.methods), SECONDS["emoji" if emoji else tree.model.family]
            evaluations = 0 if emoji else made.table.attack_evaluations
            made.jobs, made.images = made.jobs + jobs, made.images + images * jobs
            made.seconds += (images * steps + evaluations / 2) * jobs * seconds
            made.assumed.append(ASSUMED["emoji" if emoji else "photo"].format(seconds=seconds))
            made.assumed += [f"attacks at most {evaluations:,} denoiser evaluations for each job"] if evaluations else []
            attacked = work.attacks or len(choices.chosen_attacks(tree)) > 1
            made.assumed += ["without the searches of attacks"] if attacked and not evaluations else []
    made.missing, made.assumed = list(lost), list(dict.fromkeys(made.assumed))


@cache
def composed(job: Work, extra: Path | None) -> tuple[DictConfig | None, str | None]:
    """The tree Hydra makes of one method and one concept, or None, and why there is none. Nothing is loaded."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from vestige.bench.run import tree as settings

    words = [word for word in job.words() if not word.startswith("runtime=")]
    try:
        tree = settings.composed(words, extra)
        for name in ("model", "split"):
            OmegaConf.to_container(tree[name], resolve=True)  # here, so that what does not resolve is told like the rest
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return None, f"{' '.join(words)} does not compose: {str(error).splitlines()[0]}"
    return tree, None


def splits_of(tree: DictConfig) -> dict[str, list]:
    """split -> [prompts, rows per concept, repeats, attacked], as a record's specification has it."""
    from vestige.bench.run.composing import question

    splits = [question(name, entry) for name, entry in tree.split.items()]
    return {p.name: [p.prompts, p.rows_for(list(tree.concept)), p.repeats, p.attacked] for p in splits}


def images_of(tree: DictConfig) -> int:
    """Images that one job draws. A list that is not here counts with the rows it is known to have."""
    from vestige.bench.prompts import prompt_sets

    concepts, total = _concepts(tree), 0
    for name, (asked, rows, repeats, attacked) in splits_of(tree).items():
        if prompt_sets.missing(asked, concepts):
            n = prompt_sets.rows_of(asked, concepts, rows)
        else:
            n = len(prompt_sets.build(name, asked, rows, repeats, concepts, tree.model.prompt_style))
        total += n * repeats * (len(choices.chosen_attacks(tree)) if attacked else 1)
    return total


def _concepts(tree: DictConfig) -> list:
    """As the run has them, but not typed: that takes seconds for a hundred names."""
    from vestige.bench.contract.building import plain_tree
    from vestige.bench.contract.types import Concept
    from vestige.bench.run.concept_sets import as_one_set, with_held_out

    concepts = [Concept(**{"slug": slug, **entry}) for slug, entry in plain_tree(tree.concept).items()]
    return as_one_set([with_held_out(c) if tree.held_out else c for c in concepts])


def missing(tree: DictConfig, ask: bool) -> list[str]:
    """What this machine lacks for a composed job, in sentences: weights and prompt lists, and if asked what the run itself would miss."""
    from vestige.bench.contract.building import typed
    from vestige.bench.contract.types import ModelSpec
    from vestige.bench.models import loading
    from vestige.bench.prompts import prompt_sets
    from vestige.bench.run.composing import build_job

    try:
        if ask:
            # One sentence for each file that is missing, not for each split that needs it.
            return list(dict.fromkeys(re.sub(r"^split\.[^:]+: ", "", lost) for lost in build_job(tree, planned=True).missing))
        with loading.hub_unasked():
            spec = typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"))
            lacks = [loading.missing(spec)]
    except ValueError as mistake:  # a model without a folder yet, say
        lacks = [str(mistake)]
    lacks += [prompt_sets.missing(split.prompts, _concepts(tree)) for split in tree.split.values()]
    return list(dict.fromkeys(filter(None, lacks)))
