"""The emoji world's classifiers as judges. Groups: those of objects.csv (danger, animal, ...)."""

from torch import Tensor

from vestige.bench.contract.types import canonical_hash
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models.fingerprints import given
from vestige.bench.vision.pixels import at_side


def check(judge_id: str) -> None:
    from vestige.bench.world.models.judges import weights_file

    weights_file(judge_id[-1])


def inputs(judge_id: str) -> dict[str, str]:
    from vestige.bench.world.content import catalog
    from vestige.bench.world.models.judges import FILES

    return given(judge=FILES[judge_id[-1]]) | {"groups": canonical_hash(catalog.groups())}


def blank(judge_id: str) -> PresenceJudge:
    from vestige.bench.world.content import catalog
    from vestige.bench.world.models.judges import label_names

    labels = label_names()
    column = {label: k for k, label in enumerate(labels["object"])}
    groups = {name: ("object", [column[member] for member in members]) for name, members in catalog.groups().items()}
    return PresenceJudge(None, labels, judge_id, groups, "emoji")


def load(judge_id: str) -> PresenceJudge:
    from vestige.bench.world.models.judges import load_judge

    net = load_judge(judge_id[-1])

    def logits(images: Tensor) -> dict[str, Tensor]:
        return net(at_side(images.float() / 255, 64))

    return blank(judge_id).with_logits(logits)
