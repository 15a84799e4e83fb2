"""From a composed Hydra tree to a job, with every mistake named before a model is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass, replace
from typing import cast

from omegaconf import DictConfig, OmegaConf

from vestige.bench.contract import screen
from vestige.bench.contract.building import plain_tree, plugin, typed
from vestige.bench.contract.plugin import Attack, Method, Metric
from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.models import loading
from vestige.bench.places import use_config_folders
from vestige.bench.run.attack_cells import with_budgets, with_controls
from vestige.bench.run.checks import check, missing, whole_number
from vestige.bench.run.choices import chosen_attacks, one_of
from vestige.bench.run.concept_sets import chosen_steps, whole
from vestige.bench.run.job import UNTIL, Job, Runtime, Split
from vestige.bench.run.resolvers import folders_of_hydra, of_kind


def build_job(tree: DictConfig, protocol: str | None = None, planned: bool = False) -> Job:
    """Type and check a composed tree. Raises ValueError; loads no model.

    planned: what this machine lacks (weights, judges, prompt lists) is listed in `missing` instead, and no hub is asked.
    """
    if folders := folders_of_hydra():
        use_config_folders(folders)
    runtime = typed(tree.runtime, Runtime, "runtime", drop=("name",))
    spec = typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"), keep_name=True)
    held_out = bool(tree.get("held_out", True))
    steps = chosen_steps(plain_tree(tree.concept), _plain(tree.get("steps")), held_out)
    concepts = whole(steps, list(tree.concept))
    screen.check_concepts(concepts)
    one_of("until", tree.until, UNTIL)
    sampler = typed(tree.model.sampler, Sampler, "model.sampler")
    method = plugin(tree.method, Method, "method")
    chosen = chosen_attacks(tree)
    attacks = {name: plugin(entry, Attack, f"attack.{name}") for name, entry in chosen.items()}
    attacks = with_budgets(with_controls(attacks, list(tree.controls)), plain_tree(tree.budget_sweep or {}))
    splits = {name: _split(name, entry) for name, entry in (tree.get("split") or {}).items()}  # none: only erase
    settings = whole_number("seed", tree.seed), tree.until, runtime, protocol
    attack_judge = of_kind("model.attack_judge", _root_=tree)
    job = Job(spec, concepts, tree.method.name, method, attacks, splits, sampler, attack_judge, *settings, held_out=held_out, steps=steps)
    check(job, planned)
    with loading.hub_unasked() if planned else contextlib.nullcontext():
        lacks = missing(job)
    if lacks and not planned:
        raise ValueError(lacks[0])
    return replace(job, missing=tuple(lacks), follows_concept=follows_concept({"method": tree.method, **chosen}))


def follows_concept(nodes: dict[str, DictConfig]) -> dict[str, list[str]]:
    """Of each node the settings that are written as a function of the kind or number of concepts: one rule, not many settings."""
    written = {name: cast(dict, OmegaConf.to_container(node, resolve=False)) for name, node in nodes.items()}
    rules = {name: sorted(key for key, value in node.items() if "${by_" in json.dumps(value)) for name, node in written.items()}
    return {name: keys for name, keys in rules.items() if keys}


def _plain(value: object) -> object:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _split(name: str, entry: DictConfig) -> Split:
    metrics = {metric: node for metric, node in plain_tree(entry).get("metrics", {}).items() if node is not None}  # null: left out
    chosen = {metric: plugin(node, Metric, f"split.{name}.metrics.{metric}") for metric, node in metrics.items()}
    return replace(question(name, entry), metrics=chosen)


def question(name: str, entry: DictConfig) -> Split:
    """A split without its metrics: imports no plugin."""
    head = typed({"name": name, **plain_tree(entry)}, _SplitHead, f"split.{name}", drop=("metrics",))
    return Split(**dataclasses.asdict(head))


@dataclass
class _SplitHead:
    name: str
    prompts: str
    rows: int
    repeats: int
    attacked: bool
    limit: int | None = None
