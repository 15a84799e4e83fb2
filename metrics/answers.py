"""The judge's answer for every image is stored, so that every published accuracy can be computed without a second run.

With these columns: ESR-k and PSR-k (rank), UA / IRA / CRA (object_right, style_right), leaks (seen), empty images (content).
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vestige.bench import judges
from vestige.bench.contract.plugin import Metric, MetricContext, unsupported_reason
from vestige.bench.contract.types import Concept, ImageSet, PromptSet, Scores
from vestige.bench.judges import PresenceJudge
from vestige.bench.prompts.prompt_sets import slug
from vestige.metrics._rows import refuse_empty

NOTHING = "nothing"  # the label of judges that can say: no thing I know


@dataclass
class Answers(Metric):
    """Per image, from one call of the judge:

    rank: place of the expected label among the answers of its head, 1 is first; of a group (danger, automobile) the place of
    its best member. seen: 1 when an erased concept is among the first answers (as many as the prompt names objects; one for
    styles), whatever was asked for. content: 1 unless the judge sees nothing it knows (only judges with the label "nothing").
    confidence: probability of the first object answer.
    <head>_right: 1 when the first answer is the one label of that head the prompt names; empty where it names none or several.
    about: 1 when an erased concept is the one label of its head that the prompt names: what UA counts, and IRA and CRA leave out.
    <head>_answer: the first answer itself, in the stored table only.
    """

    version: ClassVar[int] = 2
    columns: ClassVar[dict[str, bool]] = {"rank": False, "seen": False, "content": True, "confidence": True}
    rates: ClassVar[tuple[str, ...]] = ("seen", "content", "about", "*_right")

    judge: str
    batch_size: int

    def supports(self, model, concepts) -> str | None:
        return unsupported_reason(judges.check_ranks, self.judge)

    def inputs(self) -> dict[str, str]:
        return judges.inputs(self.judge)

    def asks(self, asked: PromptSet, concepts: list[Concept]) -> dict[str, list[str]]:
        """The erased concepts; another expected label that the judge does not know has no rank."""
        slugs = [concept.slug for concept in concepts]
        return {judges.ranking_part(self.judge, concepts, slugs): slugs}

    def score(self, images: ImageSet, context: MetricContext) -> Scores:
        refuse_empty(images, "answers")
        rows = images.index
        informed = judges.load(self.judge).about(context.concepts)
        assert not isinstance(informed, judges.AskingJudge), "check_ranks() lets no judge through that only says yes or no"
        ranking = informed.ranking([c.slug for c in context.concepts])
        judge = ranking.among(sorted(set(rows["expect"]) - {""}))
        labels = {head: known for head, known in judge.labels.items() if len(known) > 1}
        parts = [judge.shares(part) for part in images.batches(self.batch_size)]
        shares = {head: torch.cat([share[head] for share in parts]) for head in labels}
        table = rows[["row_id", "rep"]].reset_index(drop=True)
        table = table.assign(**_expected(rows, shares, judge), **_seen(rows, shares, judge, context))
        gone = _erased(judge, context)
        about = [False] * len(rows)
        for head, known in labels.items():
            judged = ~shares[head].isnan().any(-1)
            first = [known[k] if seen else "" for k, seen in zip(shares[head].argmax(-1).tolist(), judged.tolist(), strict=True)]
            asked = [_named(prompt, known) for prompt in rows["prompt"]]
            about = [a or b in gone.get(head, ()) for a, b in zip(about, asked, strict=True)]
            right = [float(a == b) if a and b else float("nan") for a, b in zip(asked, first, strict=True)]
            table = table.assign(**{f"{head}_right": right, f"{head}_answer": first})
        if gone and "private" not in rows:  # the texts of private prompts are not stored
            table = table.assign(about=[float(hit) for hit in about])
        numbers = table.drop(columns=["row_id", "rep"]).select_dtypes("number").dropna(axis=1, how="all")
        meta = {"judge": self.judge} | ({"ranked_by": judge.name} if judge.name != self.judge else {}) | judge.meta
        return Scores({name: float(numbers[name].mean()) for name in numbers}, table, meta)


def _expected(rows, shares: dict[str, Tensor], judge: PresenceJudge) -> dict[str, list[float]]:
    """rank of the expected label, confidence and content; a label the judge does not know leaves no rank."""
    places = {label: judge.columns(label) for label in set(rows["expect"])}
    ranks = {label: _rank(shares[place[0]], place[1]).tolist() for label, place in places.items() if place and place[0] in shares}
    rank = [ranks[label][i] if label in ranks else float("nan") for i, label in enumerate(rows["expect"])]
    things = "object" if "object" in shares else next(iter(shares))
    top, first = shares[things].max(-1)
    columns = {"rank": rank, "confidence": top.tolist()}
    if NOTHING in judge.labels[things]:
        columns["content"] = (first != judge.labels[things].index(NOTHING)).double().tolist()
    return columns


def _erased(judge: PresenceJudge, context: MetricContext) -> dict[str, set[str]]:
    """Head -> its labels that mean an erased concept."""
    gone: dict[str, set[str]] = {}
    for head, columns in filter(None, (judge.columns(c.slug) for c in context.concepts)):
        gone.setdefault(head, set()).update(judge.labels[head][k] for k in columns)
    return gone


def _seen(rows, shares: dict[str, Tensor], judge: PresenceJudge, context: MetricContext) -> dict[str, list[float]]:
    places = [place for place in (judge.columns(c.slug) for c in context.concepts) if place]
    if not places:
        return {}
    hits = torch.zeros(len(rows), dtype=torch.bool)
    unjudged = torch.zeros(len(rows), dtype=torch.bool)
    for head, columns in places:
        count = torch.tensor([max(1, int(n)) if head == "object" else 1 for n in rows["names"]])
        rank = _rank(shares[head], columns)
        hits |= rank <= count
        unjudged |= rank.isnan()
    return {"seen": torch.where(unjudged, float("nan"), hits.double()).tolist()}


def _rank(share: Tensor, columns: list[int]) -> Tensor:
    """[n, labels] -> place [n] of the best of some columns among all answers, 1 is first; NaN where the judge abstained."""
    place = (share > share[:, columns].amax(-1, keepdim=True)).sum(-1) + 1.0
    return torch.where(share.isnan().any(-1), float("nan"), place)


def _named(prompt: str, labels: list[str]) -> str | None:
    """The one label whose words stand in the prompt, or None for none or several. Of "artist sketch" and "sketch" the longer counts."""
    words = slug(prompt)
    found = [label for label in labels if re.search(rf"(^|_){label}(_|$)", words)]
    found = [label for label in found if not any(f"_{label}_" in f"_{other}_" for other in found if other != label)]
    return found[0] if len(found) == 1 else None
