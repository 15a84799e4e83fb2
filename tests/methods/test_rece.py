"""RECE: its adversarial states do restore the concept, each round takes them away, and the Gram form equals the loop over layers."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import gram, low_rank_edit, projections
from vestige.methods._text_rows import all_rows
from vestige.methods.rece import RECE, adversarial_rows


def rece(**over) -> RECE:
    return replace(build("method", "rece"), **over)


def dense(erasure) -> torch.Tensor:
    u, v = (erasure.tensors[f"edit.{k}"].double() for k in "UV")
    return torch.eye(len(u), dtype=torch.float64) + u @ v.T


@pytest.fixture
def start(tiny):
    """(k, factors of a UCE-like edit, sum of W^T W) in float64."""
    k, g = all_rows(tiny, ["dog"]).double(), all_rows(tiny, [" "]).double()
    return k, low_rank_edit(k, g, 1.0, k[:0], 1.0, 0.5), gram(tiny)


def test_without_an_edit_the_adversarial_states_are_the_concepts_own(start):
    k, (u, v), weights = start
    found = adversarial_rows(k, (torch.zeros_like(u), v), weights, torch.zeros_like(k), 1e-9)
    assert torch.allclose(found @ weights, k @ weights, atol=1e-5)


def test_adversarial_states_restore_what_the_model_reads_of_the_concept(tiny, start):
    k, factors, weights = start
    t = torch.eye(len(weights), dtype=torch.float64) + factors[0] @ factors[1].T
    found = adversarial_rows(k, factors, weights, torch.zeros_like(k), 1e-9)
    for w in projections(tiny).values():
        wanted = k @ w.double().T
        assert (found @ t.T @ w.double().T - wanted).norm() < 1e-3 * wanted.norm()
        assert (k @ t.T @ w.double().T - wanted).norm() > 1e-2 * wanted.norm(), "the edit had taken it away"


@pytest.mark.parametrize("towards", ["", "a frog"])
def test_the_gram_form_equals_the_loop_over_layers(tiny, start, towards):
    k, factors, weights = start
    t = torch.eye(len(weights), dtype=torch.float64) + factors[0] @ factors[1].T
    layers = [w.double() for w in projections(tiny).values()]
    left = sum((w @ t).T @ (w @ t) for w in layers) + 0.3 * torch.eye(len(t), dtype=torch.float64)
    pull = all_rows(tiny, [towards]).double() if towards else torch.zeros_like(k)
    right = sum((w @ t).T @ w for w in layers) @ k.T + 0.3 * pull.T
    assert torch.allclose(adversarial_rows(k, factors, weights, pull, 0.3), torch.linalg.solve(left, right).T, rtol=1e-6)


def test_every_round_makes_the_concept_harder_to_reach(tiny, concept, context):
    k, weights = all_rows(tiny, ["dog"]).double(), gram(tiny)
    root = torch.linalg.cholesky(weights + 1e-9 * torch.eye(len(weights), dtype=torch.float64))

    def left(epochs):
        t = dense(rece(epochs=epochs).erase(tiny, [concept()], context()))
        found = adversarial_rows(k, (t - torch.eye(len(t), dtype=t.dtype), torch.eye(len(t), dtype=t.dtype)), weights, 0 * k, 0.1)
        return ((found @ t.T - k) @ root).norm().item()

    residual = [left(epochs) for epochs in (0, 1, 2)]
    assert residual[0] < residual[1] < residual[2]


def test_no_round_is_uce_exactly(tiny, concept, context):
    ours, uce = (build("method", name).erase(tiny, [concept()], context()) for name in ("rece", "uce"))
    none = rece(epochs=0).erase(tiny, [concept()], context())
    assert torch.allclose(dense(none), dense(uce)) and not torch.allclose(dense(ours), dense(uce), atol=1e-3)


def test_explicit_content_weighs_the_empty_text_once_per_edited_text(tiny, concept, context):
    """As if its weight were multiplied: the empty text is all that is preserved."""
    one, two = concept(), concept("cat")
    settings = {"preserve": ["empty"], "epochs": 2}
    each, once = (dense(rece(**settings, empty_per_text=each).erase(tiny, [one, two], context())) for each in (True, False))
    twice = dense(rece(**settings, adversarial_preserve_scale=0.2, empty_per_text=False).erase(tiny, [one, two], context()))
    assert torch.allclose(each, twice, atol=1e-6) and (each - once).norm() > 1e-2 * (once - torch.eye(len(once))).norm()


@pytest.mark.parametrize("slug, epochs, each", [("dog", 1, False), ("van_gogh", 1, False), ("nudity", 3, True)])
def test_settings_by_kind_are_those_of_the_authors_scripts(slug, epochs, each):
    method = build("method", "rece", concept=slug)
    assert (method.epochs, method.empty_per_text, method.regulariser) == (epochs, each, "zero")
    assert build("method", "rece_unsafe", concept=slug).epochs == 2


@pytest.mark.parametrize("over", [{"regulariser": "none"}, {"regular_scale": 0.0}])
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        rece(**over)
