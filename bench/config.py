"""From a composed Hydra tree to typed objects, with every mistake named before a model is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import ROOT, model, prompts, screen
from bench.plugin import Attack, Method, Metric
from bench.store import Store
from bench.types import Concept, ModelSpec, PromptSet, Sampler, plain

CONF = ROOT / "conf"
CONTROLS = ("wrong_concept", "scrambled", "never_knew")  # attacks/material.py
UNTIL = ("erase", "attack", "generate", "score")


@dataclass(frozen=True)
class Probe:
    """One question put to a model: which prompts, how many, under attack or not, scored by which metrics."""

    name: str
    prompts: str  # a family in prompts/templates (target, synonyms, ...) or a path to a CSV file
    rows: int  # prompts per concept
    repeats: int  # pictures per prompt
    attacked: bool
    limit: int | None = None  # prompts in all, spread evenly over the concepts: so that forty concepts cost as much as one
    metrics: dict[str, Metric] = field(default_factory=dict)

    def rows_for(self, concepts: list[Concept]) -> int:
        """Prompts per concept."""
        return self.rows if self.limit is None else max(1, min(self.rows, self.limit // len(concepts)))


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

    def folder(self, name: str) -> Path:
        """An absolute place; relative ones count from the project, so results do not depend on where a command is typed."""
        path = Path(getattr(self, name)).expanduser()
        return path if path.is_absolute() else ROOT / path


@dataclass(frozen=True)
class Job:
    """One validated run: a model, a concept set, a method, and lists of attacks and probes."""

    model: ModelSpec
    concepts: list[Concept]
    method_name: str
    method: Method
    attacks: dict[str, Attack]
    probes: dict[str, Probe]
    sampler: Sampler
    attack_judge: str
    seed: int
    until: str
    runtime: Runtime
    protocol: str | None = None  # the paper's evaluation that chose probes, sampler and sizes, or None
    missing: tuple[str, ...] = ()  # what this machine lacks, in sentences; only a planned job may lack anything

    def prompts_of(self, probe: Probe) -> PromptSet:
        """What is asked; about explicit concepts only what the screen for minors lets pass."""
        asked = self.prompts_before_screen(probe)
        return screen.screened(asked) if screen.applies(self.concepts) else asked

    def prompts_before_screen(self, probe: Probe) -> PromptSet:
        return prompts.build(probe.name, probe.prompts, probe.rows_for(self.concepts), probe.repeats, self.concepts, self.model.vocabulary)


def by_kind(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_kind:{style: a, object: b}}`: the value for the kind of the chosen concepts."""
    kinds = sorted({entry.kind for entry in _root_.concept.values()})
    if len(kinds) != 1:
        raise ValueError(f"the chosen concepts mix the kinds {kinds}: set the value that uses by_kind yourself.")
    if kinds[0] not in table:
        raise ValueError(f"by_kind has no value for {kinds[0]!r}; it knows {sorted(table)}.")
    return table[kinds[0]]


def by_vocabulary(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_vocabulary:{photo: a, emoji: b}}`: the value for the chosen model's vocabulary. How a protocol maps onto the emoji model."""
    if _root_.model.vocabulary not in table:
        raise ValueError(f"by_vocabulary has no value for {_root_.model.vocabulary!r}; it knows {sorted(table)}.")
    return table[_root_.model.vocabulary]


def by_count(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_count:{1: a, 10: b}}`: the value for the number of concepts erased together, that of the largest number not above it."""
    fitting = [number for number in table if number <= len(_root_.concept)]
    if not fitting:
        raise ValueError(f"by_count has no value for {len(_root_.concept)} concepts; it knows {sorted(table)}.")
    return table[max(fitting)]


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("by_kind", by_kind, replace=True)
    OmegaConf.register_new_resolver("by_vocabulary", by_vocabulary, replace=True)
    OmegaConf.register_new_resolver("by_count", by_count, replace=True)


def build_job(tree: DictConfig, protocol: str | None = None, planned: bool = False) -> Job:
    """Type and check a composed tree. Raises ValueError; loads no model.

    planned: what this machine lacks (weights, judges, prompt lists) is listed in `missing` instead, and no hub is asked.
    """
    runtime = typed(tree.runtime, Runtime, "runtime", drop=("name",))
    spec = typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"), keep_name=True)
    concepts = [_concept(slug, _plain(entry)) for slug, entry in tree.concept.items()]
    if not concepts:
        raise ValueError("no concept is chosen. Choose one, for example concept=dog (see `vestige ls concepts`).")
    screen.check_concepts(concepts)
    concepts = as_one_set(concepts)
    _one_of("until", tree.until, UNTIL)
    sampler = typed(tree.model.sampler, Sampler, "model.sampler")
    method = plugin(tree.method, Method, "method")
    attacks = {name: plugin(entry, Attack, f"attack.{name}") for name, entry in tree.attack.items()}
    attacks = with_ladder(with_controls(attacks, list(tree.controls)), _plain(tree.ladder))
    probes = {name: _probe(name, entry) for name, entry in tree.probe.items()}
    settings = int(tree.seed), tree.until, runtime, protocol
    job = Job(spec, concepts, tree.method.name, method, attacks, probes, sampler, tree.model.attack_judge, *settings)
    check(job)
    with model.hub_unasked() if planned else contextlib.nullcontext():
        lacks = missing(job)
    if lacks and not planned:
        raise ValueError(lacks[0])
    return replace(job, missing=tuple(lacks))


def _concept(slug: str, content: dict) -> Concept:
    """OmegaConf types lists item by item: twenty seconds for a set of a hundred celebrities, so lists of words are set aside."""
    words = {key: value for key, value in content.items() if isinstance(value, list) and all(isinstance(word, str) for word in value)}
    return replace(typed({"slug": slug, **content, **{key: [] for key in words}}, Concept, f"concept.{slug}"), **words)


def with_controls(attacks: dict[str, Attack], sources: list[str]) -> dict[str, Attack]:
    """Beside each attack that is given pictures the same attack given other ones, named <attack>:<source>.

    Attacks without a field `source` need no such control, and one that cannot use a source is left out. Raises ValueError for a
    source that no chosen attack can use: it would calibrate nothing.
    """
    for source in sources:
        _one_of("controls", source, CONTROLS)
    made, refusals = {}, {source: {} for source in sources}
    for name, attack in attacks.items():
        made[name] = attack
        for source in sources if getattr(attack, "source", None) == "target" else []:
            try:
                made[f"{name}:{source}"] = replace(attack, source=source)
            except ValueError as why_not:
                refusals[source][name] = str(why_not)
    for source, why_not in refusals.items():
        if not any(name.endswith(f":{source}") for name in made):
            raise ValueError(
                f"controls=[{source}] calibrates none of the chosen attacks ({', '.join(attacks)}): "
                + (" ".join(why_not.values()) or "none of them is given pictures, so there is nothing to replace.")
                + f" Leave {source} out of controls=, or choose an attack that has a setting `source`, for example memora."
            )
    return made


def null_of(attack: Attack) -> dict[str, Metric]:
    """What scores the control that is given a made-up thing, beside the probe's metrics: does that thing come back?"""
    if getattr(attack, "source", None) != "never_knew":
        return {}
    from metrics.made_up import MadeUp

    return {"made_up": MadeUp()}


def with_ladder(attacks: dict[str, Attack], ladder: dict[str, dict[str, list]]) -> dict[str, Attack]:
    """The same attack at several budgets, named <attack>@<setting>=<value>: ladder={relearning_emoji: {steps: [5, 10, 20]}}."""
    made = dict(attacks)
    for name, settings in ladder.items():
        if name not in attacks:
            raise ValueError(f"ladder.{name}: no such attack is chosen. Chosen: {', '.join(attacks)}.")
        for setting, values in settings.items():
            for value in values:
                where = f"ladder.{name}.{setting}"
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"{where}={value!r} is no number: the rungs of a ladder are budgets.")
                content = {**plain(attacks[name]), setting: value}
                made[f"{name}@{setting}={value}"] = typed(content, type(attacks[name]), where)
    return made


def as_one_set(concepts: list[Concept]) -> list[Concept]:
    """What is erased together is no concept's sibling or unrelated thing, and what is a sibling of one is unrelated to none.

    So no method preserves, or maps a concept to, what another concept of the set erases, and no probe asks for it.
    """
    near = {name.lower() for concept in concepts for name in concept.siblings}
    parted = []
    for concept in concepts:
        gone = {name.lower() for other in concepts if other is not concept for name in (other.name, *other.aliases)}
        siblings = [name for name in concept.siblings if name.lower() not in gone]
        parted.append(replace(concept, siblings=siblings, others=[n for n in concept.others if n.lower() not in gone | near]))
    return parted


def check(job: Job) -> None:
    """Mistakes, whatever the machine holds."""
    Store(job.runtime.folder("store"), job.runtime.on_busy).check_writable()
    _scheduler(job.sampler)
    model.check(job.model)
    for name, probe in job.probes.items():
        if min(probe.rows, probe.repeats, probe.limit or 1) < 1:
            raise ValueError(f"probe.{name}: rows, repeats and limit must be at least 1, got {probe.rows}, {probe.repeats}, {probe.limit}.")


def missing(job: Job) -> list[str]:
    """What the job needs and this machine does not have, one sentence each: weights, prompt lists, metrics, the attacks' judge."""
    lacks = [model.missing(job.model)]
    for name, probe in job.probes.items():
        lacks.append(prompts.missing(probe.prompts, job.concepts))
        for metric_name, metric in probe.metrics.items():
            why_not = metric.supports(job.model, job.concepts)
            lacks.append(why_not and f"probe.{name}.metrics.{metric_name}: {why_not}")
    if any(attack.access not in ("none", "text") for attack in job.attacks.values()):
        from bench import judges  # loads torch, which `vestige reproduce` does without

        try:
            judges.check(job.attack_judge)
        except ValueError as why_not:
            lacks.append(str(why_not))
    return list(dict.fromkeys(filter(None, lacks)))


def _scheduler(sampler: Sampler) -> None:
    """Read the names from diffusers' list of lazy imports: importing diffusers would load torch before the checks are done."""
    listing = Path(importlib.util.find_spec("diffusers").origin).read_text()
    known = set(re.findall(r'"(\w+Scheduler)"', listing))
    if sampler.scheduler not in known:
        near = ", ".join(difflib.get_close_matches(sampler.scheduler, sorted(known), 3)) or "none"
        raise ValueError(f"model.sampler.scheduler={sampler.scheduler!r} is no scheduler of diffusers. Near names: {near}.")


def _probe(name: str, entry: DictConfig) -> Probe:
    metrics = {metric: node for metric, node in _plain(entry).get("metrics", {}).items() if node is not None}  # null: left out
    chosen = {metric: plugin(node, Metric, f"probe.{name}.metrics.{metric}") for metric, node in metrics.items()}
    return replace(question(name, entry), metrics=chosen)


def question(name: str, entry: DictConfig) -> Probe:
    """A probe without its metrics: imports no plugin."""
    head = typed({"name": name, **_plain(entry)}, _ProbeHead, f"probe.{name}", drop=("metrics",))
    return Probe(**dataclasses.asdict(head))


@dataclass
class _ProbeHead:
    name: str
    prompts: str
    rows: int
    repeats: int
    attacked: bool
    limit: int | None = None


def plugin(node: DictConfig | dict, base: type, where: str) -> Any:
    """Import `_target_`, check that it is a `base`, and build it with typed fields."""
    content = _plain(node)
    target = content.pop("_target_", None)
    content.pop("name", None)
    if not target:
        raise ValueError(f"{where} has no _target_: the import path of its class, for example methods.uce.UCE.")
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}._target_={target!r} cannot be imported ({error}). Is its folder on PYTHONPATH?") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{where}._target_={target!r} is not a {base.__name__} (see bench/plugin.py).")
    return typed(content, cls, where)


def typed(node: DictConfig | dict, cls: type, where: str, drop: tuple[str, ...] = (), keep_name: bool = True) -> Any:
    """Build a dataclass from a tree: unknown keys, missing keys and wrong types are named with their full key."""
    content = {key: value for key, value in _plain(node).items() if key not in drop}
    known = {f.name for f in dataclasses.fields(cls)}
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{where}.{key} is not a setting of {cls.__name__}.{hint} Settings: {', '.join(sorted(known))}.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), content)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}: add it to the YAML or the command line ({where}.{missing[0]}=...).")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"{where}.{getattr(error, 'full_key', None) or '?'}: {first}") from error


def specification(thing: Any) -> dict:
    """A plugin as part of a stage's key: where it comes from, its version, all its numbers."""
    return {"plugin": f"{type(thing).__module__}.{type(thing).__qualname__}", "version": type(thing).version, "params": plain(thing)}


def _plain(node: DictConfig | dict) -> dict:
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ValueError(f"{key}={value!r} is not known. Allowed: {', '.join(allowed)}." + (f" Did you mean {near[0]}?" if near else ""))


# Names on the command line, checked before Hydra composes

GROUPS = ("model", "method", "concept", "attack", "probe", "protocol", "runtime", "experiment")


def check_names(overrides: list[str], folders: list[Path]) -> None:
    """Refuse unknown choices (`method=essd`) with near names; everything else is Hydra's to judge."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group not in GROUPS or not value or value == "null":
            continue
        known = sorted({f.stem for folder in folders for f in (folder / group).glob("*.yaml")})
        for name in filter(None, (part.strip(" []'\"") for part in value.split(","))):
            if name not in known:
                near = difflib.get_close_matches(name, known, 3)
                hint = f" Did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"{override!r}: there is no {group} {name!r}.{hint} See `vestige ls {group}s`. Known: {', '.join(known)}.")
