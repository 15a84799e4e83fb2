"""The presence judge's rules, on a classifier whose answers are written down."""

import pytest
import torch

from bench import judges
from bench.judges import PresenceJudge

LABELS = {"object": ["dog", "cat", "car", "nothing"], "style": ["noto", "lineart"]}


@pytest.fixture
def judge():
    """Reads its object answers (cat, then car) and style (noto) off nothing: the same for every picture."""

    def logits(images):
        n = len(images)
        return {"object": torch.tensor([[0.0, 3.0, 2.0, 1.0]] * n), "style": torch.tensor([[1.0, 0.0]] * n)}

    return PresenceJudge(logits, LABELS, "written")


def test_an_object_is_present_among_as_many_answers_as_the_prompt_names(judge):
    pictures = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    assert judge(pictures, ["car", "car", "cat"], [1, 2, 1]).present.tolist() == [False, True, True]


def test_a_style_must_be_the_first_answer_of_its_own_head(judge):
    verdict = judge(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["noto", "lineart"], [2, 2])
    assert verdict.present.tolist() == [True, False]
    assert verdict.probability.sum().item() == pytest.approx(1.0)


def test_unknown_labels_and_empty_sets_are_refused(judge):
    with pytest.raises(ValueError, match="does not know the label 'dragon'"):
        judge(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["dragon"], [1])
    with pytest.raises(ValueError, match="no picture"):
        judge(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [])


def test_an_unknown_judge_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="Allowed: emoji_a"):
        judges.check("emoji_c")
