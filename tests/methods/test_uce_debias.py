"""UCE's debiasing: the goals of the paper's code, steps that add up, texts that are done, and shares as they are counted."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.run.contract_checks import build
from vestige.bench.vision import clip_models
from vestige.methods._closed_form import projections
from vestige.methods.uce_debias import UCEDebias

TEXT = "photo of dog"


def debias(**over) -> UCEDebias:
    small = {
        "clip": "emoji",
        "templates": ["photo of {name}"],
        "rounds": 1,
        "images": 4,
        "preserve": [],
        "attributes": ["male", "female"],
    }
    return replace(build("method", "uce_debias"), **{**small, **over})


class Judge:
    """A CLIP model that sees what it is told: in round k the images have the attributes of answers[k], in turn."""

    def __init__(self, answers: list[list[int]]) -> None:
        self.answers, self.asked, self.seen = answers, [], []

    def text(self, texts: list[str]) -> torch.Tensor:
        self.asked.append(texts)
        return torch.eye(len(texts))

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels)
        told = self.answers[min(len(self.asked) - 1, len(self.answers) - 1)]
        return torch.eye(4)[[told[k % len(told)] for k in range(len(pixels))]][:, : len(self.asked[-1])]


@pytest.fixture
def judged(monkeypatch):
    def make(*answers: list[int]) -> Judge:
        judge = Judge(list(answers))
        monkeypatch.setattr(clip_models, "load_clip", lambda which: judge)
        return judge

    return make


def weights(pipe) -> dict[str, torch.Tensor]:
    return {f"unet.{name}": w.detach().double().clone() for name, w in projections(pipe).items()}


def hidden(pipe, text: str) -> torch.Tensor:
    with torch.no_grad():
        return pipe.encode([text]).hidden[0].double()


def literal_step(pipe, w, gaps: list[float], step: float, kept: list[str], ridge: float = 0.5, beta: float = 0.1) -> torch.Tensor:
    """One layer's closed form for 'photo of dog' as the paper's code has it: rows 3 to 76, each attribute scaled to the answers."""
    c, male, female = (hidden(pipe, text)[3:] for text in (TEXT, "photo of male", "photo of female"))
    answers = c @ w.T
    goal = answers.clone()
    for gap, rows in zip(gaps, (male, female), strict=True):
        push = rows @ w.T
        goal += step * gap * answers.norm() * push / push.norm()
    left, right = ridge * w + goal.T @ c, ridge * torch.eye(w.shape[1], dtype=torch.float64) + c.T @ c
    for text in kept:
        p = hidden(pipe, text)
        left, right = left + beta * w @ p.T @ p, right + beta * p.T @ p
    return left @ torch.linalg.inv(right)


def test_one_round_equals_the_papers_formula(shaped, concept, context, judged):
    """Three of four images show the first attribute: gaps -1/4 and +1/4."""
    judged([0, 0, 1, 0])
    before = weights(shaped)
    with shaped.preserved():
        erasure = debias(step=2.0, preserve=["siblings"]).erase(shaped, [concept()], context())
    for name, w in before.items():
        wanted = literal_step(shaped, w, [-0.25, 0.25], 2.0, ["photo of cat", "photo of frog"])
        assert (erasure.tensors[name].double() - wanted).norm() < 1e-6 * wanted.norm(), name
        assert (wanted - w).norm() > 1e-2 * w.norm()
    assert erasure.meta["shares"] == {TEXT: [0.75, 0.25]} and erasure.meta["balanced"] == []


def test_steps_start_from_the_weights_of_the_step_before(tiny, concept, context, judged):
    judged([0], [1], [0])
    before = weights(tiny)
    with tiny.preserved():
        tensors = debias(rounds=3, step=1.0).erase(tiny, [concept()], context()).tensors
    for name, w in before.items():
        for gaps in ([-0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]):
            w = literal_step(tiny, w, gaps, 1.0, [])
        assert (tensors[name].double() - w).norm() < 1e-5 * w.norm()


def test_images_that_are_balanced_already_change_nothing(tiny, concept, context, judged):
    judge = judged([0, 1])
    with tiny.preserved():
        erasure = debias(rounds=5).erase(tiny, [concept()], context())
    for name, w in weights(tiny).items():
        assert torch.equal(erasure.tensors[name].double(), w)
    assert erasure.meta["rounds"] == 1 and erasure.meta["balanced"] == [TEXT] and len(judge.asked) == 1


def test_the_wanted_shares_are_a_setting(tiny, concept, context, judged):
    judged([0])
    with tiny.preserved():
        erasure = debias(ratios=[1.0, 0.0]).erase(tiny, [concept()], context())
    assert erasure.meta["balanced"] == [TEXT]
    judged([0, 0, 0, 1])
    with tiny.preserved():
        within = debias(ratios=[0.8, 0.2], tolerance=0.06).erase(tiny, [concept()], context())
        outside = debias(ratios=[0.8, 0.2], tolerance=0.04).erase(tiny, [concept()], context())
    assert within.meta["balanced"] == [TEXT] and outside.meta["balanced"] == []


def test_a_text_that_is_done_is_preserved_and_drawn_no_more(tiny, concept, context, judged):
    """'photo of dog' is balanced in the first round, 'image of dog' never; the second round preserves the first text."""
    judge = judged([0], [0, 1], [0])
    method, before = debias(rounds=2, templates=["image of {name}", "photo of {name}"], step=1.0), weights(tiny)
    with tiny.preserved():
        erasure = method.erase(tiny, [concept()], context())
    assert [texts[0] for texts in judge.asked] == ["image of male", "photo of male", "image of male"]
    assert erasure.meta["balanced"] == [TEXT] and erasure.meta["rounds"] == 2

    def kept_still(beta):
        judged([0], [0, 1], [0])
        with tiny.preserved():
            tensors = replace(method, preserve_scale=beta).erase(tiny, [concept()], context()).tensors
        rows = hidden(tiny, TEXT)
        return sum((rows @ (tensors[name].double() - w).T).norm().item() for name, w in before.items())

    assert kept_still(100.0) < 0.2 * kept_still(0.0)


def test_the_images_are_the_present_models_and_shares_are_counted_over_all_batches(tiny, concept, context, judged):
    judge = judged([0, 1, 1])
    with tiny.preserved():
        method, drawn = debias(images=40, rounds=2, step=1.0), tiny.counts["images"]
        shares = method.erase(tiny, [concept()], context()).meta["shares"][TEXT]
    assert [len(pixels) for pixels in judge.seen] == [32, 8, 32, 8] and tiny.counts["images"] == drawn + 80
    assert shares == [14 / 40, 26 / 40]  # 11 of 32 and 3 of 8
    again = judged([0, 1, 1])
    with tiny.preserved():
        debias(images=40, rounds=1).erase(tiny, [concept()], context())
    assert all(torch.equal(a, b) for a, b in zip(judge.seen[:2], again.seen, strict=True)), "one seed, one set of images"
    still = judged([0])
    with tiny.preserved():
        debias(rounds=2, step=0.0).erase(tiny, [concept()], context())
    assert not torch.equal(*still.seen), "each round draws new ones, even from an unchanged model"


def test_attributes_take_the_concepts_place_in_every_wording(concept):
    method = debias(templates=["image of {name}", "{name}"], attributes=["male {name}", "female"])
    assert method.texts([concept()]) == {
        "image of dog": ["image of male dog", "image of female"],
        "dog": ["male dog", "female"],
    }


def test_several_concepts_are_moved_together_in_any_order(tiny, concept, context, judged):
    pair, found = [concept(siblings=["frog"]), concept("cat", siblings=["frog"])], []
    for concepts in (pair, pair[::-1], pair[:1]):
        judged([0])
        with tiny.preserved():
            found.append(debias(step=1.0).erase(tiny, concepts, context()).tensors)
    name = next(iter(found[0]))
    assert torch.allclose(found[0][name], found[1][name], atol=1e-5) and not torch.allclose(found[0][name], found[2][name], atol=1e-4)


def test_an_empty_list_to_preserve_is_no_obstacle(tiny, concept, context, judged):
    judged([0])
    with tiny.preserved():
        assert debias(preserve=["siblings"]).erase(tiny, [concept(siblings=["hot dog"])], context()).meta["left_out"] == ["hot dog"]


def test_an_attribute_that_is_the_concept_is_refused(tiny, concept, context):
    with pytest.raises(ValueError, match="the same tokens"):
        debias(attributes=["DOG", "cat"]).erase(tiny, [concept()], context())


@pytest.mark.parametrize(
    "over",
    [{"attributes": ["male"]}, {"ratios": [0.5]}, {"ratios": [0.5, 0.6]}, {"form": "hook"}, {"rounds": 0}, {"images": 0}],
)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        debias(**over)


def test_a_clip_that_cannot_be_had_is_refused_with_its_name(tiny, concept):
    assert "no-such-model" in debias(clip="no-such-model/openai").supports(tiny.spec, [concept()])
    assert debias().supports(tiny.spec, [concept()]) is None
