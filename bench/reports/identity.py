"""What a row of a table is: labels that are equal exactly where the specifications behind them are.

Two records belong to one row when their specifications agree in everything but concept and erasure seed. A label is the bare name
where one identity has it; where several share a name it says what differs: `esd (lr=1e-05)`, `local (weights 3fa2c1)`. What never
makes an identity: the seed (replicates of one row), how far a job went, and which splits, attacks and metrics it holds beside
others (a second command may add some). The code that drew or scored counts for methods and metrics, not for attacks: its digest
covers the attacked method too. Records without a specification are known by their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vestige.bench.contract.types import canonical_hash

ABSENT = object()  # a setting that a specification does not have
DIGITS = (6, 16, 64)  # of a digest in a label: the first that tells apart
SHORT = 30  # characters of a value that a label shows as it is
# What a reader wants to know first; a label stops at the first few that tell its identities apart.
ORDER = (
    *("params", "order", "steps", "judge", "version", "dtype", "numerics"),
    *("weights", "revision", "inputs", "code", "family", "plugin"),
)
BARE = ("order", "dtype", "numerics", "family")  # their values explain themselves
DIGESTS = ("weights", "revision", "code", "inputs")
LAST = ("repo", "plugin", "code")  # told only where nothing else tells apart


@dataclass(frozen=True)
class Thing:
    """One record's model, method, attack, judge, concept or set of questions: a name and every fact that makes it what it is."""

    name: Any
    facts: dict[str, Any] | None  # flat; None: known by its name alone
    concept: str = ""
    occasion: Any = ""  # kind and number of concepts: what settings may follow
    follows: frozenset[str] | None = None  # settings that are written as a function of the occasion; None: not known, so any may be

    @property
    def known(self) -> dict[str, Any]:
        """Its facts; none where its name is all that is known."""
        return self.facts or {}


@dataclass(frozen=True)
class Labels:
    """Of one record."""

    model: str
    method: str
    concept: str
    protocol: str
    attacks: dict[str, str] = field(default_factory=dict)  # name -> label
    judges: dict[tuple[str, str], str] = field(default_factory=dict)  # (split, metric) -> what stands behind the judge's name
    metrics: dict[tuple[str, str], str] = field(default_factory=dict)  # (split, metric) -> the same for metrics that ask no judge

    def attack(self, name: str | None) -> str | None:
        return name if name is None else self.attacks.get(name, name)

    def judge(self, split: str, metric: str | None, judge: str | None) -> str | None:
        return judge if judge is None else judge + self.judges.get((split, metric or ""), "")

    def metric(self, split: str, metric: str | None, judge: str | None) -> str | None:
        return metric if judge is not None or metric is None else metric + self.metrics.get((split, metric), "")


def labels(records: list[dict]) -> list[Labels]:
    """Aligned with the records of one folder: a label depends on what else is there."""
    parts = [_Parts(record) for record in records]
    models = notes([p.model for p in parts])
    methods = notes([p.method for p in parts], _with_occasion)
    concepts = notes([p.concept for p in parts])
    protocols = notes([p.protocol for p in parts], _with_concept, partly=True)
    attacks = _each([p.attacks for p in parts], _with_occasion, partly=True)
    metrics = _each([p.metrics for p in parts], _with_occasion)
    made = []
    for k, p in enumerate(parts):
        head = p.model.name + models[k], p.method.name + methods[k], p.concept.name + concepts[k], (p.protocol.name + protocols[k]).strip()
        told = {name: _inside(name, note) for name, note in attacks[k].items()}
        made.append(Labels(*head, told, metrics[k], metrics[k]))
    return made


def notes(things: list[Thing], may_differ: Callable[[Thing, str], Any] | None = None, partly: bool = False) -> list[str]:
    """For each thing "" or " (what tells it from others of its name)": equal for two of a name exactly if their facts are.

    may_differ(thing, fact): None, or the occasion within which alone the fact must be the same. partly: a fact that one thing
    lacks is no difference.
    """
    by_name: dict[Any, list[int]] = {}
    for k, thing in enumerate(things):
        if thing.facts is not None:
            by_name.setdefault(thing.name, []).append(k)
    made = [""] * len(things)
    for places in by_name.values():
        group = [things[k] for k in places]
        if len({_text(thing.facts) for thing in group}) == 1:
            continue
        telling = _telling(group, may_differ, partly)
        if telling:
            for k, note in zip(places, _written(group, telling, partly), strict=True):
                made[k] = note
    return made


def _telling(group: list[Thing], may_differ: Callable | None, partly: bool) -> list[str]:
    """The facts in which the group's things differ, those that may follow the occasion left out, most telling first."""
    found = []
    for fact in {name: None for thing in group for name in thing.known}:
        values: dict[Any, set[str]] = {}
        excused = may_differ is not None
        for thing in group:
            value = thing.known.get(fact, ABSENT)
            if value is ABSENT and _may_lack(fact, partly):
                continue
            occasion = may_differ(thing, fact) if may_differ else None
            excused = excused and occasion is not None
            values.setdefault(occasion, set()).add(_text(value))
        everywhere = set().union(*values.values())
        if len(everywhere) > 1 and (not excused or any(len(some) > 1 for some in values.values())):
            found.append(fact)
    return sorted(found, key=_place)


def _written(group: list[Thing], telling: list[str], partly: bool) -> list[str]:
    """Notes that tell apart all that `telling` does, in as few facts as that takes but naming up to three."""

    def rows(facts: list[str]) -> list[tuple]:
        return [tuple(_text(thing.known.get(fact, ABSENT)) for fact in facts) for thing in group]

    wanted = len(set(rows(telling)))
    chosen: list[str] = []
    for fact in telling:
        needed = len(set(rows([*chosen, fact]))) > len(set(rows(chosen)))
        if needed or (len(chosen) < 3 and fact.partition(".")[0] not in LAST):
            chosen.append(fact)
    for digits in DIGITS:
        made = []
        for thing in group:
            known = [fact for fact in chosen if fact in thing.known or not _may_lack(fact, partly)]
            words = ", ".join(_word(fact, thing.known.get(fact, ABSENT), digits) for fact in known)
            made.append(f" ({words})" if words else "")
        if len(set(made)) == wanted:
            break
    return made


def _may_lack(fact: str, partly: bool) -> bool:
    """Jobs that were not run, and older records, know no code and no inputs."""
    return partly or fact == "steps" or fact.startswith(("code.", "inputs."))


def _word(fact: str, value: Any, digits: int) -> str:
    name = fact.removeprefix("params.")
    if value is ABSENT:
        return f"no {name}"
    if name in BARE and isinstance(value, str):
        return value
    if name.startswith("code."):
        name = "code"
    if name.partition(".")[0] in DIGESTS and isinstance(value, str):
        return f"{name} {value[: digits + (name == 'revision')]}"
    shown = value if isinstance(value, str) and not _reads_as_json(value) else json.dumps(value)
    if len(shown) > SHORT or set(shown) & set("+@:,()\n"):
        return f"{name} {canonical_hash(value, digits)}"
    return f"{name} {shown}" if fact == "version" else f"{name}={shown}"


def _text(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value, sort_keys=True)


def _reads_as_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return not text
    return True


def _place(fact: str) -> tuple:
    head = fact.partition(".")[0]
    return ORDER.index(head) if head in ORDER else len(ORDER), fact


def _with_occasion(thing: Thing, fact: str) -> Any:
    """Settings may follow the kind and number of concepts; steps and inputs (a retrained denoiser, say) the concepts themselves."""
    if fact == "steps" or fact.startswith("inputs."):
        return thing.concept
    if not fact.startswith("params.") or (thing.follows is not None and fact.split(".")[1] not in thing.follows):
        return None
    return thing.occasion


def _with_concept(thing: Thing, fact: str) -> Any:
    """How many prompts are asked may follow the concept: only questions about one concept are ever compared."""
    return thing.concept


def _each(parts: list[dict[Any, Thing]], may_differ: Callable, partly: bool = False) -> list[dict[Any, str]]:
    """notes() of the things that records hold under keys."""
    flat = [(k, key, thing) for k, part in enumerate(parts) for key, thing in part.items()]
    made: list[dict[Any, str]] = [{} for _ in parts]
    for (k, key, _), note in zip(flat, notes([thing for *_, thing in flat], may_differ, partly), strict=True):
        made[k][key] = note
    return made


def _inside(name: str, note: str) -> str:
    """`memora:scrambled` with the note of its attack is `memora (steps=9):scrambled`, so that controls and budget sweeps find it."""
    cut = min((at for sign in ":@" if (at := name.find(sign)) >= 0), default=len(name))
    return name[:cut] + note + name[cut:]


class _Parts:
    """The things of one record."""

    def __init__(self, record: dict) -> None:
        spec, slugs = record.get("specification") or {}, record.get("concepts") or []
        concepts = spec.get("concepts")
        self.slugs = "+".join(slugs)
        self.occasion = record.get("kind"), len(slugs)
        self.written, code = record.get("follows_concept"), record.get("code") or {}
        self.inputs = record.get("inputs") or {}
        model = spec.get("model")
        whole = {k: v for k, v in model.items() if k != "name"} if model is not None and "family" in model else None
        self.model = Thing(record.get("model") or "", whole)
        self.concept = Thing(self.slugs, None if concepts is None else flat({c.get("slug", str(k)): c for k, c in enumerate(concepts)}))
        self.method = self._method(record, spec.get("method"), {kind: code[kind] for kind in ("erase", "images") if kind in code})
        asked = spec.get("splits")
        questions = {name: dict(zip(("prompts", "rows", "repeats"), split, strict=False)) for name, split in (asked or {}).items()}
        self.protocol = Thing(record.get("protocol") or "", None if asked is None else flat(questions), self.slugs)
        self.attacks = dict(self._attacks(spec))
        self.metrics = dict(self._metrics(asked or {}, _scored_by(record.get("cells") or [])))

    def _method(self, record: dict, method: list | None, code: dict[str, str]) -> Thing:
        name = record.get("method") or ""
        # Images of a method that changes nothing carry no word of it: it is the original model under any version.
        if method is None or record.get("intervention") == "none":
            return Thing(name, None)
        steps = record["specification"].get("steps")
        order = {"order": "joint"} if steps is None else {"order": "in steps", "steps": ">".join("&".join(step) for step in steps)}
        return self._thing(name, {**method[1], **order, "inputs": self.inputs.get("method", {}), "code": code}, "method")

    def _attacks(self, spec: dict) -> Iterable[tuple[str, Thing]]:
        for name, attack in (spec.get("attacks") or {}).items():
            if name == "none":
                continue
            base, budget_sweep, budget = name.partition("@")
            base, control, _ = base.partition(":")
            facts = {**attack, "judge": spec.get("attack_judge"), "inputs": self.inputs.get("attacks", {}).get(name, {})}
            left_out = {"source"} if control else {budget.partition("=")[0]} if budget_sweep else set()
            params = {k: v for k, v in (attack.get("params") or {}).items() if k not in left_out}
            yield name, self._thing(base, facts | {"params": params}, base)

    def _metrics(self, asked: dict[str, list], code: dict[tuple, dict[str, str]]) -> Iterable[tuple[tuple[str, str], Thing]]:
        for split, (*_, metrics) in asked.items():
            for name, metric in (metrics if isinstance(metrics, dict) else {}).items():
                judge = (metric.get("params") or {}).get("judge")
                params = {k: v for k, v in (metric.get("params") or {}).items() if k != "judge"}
                facts = {**metric, "params": params, "inputs": self.inputs.get("splits", {}).get(split, {}).get(name, {})}
                facts |= {"code": code.get((split, name), {})}
                yield (split, name), Thing((split, name, judge), flat(facts), self.slugs, self.occasion)  # protocols set some by kind

    def _thing(self, name: Any, facts: dict, where: str) -> Thing:
        follows = None if self.written is None else frozenset(self.written.get(where, ()))
        return Thing(name, flat(facts), self.slugs, self.occasion, follows)


def _scored_by(cells: list[dict]) -> dict[tuple, dict[str, str]]:
    """(split, metric) -> digest of the code that scored it, or of all where several did."""
    found: dict[tuple, set[str]] = {}
    for cell in cells:
        digest = (cell.get("code") or {}).get("score")
        if digest:
            found.setdefault((cell["split"], cell["metric"]), set()).add(digest)
    return {key: {"score": next(iter(some)) if len(some) == 1 else canonical_hash(sorted(some))} for key, some in found.items()}


def flat(value: dict, at: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are values, empty dicts say nothing."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flat(item, f"{at}{key}.")
        else:
            found[f"{at}{key}"] = item
    return found
