"""The contract of a judge: a class with typed fields and a file judges/<name>.yaml, in conf/ or in a configuration folder of one's own.

    # judges/mine.yaml: the comment at the top is what `vestige ls judges` prints
    _target_: my_judges.Mine
    folder: ???

`judge=mine:/some/folder` sets the field that the class names as its `argument`; judges are chained with `+`. Fields have no defaults: all
numbers stand in the YAML. `vestige check judge=mine` runs the contract tests.

Load the network with `placed(net)` and give it `beside(net, images)` (bench/models/device.py): then it computes on `runtime.device`. Its
answers may be on any device.
"""

from __future__ import annotations

from typing import ClassVar

from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.presence import PresenceJudge


class Judge:
    """What a judge's file describes. Subclass as a dataclass; `name` is always the judge as it was typed, for example clip:ViT-B-32/openai.

    version: raise it when answers would change. argument: the field that the word after the colon sets, or empty. ranks: False for a
    judge that says yes or no about one thing and so has no ranked answers.
    """

    version: ClassVar[int] = 1
    argument: ClassVar[str] = ""
    ranks: ClassVar[bool] = True

    def check(self, name: str) -> None:
        """Raise a ValueError that says what is missing on this machine and how to get it. Nothing is loaded."""

    def inputs(self) -> dict[str, str]:
        """What the answers follow from beside the settings: digests of weights, groups of labels and lists of candidates.

        They enter the key of what is judged. Weights that are not on this machine have no entry.
        """
        return {}

    def blank(self, name: str) -> PresenceJudge | AskingJudge | None:
        """The judge without its network: it says which labels it knows. None where its labels lie beside weights that are not here."""
        raise TypeError(f"{type(self).__name__} must define blank(name).")

    def load(self, name: str) -> PresenceJudge | AskingJudge:
        """The judge with its network. Only called after `check`."""
        raise TypeError(f"{type(self).__name__} must define load(name).")
