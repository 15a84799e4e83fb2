"""Is the thing each prompt asked for in the image, by an independent judge? On target prompts low means erased."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vestige.bench import judges
from vestige.bench.contract.plugin import Metric, MetricContext, unsupported_reason
from vestige.bench.contract.types import Concept, ImageSet, PromptSet, Scores
from vestige.metrics._rows import refuse_empty, scored


@dataclass
class Presence(Metric):
    """present: 1 when the expected label is among the judge's first answers (as many as the prompt names objects).

    Judges that can abstain leave it empty for images they cannot judge (no face), and add judged: 1 where they could.
    """

    columns: ClassVar[dict[str, bool]] = {"present": True, "probability": True, "judged": True}
    rates: ClassVar[tuple[str, ...]] = ("present", "judged")

    judge: str
    batch_size: int

    def supports(self, model, concepts) -> str | None:
        return unsupported_reason(judges.check, self.judge)

    def inputs(self) -> dict[str, str]:
        return judges.inputs(self.judge)

    def asks(self, asked: PromptSet, concepts: list[Concept]) -> dict[str, list[str]]:
        return {self.judge: list(dict.fromkeys(asked.table["expect"]))}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "presence")
        if (images.index["expect"] == "").any():
            raise ValueError("presence: some rows have an empty column expect, so there is nothing to look for.")
        rows = images.index[["expect", "names"]]
        judge = judges.load(self.judge).about(context.concepts).among(sorted(set(rows["expect"])))
        verdicts = []
        for k, part in enumerate(images.batches(self.batch_size)):
            some = rows.iloc[k * self.batch_size : k * self.batch_size + len(part)]
            verdicts.append(judge(part, some["expect"].tolist(), some["names"].tolist()))
        present, judged = (torch.cat([getattr(v, name) for v in verdicts]) for name in ("present", "judged"))
        values = {
            "present": torch.where(judged, present.float(), float("nan")),
            "probability": torch.cat([v.probability for v in verdicts]),
        }
        return scored(images, values | ({"judged": judged} if judge.abstains else {}), {"judge": self.judge} | judge.meta)
