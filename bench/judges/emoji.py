"""The emoji world's classifiers as judges. Groups: those of objects.csv (danger, animal, ...)."""

from dataclasses import dataclass

from torch import Tensor

from vestige.bench.contract.types import canonical_hash
from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models.device import beside
from vestige.bench.models.fingerprints import given
from vestige.bench.vision.pixels import at_side


@dataclass
class EmojiJudge(Judge):
    which: str  # a or b: two networks that were trained apart

    def check(self, name: str) -> None:
        from vestige.bench.world.models.judges import weights_file

        weights_file(self.which)

    def inputs(self) -> dict[str, str]:
        from vestige.bench.world.content import catalog
        from vestige.bench.world.models.judges import FILES

        return given(judge=FILES[self.which]) | {"groups": canonical_hash(catalog.groups())}

    def blank(self, name: str) -> PresenceJudge:
        from vestige.bench.world.content import catalog
        from vestige.bench.world.models.judges import label_names

        labels = label_names()
        column = {label: k for k, label in enumerate(labels["object"])}
        groups = {name: ("object", [column[member] for member in members]) for name, members in catalog.groups().items()}
        return PresenceJudge(None, labels, name, groups, "emoji")

    def load(self, name: str) -> PresenceJudge:
        from vestige.bench.world.models.judges import load_judge

        net = load_judge(self.which)

        def logits(images: Tensor) -> dict[str, Tensor]:
            return net(at_side(beside(net, images).float() / 255, 64))

        return self.blank(name).with_logits(logits)
