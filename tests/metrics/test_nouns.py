"""HUB's selective alignment: seen nouns over all nouns, whatever their number per image."""

from typing import ClassVar

import pytest
import torch

from vestige.bench import judges
from vestige.bench.contract.plugin import MetricContext
from vestige.metrics.nouns import Nouns


class Sees:
    """Sees rivers and trees only."""

    meta: ClassVar[dict] = {"told": "so"}

    def about(self, concepts):
        return self

    def among(self, candidates):
        return self

    def __call__(self, images, expect, names):
        assert len(images) == len(expect) == len(names)
        return judges.Verdict(torch.tensor([label in ("river", "tree") for label in expect]), torch.zeros(len(expect)))


def test_nouns_are_counted_one_by_one(tiny, sampler, prompts, tmp_path, monkeypatch):
    from vestige.bench.run.generate import draw

    asked = prompts(3)
    asked.table["expect"] = ["river;house;tree", "dog", "tree"]
    images = draw(tiny, asked, sampler, tmp_path / "drawn", 3)
    monkeypatch.setattr(judges, "load", lambda name: Sees())
    scores = Nouns("any", 2).score(images, MetricContext([], None, None)).per_image
    assert scores["nouns_seen"].tolist() == [2, 0, 1] and scores["nouns_asked"].tolist() == [3, 1, 1]
    images.index["expect"] = ""
    with pytest.raises(ValueError, match="nothing to look for"):
        Nouns("any", 2).score(images, MetricContext([], None, None))
