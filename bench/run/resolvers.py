"""What settings may be written as a function of: the kind and number of concepts, the model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


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


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("of_kind", of_kind, replace=True)
    OmegaConf.register_new_resolver("by_kind", by_kind, replace=True)
    OmegaConf.register_new_resolver("by_vocabulary", by_vocabulary, replace=True)
    OmegaConf.register_new_resolver("by_count", by_count, replace=True)
