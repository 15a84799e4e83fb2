"""What settings may be written as a function of: the kind and number of concepts, the model. And where Hydra read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def by_kind(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_kind:{style: a, object: b}}`: the value for the kind of the chosen concepts."""
    kinds = sorted({entry.kind for entry in _root_.concept.values()})
    if len(kinds) != 1:
        raise ValueError(f"the chosen concepts mix the kinds {kinds}: set the value that uses by_kind yourself.")
    if kinds[0] not in table:
        raise ValueError(f"by_kind has no value for {kinds[0]!r}; it knows {sorted(table)}.")
    return table[kinds[0]]


def by_prompt_style(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_prompt_style:{photo: 'list:coco_30k', emoji: captions}}`: which prompts a protocol asks of the chosen model."""
    return _by_model("prompt_style", table, _root_)


def by_domain(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_domain:{photo: 200, emoji: 16}}`: the sizes, judges and networks of a protocol for what the chosen model's images show."""
    return _by_model("domain", table, _root_)


def _by_model(setting: str, table: DictConfig, root: DictConfig) -> Any:
    value = root.model[setting]
    if value not in table:
        raise ValueError(f"by_{setting} has no value for model.{setting}={value!r}; it knows {', '.join(sorted(table))}.")
    return table[value]


def by_count(table: DictConfig, *, _root_: DictConfig) -> Any:
    """`${by_count:{1: a, 10: b}}`: the value for the number of concepts erased together, that of the largest number not above it."""
    fitting = [number for number in table if isinstance(number, int) and number <= len(_root_.concept)]
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


def folders_of_hydra() -> list[Path]:
    """The folders that the running Hydra job was composed from (--config-dir, hydra.searchpath), also in the worker of a launcher."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.schema == "file"]


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("of_kind", of_kind, replace=True)
    OmegaConf.register_new_resolver("by_kind", by_kind, replace=True)
    OmegaConf.register_new_resolver("by_prompt_style", by_prompt_style, replace=True)
    OmegaConf.register_new_resolver("by_domain", by_domain, replace=True)
    OmegaConf.register_new_resolver("by_count", by_count, replace=True)
