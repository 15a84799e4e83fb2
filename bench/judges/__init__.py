"""Presence judges: is the thing a prompt asked for in the image? One interface over classifiers and detectors of very different kinds.

A judge is a file in conf/judges and a class (bench/judges/plugin.py); `vestige ls judges` lists them. It is written <name>,
<name>:<argument> where its class takes one (a folder, the name of a CLIP model), or <judge>+<judge>: each label goes to the first that
knows it. That text names the judge in keys, records and tables.

  plugin, registry      the contract of a judge; which files there are
  presence, asking      what a loaded judge answers: classifiers with heads; questions of yes or no
  chain                 several judges as one
  captions              a judge's answers as a sentence, for metrics that compare captions
  promises              the contract tests of `vestige check judge=...`
  all others            one judge, or judges of one network, each
"""

from __future__ import annotations

from vestige.bench.contract.building import specification
from vestige.bench.contract.types import Concept, canonical_hash
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.chain import Chain
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge, Verdict
from vestige.bench.judges.registry import checked, judge_of, parts
from vestige.bench.models.device import per_device
from vestige.bench.vision.pixels import at_side

__all__ = ["AskingJudge", "Chain", "Judge", "PresenceJudge", "Verdict", "at_side", "judge_of", "parts"]

LAST = {"photo": "clip:ViT-B-32/laion2b_s34b_b79k", "emoji": "clip:emoji"}  # by domain: a judge that anyone has, of any word

LoadedJudge = PresenceJudge | AskingJudge | Chain


def check(judge_id: str) -> None:
    """Raise a ValueError for a judge that cannot be loaded. Nothing is loaded."""
    for part in parts(judge_id):
        checked(part)


def check_ranks(judge_id: str) -> None:
    """The same for a judge whose answers must be ranked."""
    if not any(judge_of(part).ranks for part in parts(judge_id)):
        raise ValueError(f"judge={judge_id!r} only says yes or no, so it cannot rank answers. Use the metric presence with it.")
    check(judge_id)


def inputs(judge_id: str) -> dict[str, str]:
    """What the judge's answers follow from beside its name: digests of its settings, of weights (shipped, cached or the user's own), of
    groups of labels and of lists of candidates, for the key of what it scored. Weights that are not on this machine have no entry."""
    each = {part: _inputs(judge_of(part)) for part in parts(judge_id)}
    if len(each) == 1:
        return each[judge_id]
    return {f"{part}: {name}": digest for part, digests in each.items() for name, digest in digests.items()}


def _inputs(judge: Judge) -> dict[str, str]:
    return judge.inputs() | {"settings": canonical_hash(specification(judge))}


def blank(judge_id: str) -> LoadedJudge | None:
    """The judge without its network: it says which labels it knows. None where its labels lie beside weights that are not here; of a
    chain such members are left out."""
    each = parts(judge_id)
    if len(each) == 1:
        return judge_of(judge_id).blank(judge_id)
    return Chain([known for part in each if (known := judge_of(part).blank(part)) is not None], judge_id)


def unknown(judge_id: str, concepts: list[Concept], labels: list[str]) -> list[str]:
    """Those of the labels that the judge cannot be asked for, as far as this machine knows. Loads no weights."""
    judge = blank(judge_id)
    if judge is None:
        return []
    informed = judge.about(concepts)
    if isinstance(informed, Chain) and len(informed.members) < len(parts(judge_id)):
        return []  # the labels of a member are not here
    return [label for label in labels if not informed.knows(label)]


def ranking_part(judge_id: str, concepts: list[Concept], labels: list[str]) -> str:
    """Who of a chain ranks answers about these labels (Chain.ranking), as far as this machine knows; another judge itself."""
    ranks = [part for part in parts(judge_id) if judge_of(part).ranks]
    return next((part for part in ranks if not unknown(part, concepts, labels)), judge_id)


def unknown_labels(judge_id: str, domain: str, concepts: list[Concept], labels: list[str], where: str = "") -> str | None:
    """Which labels the judge cannot be asked for and what to type instead, in a sentence, or None."""
    lost = unknown(judge_id, concepts, labels)
    if not lost:
        return None
    some = ", ".join(repr(label) for label in lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
    families = " or ".join(dict.fromkeys(family for part in parts(judge_id) if (family := getattr(blank(part), "family", ""))))
    return (
        f"judge={judge_id!r} has no label for {some}{where}. Let a zero-shot judge see what it does not know: "
        f"judge={judge_id}+{LAST.get(domain) or LAST['photo']}; or, if it knows the thing by another word, write that word in the "
        f"concept's file: labels: {{{families}: <its word>}}."
    )


@per_device
def load(judge_id: str) -> LoadedJudge:
    members = [checked(part).load(part) for part in parts(judge_id)]
    return members[0] if len(members) == 1 else Chain(members, judge_id)
