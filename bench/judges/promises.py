"""The contract tests of a judge: `vestige check judge=...`. Every check raises an AssertionError with a sentence about YOUR judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from vestige.bench import judges
from vestige.bench.contract.plugin import unsupported_reason
from vestige.bench.contract.types import Concept

SIDE = 64  # of the images, in pixels


def judge_checks(judge_id: str, concepts: list[Concept]) -> Iterator[tuple[str, Callable[[], None]]]:
    """(what is promised, a function that raises when it is broken). Raises a ValueError where the judge cannot be loaded here."""
    if len(judges.parts(judge_id)) > 1:
        raise ValueError(f"judge={judge_id!r} is a chain: check its members one by one.")
    if lack := unsupported_reason(judges.check, judge_id):
        raise ValueError(lack)
    blank, judge = judges.blank(judge_id), judges.load(judge_id)
    label, informed = _a_label(judge, concepts)
    images = torch.randint(0, 256, (4, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def knows_its_labels_without_its_network() -> None:
        assert blank is not None, "with its weights here, `blank` must give the judge: labels are checked before a network is loaded."
        assert getattr(blank, "labels", None) == getattr(judge, "labels", None), "`blank` and `load` know other labels."
        assert blank.name == judge.name == judge_id, "`blank` and `load` must pass the judge's name on."

    def answers_each_image() -> None:
        verdict = informed.among([label])(images, [label] * 4, [1] * 4)
        assert verdict.present.shape == (4,) and verdict.present.dtype == torch.bool, "present must be one yes or no per image."
        chance = verdict.probability[~verdict.probability.isnan()]
        assert verdict.probability.shape == (4,) and ((chance >= 0) & (chance <= 1)).all(), (
            "probability must be one per image, from 0 to 1."
        )
        assert judge.abstains or len(chance) == 4, "an image it cannot judge is only for judges that say `abstains`."

    def answers_one_image_as_among_others() -> None:
        asked = informed.among([label])
        together, alone = asked(images, [label] * 4, [1] * 4), asked(images[2:3], [label], [1])
        assert torch.equal(together.present[2:3], alone.present), "an answer depends on the other images of the batch."
        close = torch.allclose(together.probability[2:3], alone.probability, atol=1e-4, equal_nan=True)
        assert close, "a probability depends on the other images of the batch."

    def refuses_no_image() -> None:
        assert unsupported_reason(informed.among([label]), images[:0], [], []), "no image at all must be refused with a ValueError."

    yield "its labels are known without its network", knows_its_labels_without_its_network
    yield "one answer and one probability per image", answers_each_image
    yield "an image is judged alone as among others", answers_one_image_as_among_others
    yield "an empty set is refused with a sentence", refuses_no_image


def _a_label(judge: judges.LoadedJudge, concepts: list[Concept]) -> tuple[str, judges.LoadedJudge]:
    """A label to ask for, and the judge that knows it: the concept's, else the judge's own first, else a concept of its family."""
    informed = judge.about(concepts)
    known = [concept.slug for concept in concepts if informed.knows(concept.slug)]
    known += [labels[0] for labels in getattr(judge, "labels", {}).values()]
    if known:
        return known[0], informed
    return concepts[0].slug, judge.about([replace(concepts[0], labels={getattr(judge, "family", ""): concepts[0].name})])
