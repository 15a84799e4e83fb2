"""What plugins need and what families of models offer, in the same words."""

from typing import Any

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.families import family

WORDS = ("draw", "outputs", "loss", "levels", "words", "states", "groups", "tokens")  # explained in families/base.py


def offers(name: str) -> tuple[str, ...]:
    """The capabilities and weight groups of a family."""
    known = family(name)
    return (*known.offers, *known.groups)


def lacking(plugin: Any, model: ModelSpec) -> str | None:
    """Why a plugin's `needs` are not met by this model's family, in a sentence, or None."""
    missing = [word for word in plugin.needs if word not in offers(model.family)]
    if not missing:
        return None
    words = " and ".join(f"{word!r}" if word in WORDS else f"the weights {word!r}" for word in missing)
    return f"{type(plugin).__name__} needs {words}, which models of family {model.family} do not offer (model {model.name!r})."


def unsupported(plugin: Any, model: ModelSpec, *asked: Any) -> str | None:
    """Why a method or an attack does not apply, in a sentence, or None: what the family lacks, else what its own `supports` says."""
    return lacking(plugin, model) or plugin.supports(model, *asked)
