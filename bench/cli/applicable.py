"""Which methods, attacks and metrics can run on a model: what they need, and what the model's family offers. Loads no model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from vestige.bench.contract.hints import near
from vestige.bench.contract.types import ModelSpec
from vestige.bench.models import capabilities, families
from vestige.bench.places import config_folders
from vestige.bench.run import choices, contract_checks, tree
from vestige.bench.run.contract_checks import DOG


@dataclass(frozen=True)
class Answer:
    lacking: str | None  # what the family does not offer, in a sentence
    hindered: str | None = None  # what the plugin itself asks for: another dtype, weights that are not here ...

    @property
    def applies(self) -> bool:
        return self.lacking is None

    def __str__(self) -> str:
        if self.lacking:
            return f"does not apply: {self.lacking}"
        return f"applies, but: {self.hindered}" if self.hindered else "applies"


def answers(group: str, names: list[str], model: str, config_dir: Path | None = None) -> dict[str, Answer]:
    """Of each plugin of this kind. model: a name of conf/model, or a family."""
    configured = model in choices.known("model", config_folders(config_dir))
    spec = spec_of(model, config_dir)
    plugins = contract_checks.build_all(group, names, config_dir, model=model if configured else "tiny") if names else {}
    last = (contract_checks.original(),) if group == "attack" else ()

    def answer(plugin: object) -> Answer:
        if sentence := capabilities.lacking(plugin, spec):
            return Answer(sentence)
        return Answer(None, capabilities.unsupported(plugin, spec, [DOG], *last))

    return {name: answer(plugin) for name, plugin in plugins.items()}


def spec_of(model: str, config_dir: Path | None = None) -> ModelSpec:
    """A model whose place the user must name (`repo: ???`) has its architecture without that."""
    configured = choices.known("model", config_folders(config_dir))
    if model in configured:
        node = tree.composed([f"model={model}", "method=original", "split=[]"], config_dir).model
        return ModelSpec(**{field.name: node.get(field.name, "???") for field in fields(ModelSpec)})
    if model in families.names():
        return contract_checks.tiny_of(model)
    raise ValueError(
        f"there is no model and no family {model!r}.{near(model, {*configured, *families.names()})} "
        f"Models: {', '.join(configured)} (or a file of yours in conf/model); families: {', '.join(families.names())}."
    )
