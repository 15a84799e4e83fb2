"""Of the things that a prompt names in addition to the concept, how many does the judge see?

HUB's selective alignment (Moon et al. 2025, arXiv 2410.05664), eval_selective_alignment.py of ml-postech/HUB@3f4957b, which divides
by prompts although it counts nouns; here the seen nouns are divided by all nouns (bench/reports/composite_catalogue.py).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.bench import judges
from vestige.bench.contract.plugin import Metric, MetricContext, unsupported_reason
from vestige.bench.contract.types import Concept, ImageSet, ModelSpec, PromptSet, Scores
from vestige.metrics._rows import refuse_empty, scored


@dataclass
class Nouns(Metric):
    """nouns_asked: how many things column expect holds (several are parted by ";"); nouns_seen: how many of them are seen."""

    columns: ClassVar[dict[str, bool]] = {"nouns_seen": True, "nouns_asked": True}

    judge: str
    batch_size: int

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        return unsupported_reason(judges.check, self.judge)

    def inputs(self) -> dict[str, str]:
        return judges.inputs(self.judge)

    def asks(self, asked: PromptSet, concepts: list[Concept]) -> dict[str, list[str]]:
        return {self.judge: list(dict.fromkeys(noun for text in asked.table["expect"] for noun in text.split(";")))}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "nouns")
        asked = [[noun for noun in text.split(";") if noun] for text in images.index["expect"]]
        if not all(asked):
            raise ValueError("nouns: some rows have an empty column expect, so there is nothing to look for.")
        judge = judges.load(self.judge).about(context.concepts).among(sorted({noun for nouns in asked for noun in nouns}))
        seen, counts = [], images.index["names"].tolist()
        for start, part in zip(range(0, len(images), self.batch_size), images.batches(self.batch_size), strict=True):
            places = [(k, noun) for k in range(len(part)) for noun in asked[start + k]]
            which = [k for k, _ in places]
            found = judge(part[which], [noun for _, noun in places], [counts[start + k] for k in which]).present
            seen.append(torch.zeros(len(part)).index_add(0, torch.tensor(which), found.float()))
        columns = {"nouns_seen": torch.cat(seen), "nouns_asked": torch.tensor([len(nouns) for nouns in asked])}
        return scored(images, columns, {"judge": self.judge} | judge.meta)
