"""SPEED: what it fixes stays fixed, retained rows stay nearly so, and the fast form equals the published one."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import projections
from vestige.methods._text_rows import all_rows, last_rows
from vestige.methods.speed import SPEED, influence_of, invariant_rows, least_passed, null_projector, reading_factor

D = 16


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def speed(**over) -> SPEED:
    return replace(build("method", "speed"), **over)


def moment(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x / len(x)


def eye() -> torch.Tensor:
    return torch.eye(D, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_fast_form_equals_the_published_one(ridge):
    c, g, w, k, r = rows(3, 0), rows(3, 1), rows(5, 2), rows(2, 3).T, 0.7
    p, _ = null_projector(moment(rows(6, 4)), 0.3)
    t, a = c.T @ c, g.T @ c
    m = torch.linalg.inv(t @ p + r * eye())
    inner = torch.linalg.inv(k.T @ p @ m @ k + ridge * torch.eye(2, dtype=torch.float64))
    published = w @ (a - t) @ p @ (eye() - m @ k @ inner @ k.T @ p) @ m
    ours = w @ (g - c).T @ reading_factor(c, g, p, k, r, ridge).T
    assert torch.allclose(ours, published, rtol=1e-4, atol=1e-6)


def test_fixed_rows_do_not_move_and_exact_null_directions_spare_retained_rows():
    c, g, k, kept = rows(3, 0), rows(3, 1), rows(2, 3).T, rows(6, 4)
    p, rank = null_projector(moment(kept), 1e-9)
    assert rank == D - 6
    v = reading_factor(c, g, p, k, 1.0, 0.0)
    assert (v.T @ k).norm() < 1e-4 * v.norm() and (v.T @ kept.T).norm() < 1e-9 * v.norm()


def test_a_small_retain_scale_sends_the_concept_to_its_anchor_within_the_null_space():
    c, g, kept = rows(1, 0), rows(1, 1), rows(6, 4)
    p, _ = null_projector(moment(kept), 1e-9)
    nothing = torch.zeros(D, 1, dtype=torch.float64)
    moved = [(1 - (reading_factor(c, g, p, nothing, r, 1.0).T @ c.T)).abs().item() for r in (1.0, 1e-1, 1e-3)]
    assert moved[0] > moved[1] > moved[2] and moved[2] < 1e-3


def test_influence_is_the_output_change_of_the_unconstrained_edit():
    c, g, w, x = rows(3, 0), rows(3, 1), rows(5, 2), rows(4, 5)
    t, a = c.T @ c, g.T @ c
    update = w @ (a - t) @ torch.linalg.inv(eye() + t)
    assert torch.allclose(influence_of(w, c, g)(x), (x @ update.T).norm(dim=-1))


@pytest.mark.parametrize("outputs", [D - 3, 2 * D])
@pytest.mark.parametrize("filtered", [True, False])
def test_the_moment_is_that_of_rows_written_out(outputs, filtered):
    c, g, w, retained = rows(3, 0), rows(3, 1), torch.randn(outputs, D, dtype=torch.float64), rows(20, 5)
    ours = speed(filter=filtered, augment=4).retained_moment(w, c, g, retained, torch.Generator().manual_seed(7))
    size = influence_of(w, c, g)(retained)
    kept = retained[size >= size.mean()] if filtered else retained
    v = torch.linalg.eigh(w.T @ w).eigenvectors[:, max(0, D - outputs)]
    assert (least_passed(w) @ v).abs() > 1 - 1e-9
    s = torch.randn((len(kept), 4), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    copies = kept.repeat_interleave(4, 0) + s.flatten()[:, None] * least_passed(w)
    size = influence_of(w, c, g)(copies)
    assert torch.allclose(ours, moment(torch.cat([kept, copies[size >= size.mean()]])))


def test_bad_concepts_are_refused_before_anything_is_computed(tiny, concept, context):
    with pytest.raises(ValueError, match="the same tokens"):
        speed(anchor="DOG").erase(tiny, [concept()], context())
    with pytest.raises(ValueError, match="has no token"):
        speed().erase(tiny, [concept(name=" ")], context())
    assert "itself" in speed(anchor="{anchor}").supports(tiny.spec, [concept(anchor="dog")])
    assert "`siblings`" in speed().supports(tiny.spec, [concept(siblings=["dog"])])
    assert speed().supports(tiny.spec, [concept()]) is None


def test_values_alone_are_edited(tiny, concept, context):
    method = speed()
    erasure = method.erase(tiny, [concept()], context())
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    with method.attach(tiny, erasure):
        changed = {name for name, p in tiny.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"unet.{name}" for name in projections(tiny, "v")}


def test_the_concept_moves_more_than_retained_names_and_the_empty_prompt_not_at_all(tiny, concept, context):
    erasure = speed(anchor="car").erase(tiny, [concept()], context())
    name, weight = next(iter(projections(tiny, "v").items()))
    u, v = erasure.tensors["edit.U"].double(), erasure.tensors[f"edit.V.{name.removesuffix('.weight')}"].double()

    def moved(hidden):
        return ((hidden.double() @ v) @ u.T @ weight.double().T).norm(dim=-1)

    dog, frog, begin = last_rows(tiny, "dog"), last_rows(tiny, "frog"), all_rows(tiny, [""])[:1]
    assert moved(dog).item() > 3 * moved(frog).item() and moved(begin).item() < 1e-3 * moved(dog).item()


def test_a_retained_set_without_free_directions_is_an_error(tiny, concept, context):
    with pytest.raises(ValueError, match=r"no free direction.*method\.threshold"):
        speed(threshold=0.0).erase(tiny, [concept()], context())


def test_names_that_hold_the_concept_as_a_word_are_not_retained(tiny, concept):
    method = speed(retain=["siblings"])
    kept = method.retained_rows(tiny, [concept(siblings=["hot dog", "dog-eared book", "dogma"])], torch.Generator().manual_seed(0))
    assert torch.allclose(kept, last_rows(tiny, "dogma").double())


def test_the_begin_token_leads_the_invariants(tiny):
    empty = all_rows(tiny, [""]).double()
    fixed = invariant_rows(empty, 3, torch.Generator().manual_seed(0))
    assert fixed.shape == (empty.shape[1], 4) and torch.equal(fixed[:, 0], empty[0])


@pytest.mark.parametrize("over", [{"rows": "first"}, {"retain": ["friends"]}, {"retain_scale": 0.0}, {"augment": -1}, {"layers": "q"}])
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        speed(**over)
