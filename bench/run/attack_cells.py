"""Variants of an attack: its null controls, and the attack at several budgets."""

from __future__ import annotations

from dataclasses import replace

from vestige.bench.contract.building import plugin, typed
from vestige.bench.contract.controls import CONTROLS
from vestige.bench.contract.plugin import Attack, Metric
from vestige.bench.contract.types import plain
from vestige.bench.run.choices import one_of

MADE_UP = "vestige.metrics.made_up.MadeUp"


def with_controls(attacks: dict[str, Attack], sources: list[str]) -> dict[str, Attack]:
    """Beside each attack that is given images the same attack given other ones, named <attack>:<source>.

    Attacks without a field `source` need no such control, and one that cannot use a source is left out. Raises ValueError for a
    source that no chosen attack can use: it would calibrate nothing.
    """
    for source in sources:
        one_of("controls", source, CONTROLS)
    made: dict[str, Attack] = {}
    refused: dict[str, dict[str, str]] = {source: {} for source in sources}
    for name, attack in attacks.items():
        made[name] = attack
        for source in sources if getattr(attack, "source", None) == "target" else []:
            try:
                made[f"{name}:{source}"] = replace(attack, source=source)  # type: ignore[type-var]  # every plugin is a dataclass
            except ValueError as reason:
                refused[source][name] = str(reason)
    for source, reasons in refused.items():
        if not any(name.endswith(f":{source}") for name in made):
            raise ValueError(
                f"controls=[{source}] calibrates none of the chosen attacks ({', '.join(attacks)}): "
                + (" ".join(reasons.values()) or "none of them uses images, so there is nothing to replace.")
                + f" Leave {source} out of controls=, or choose an attack that has a setting `source`, for example memora."
            )
    return made


def null_of(attack: Attack) -> dict[str, Metric]:
    """What scores the control that is given a made-up thing, beside the split's metrics: does that thing come back?"""
    if getattr(attack, "source", None) != "never_knew":
        return {}
    return {"made_up": plugin({"_target_": MADE_UP}, Metric, "metric.made_up")}


def with_budgets(attacks: dict[str, Attack], budget_sweep: dict[str, dict[str, list]]) -> dict[str, Attack]:
    """The same attack at several budgets, named <attack>@<setting>=<value>: budget_sweep={relearning: {steps: [5, 10, 20]}}."""
    made = dict(attacks)
    for name, settings in budget_sweep.items():
        if name not in attacks:
            raise ValueError(f"budget_sweep.{name}: no such attack is chosen. Chosen: {', '.join(attacks)}.")
        for setting, values in settings.items():
            for value in values:
                where = f"budget_sweep.{name}.{setting}"
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"{where}={value!r} is not a number. A budget sweep takes numbers, for example {{steps: [5, 10]}}.")
                content = {**plain(attacks[name]), setting: value}
                made[f"{name}@{setting}={value}"] = typed(content, type(attacks[name]), where)
    return made
