"""From a composed Hydra tree to typed objects, with every mistake named before a model is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vestige.bench.contract import screen
from vestige.bench.contract.plugin import Attack, Method, Metric
from vestige.bench.contract.types import Concept, ModelSpec, PromptSet, Sampler, plain
from vestige.bench.models import loading
from vestige.bench.prompts import prompt_sets
from vestige.bench.run.store import Store

CONTROLS = ("wrong_concept", "scrambled", "never_knew")  # attacks/training_images.py
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

    def open_store(self) -> Store:
        return Store(self.folder("store"), self.on_busy, map(_absolute, self.read_from), self.stale)


@dataclass(frozen=True)
class Job:
    """One validated run: a model, a concept set, a method, and lists of attacks and splits."""

    model: ModelSpec
    concepts: list[Concept]
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

    @cached_property
    def given(self) -> list[Concept]:
        """The concepts as methods get them: without the names that are held out, or that a split with a list of its own asks for.

        Attacks, judges and metrics get `concepts`, which names all.
        """
        if not self.held_out:
            return self.concepts
        asked = set().union(*(prompt_sets.kept_names(made) for split in self.splits.values() if (made := self._asked_here(split))))
        own = [{n for n in (*c.siblings, *c.others) if n in (c.held_out or ()) or prompt_sets.slug(n) in asked} for c in self.concepts]
        return [concept.without(gone) for concept, gone in zip(self.concepts, own, strict=True)]

    def _asked_here(self, split: Split) -> PromptSet | None:
        """None: there is nothing to ask, or the list is not on this machine."""
        with contextlib.suppress(prompt_sets.NothingToAsk):
            return None if prompt_sets.missing(split.prompts, self.concepts) else self.prompts_before_screen(split)

    def prompts_of(self, split: Split) -> PromptSet:
        """What is asked; about explicit concepts only what the screen for minors lets pass."""
        asked = self.prompts_before_screen(split)
        return screen.screened(asked) if screen.applies(self.concepts) else asked

    def prompts_before_screen(self, split: Split) -> PromptSet:
        return prompt_sets.build(
            split.name, split.prompts, split.rows_for(self.concepts), split.repeats, self.concepts, self.model.vocabulary
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


def of_kind(key: str, *, _root_: DictConfig) -> Any:
    """`${of_kind:model.judge}`: what stands there, or of a table by kinds of concepts the entry for the chosen ones."""
    value = OmegaConf.select(_root_, key)
    if not isinstance(value, DictConfig):
        return value
    try:
        return by_kind(value, _root_=_root_)
    except ValueError as unsupported_reason:
        raise ValueError(
            f"{key} has a judge for each kind of concept: {unsupported_reason} Choose one for all, such as judge=clip:..."
        ) from None


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("of_kind", of_kind, replace=True)
    OmegaConf.register_new_resolver("by_kind", by_kind, replace=True)
    OmegaConf.register_new_resolver("by_vocabulary", by_vocabulary, replace=True)
    OmegaConf.register_new_resolver("by_count", by_count, replace=True)


def build_job(tree: DictConfig, protocol: str | None = None, planned: bool = False) -> Job:
    """Type and check a composed tree. Raises ValueError; loads no model.

    planned: what this machine lacks (weights, judges, prompt lists) is listed in `missing` instead, and no hub is asked.
    """
    runtime = typed(tree.runtime, Runtime, "runtime", drop=("name",))
    spec = typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"), keep_name=True)
    held_out = bool(tree.get("held_out", True))
    concepts = chosen_concepts(_plain(tree.concept), held_out)
    screen.check_concepts(concepts)
    _one_of("until", tree.until, UNTIL)
    sampler = typed(tree.model.sampler, Sampler, "model.sampler")
    method = plugin(tree.method, Method, "method")
    attacks = {name: plugin(entry, Attack, f"attack.{name}") for name, entry in tree.attack.items()}
    attacks = with_budgets(with_controls(attacks, list(tree.controls)), _plain(tree.budget_sweep))
    splits = {name: _split(name, entry) for name, entry in tree.split.items()}
    settings = int(tree.seed), tree.until, runtime, protocol
    attack_judge = of_kind("model.attack_judge", _root_=tree)
    job = Job(spec, concepts, tree.method.name, method, attacks, splits, sampler, attack_judge, *settings, held_out=held_out)
    check(job)
    with loading.hub_unasked() if planned else contextlib.nullcontext():
        lacks = missing(job)
    if lacks and not planned:
        raise ValueError(lacks[0])
    return replace(job, missing=tuple(lacks), follows_concept=follows_concept({"method": tree.method, **tree.attack}))


def follows_concept(nodes: dict[str, DictConfig]) -> dict[str, list[str]]:
    """Of each node the settings that are written as a function of the kind or number of concepts: one rule, not many settings."""
    written = {name: OmegaConf.to_container(node, resolve=False) for name, node in nodes.items()}
    rules = {name: sorted(key for key, value in node.items() if "${by_" in json.dumps(value)) for name, node in written.items()}
    return {name: keys for name, keys in rules.items() if keys}


def chosen_concepts(entries: dict[str, dict], held_out: bool) -> list[Concept]:
    """The chosen entries as one set, with the names that are held out (or none). Raises ValueError."""
    if not entries:
        raise ValueError("no concept is chosen. Choose one, for example concept=dog (see `vestige ls concepts`).")
    concepts = [_concept(slug, entry) for slug, entry in entries.items()]
    return as_one_set([with_held_out(c) if held_out else replace(c, held_out=None) for c in concepts])


def split_in_words(concepts: list[Concept], given: list[Concept] | None = None, most: int = 1000) -> list[str]:
    """Two lines: the names that methods are given, and those that are only asked for; at most so many of each."""
    given = [c.without(set(c.held_out or ())) for c in concepts] if given is None else given
    handed = list(dict.fromkeys(name for c in given for name in (*c.siblings, *c.others)))
    asked = list(dict.fromkeys(name for c in concepts for name in c.asked_of([*c.siblings, *c.others])))
    told = [("given to methods", handed), ("held out, only asked", [name for name in asked if name not in handed])]
    shown = [", ".join([*names[:most], *(["..."] if len(names) > most else [])]) or "none" for _, names in told]
    return [f"  {what} ({len(names)}): {some}" for (what, names), some in zip(told, shown, strict=True)]


def _concept(slug: str, content: dict) -> Concept:
    """OmegaConf types lists item by item: twenty seconds for a set of a hundred celebrities, so lists of words are set aside."""
    words = {key: value for key, value in content.items() if isinstance(value, list) and all(isinstance(word, str) for word in value)}
    return replace(typed({"slug": slug, **content, **{key: [] for key in words}}, Concept, f"concept.{slug}"), **words)


def with_held_out(concept: Concept) -> Concept:
    """The names that splits ask for and no method is given: those the file lists under held_out, else every second sibling and
    every second unrelated thing. Raises ValueError for a name that is neither."""
    known = [*concept.siblings, *concept.others]
    if concept.held_out is None:
        return replace(concept, held_out=[*concept.siblings[1::2], *concept.others[1::2]])
    for name in concept.held_out:
        if name not in known:
            raise ValueError(
                f"concept.{concept.slug}.held_out names {name!r}, which is not among its siblings and others: {', '.join(known)}. "
                "Add it there, or take it off held_out."
            )
    return concept


def with_controls(attacks: dict[str, Attack], sources: list[str]) -> dict[str, Attack]:
    """Beside each attack that is given images the same attack given other ones, named <attack>:<source>.

    Attacks without a field `source` need no such control, and one that cannot use a source is left out. Raises ValueError for a
    source that no chosen attack can use: it would calibrate nothing.
    """
    for source in sources:
        _one_of("controls", source, CONTROLS)
    made, unsupported_reasons = {}, {source: {} for source in sources}
    for name, attack in attacks.items():
        made[name] = attack
        for source in sources if getattr(attack, "source", None) == "target" else []:
            try:
                made[f"{name}:{source}"] = replace(attack, source=source)
            except ValueError as unsupported_reason:
                unsupported_reasons[source][name] = str(unsupported_reason)
    for source, unsupported_reason in unsupported_reasons.items():
        if not any(name.endswith(f":{source}") for name in made):
            raise ValueError(
                f"controls=[{source}] calibrates none of the chosen attacks ({', '.join(attacks)}): "
                + (" ".join(unsupported_reason.values()) or "none of them is given images, so there is nothing to replace.")
                + f" Leave {source} out of controls=, or choose an attack that has a setting `source`, for example memora."
            )
    return made


def null_of(attack: Attack) -> dict[str, Metric]:
    """What scores the control that is given a made-up thing, beside the split's metrics: does that thing come back?"""
    if getattr(attack, "source", None) != "never_knew":
        return {}
    from vestige.metrics.made_up import MadeUp

    return {"made_up": MadeUp()}


def with_budgets(attacks: dict[str, Attack], budget_sweep: dict[str, dict[str, list]]) -> dict[str, Attack]:
    """The same attack at several budgets, named <attack>@<setting>=<value>: budget_sweep={relearning_emoji: {steps: [5, 10, 20]}}."""
    made = dict(attacks)
    for name, settings in budget_sweep.items():
        if name not in attacks:
            raise ValueError(f"budget_sweep.{name}: no such attack is chosen. Chosen: {', '.join(attacks)}.")
        for setting, values in settings.items():
            for value in values:
                where = f"budget_sweep.{name}.{setting}"
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"{where}={value!r} is no number: the budgets of a budget sweep are budgets.")
                content = {**plain(attacks[name]), setting: value}
                made[f"{name}@{setting}={value}"] = typed(content, type(attacks[name]), where)
    return made


def as_one_set(concepts: list[Concept]) -> list[Concept]:
    """What is erased together is no concept's sibling or unrelated thing, and what is a sibling of one is unrelated to none.

    So no method preserves, or maps a concept to, what another concept of the set erases, and no split asks for it. A name that is
    held out by one is held out by all.
    """
    hidden = {name for concept in concepts for name in concept.held_out or ()}
    near = {name.lower() for concept in concepts for name in concept.siblings}
    parted = []
    for concept in concepts:
        gone = {name.lower() for other in concepts if other is not concept for name in (other.name, *other.aliases)}
        siblings = [name for name in concept.siblings if name.lower() not in gone]
        others = [name for name in concept.others if name.lower() not in gone | near]
        held_out = None if concept.held_out is None else [name for name in (*siblings, *others) if name in hidden]
        parted.append(replace(concept, siblings=siblings, others=others, held_out=held_out))
    return parted


def check(job: Job) -> None:
    """Mistakes, whatever the machine holds."""
    job.runtime.open_store().check()
    _scheduler(job.sampler)
    loading.check(job.model)
    for name, split in job.splits.items():
        if min(split.rows, split.repeats, split.limit or 1) < 1:
            raise ValueError(f"split.{name}: rows, repeats and limit must be at least 1, got {split.rows}, {split.repeats}, {split.limit}.")
        job._asked_here(split)  # refuses more rows than there are sentences


def missing(job: Job) -> list[str]:
    """What the job needs and this machine does not have, one sentence each: weights, prompt lists, metrics, the attacks' judge."""
    lacks, told = [loading.missing(job.model)], set()
    for name, split in job.splits.items():
        lacks.append(prompt_sets.missing(split.prompts, job.concepts))
        for metric_name, metric in split.metrics.items():
            unsupported_reason = metric.supports(job.model, job.concepts)
            if unsupported_reason not in told:  # once, however many metrics need the same file
                lacks.append(unsupported_reason and f"split.{name}.metrics.{metric_name}: {unsupported_reason}")
                told.add(unsupported_reason)
    if job.asks_attack_judge:
        from vestige.bench import judges  # loads torch, which `vestige reproduce` does without

        try:
            judges.check(job.attack_judge)
        except ValueError as unsupported_reason:
            lacks.append(str(unsupported_reason))
    return unknown_labels(job) + list(dict.fromkeys(filter(None, lacks)))


def unknown_labels(job: Job) -> list[str]:
    """One sentence for each judge that is to be asked for labels it does not know. Loads no weights."""
    asked: dict[str, dict[str, list[str]]] = {}
    for where, judge, labels in job.judged():
        asked.setdefault(judge, {})[where] = labels
    if not asked:
        return []
    from vestige.bench import judges

    sentences = []
    for judge, places in asked.items():
        try:
            lost = {where: some for where, labels in places.items() if (some := judges.unknown(judge, job.concepts, labels))}
        except ValueError:
            continue  # no such judge: its own check says so
        if lost:
            labels = list(dict.fromkeys(label for some in lost.values() for label in some))
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            where = f" (asked by {', '.join(list(lost)[:3])}{more})"
            sentences.append(judges.unknown_labels(judge, job.model.vocabulary, job.concepts, labels, where))
    return sentences


def _scheduler(sampler: Sampler) -> None:
    """Read the names from diffusers' list of lazy imports: importing diffusers would load torch before the checks are done."""
    listing = Path(importlib.util.find_spec("diffusers").origin).read_text()
    known = set(re.findall(r'"(\w+Scheduler)"', listing))
    if sampler.scheduler not in known:
        near = ", ".join(difflib.get_close_matches(sampler.scheduler, sorted(known), 3)) or "none"
        raise ValueError(f"model.sampler.scheduler={sampler.scheduler!r} is no scheduler of diffusers. Near names: {near}.")


def _split(name: str, entry: DictConfig) -> Split:
    metrics = {metric: node for metric, node in _plain(entry).get("metrics", {}).items() if node is not None}  # null: left out
    chosen = {metric: plugin(node, Metric, f"split.{name}.metrics.{metric}") for metric, node in metrics.items()}
    return replace(question(name, entry), metrics=chosen)


def question(name: str, entry: DictConfig) -> Split:
    """A split without its metrics: imports no plugin."""
    head = typed({"name": name, **_plain(entry)}, _SplitHead, f"split.{name}", drop=("metrics",))
    return Split(**dataclasses.asdict(head))


@dataclass
class _SplitHead:
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
        raise ValueError(f"{where}._target_={target!r} is not a {base.__name__} (see bench/contract/plugin.py).")
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

GROUPS = ("model", "method", "concept", "attack", "split", "protocol", "runtime", "experiment")


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
