"""The shared factor T of closed-form edits, against the loop over layers that the published codes run."""

import pytest
import torch
from conftest import tiny_spec, with_biases

from vestige.bench.contract.types import Erasure, ModelSpec
from vestige.bench.models import loading
from vestige.methods._closed_form import (
    FORMS,
    LinearEdit,
    chained,
    gram,
    hyperplane,
    low_rank_edit,
    pieces_of,
    projections,
    single_thread,
    solved_per_layer,
)
from vestige.methods._text_rows import aligned_rows, all_rows, last_rows

D = 12


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factor(edit, goal, alpha, keep, beta, ridge) -> torch.Tensor:
    u, v = low_rank_edit(edit, goal, alpha, keep, beta, ridge)
    return torch.eye(D, dtype=torch.float64) + u @ v.T


def test_the_factor_solves_the_ridge_problem_of_every_layer():
    c, g, p, w = rows(3, 0), rows(3, 1), rows(5, 2), rows(7, 3)
    alpha, beta, ridge = 2.0, 0.3, 0.5
    left = ridge * w + alpha * (w @ g.T) @ c + beta * (w @ p.T) @ p
    right = ridge * torch.eye(D, dtype=torch.float64) + alpha * c.T @ c + beta * p.T @ p
    assert torch.allclose(w @ factor(c, g, alpha, p, beta, ridge), left @ torch.linalg.inv(right), rtol=1e-9, atol=1e-10)


def test_nothing_to_change_changes_nothing():
    c, p = rows(3, 0), rows(5, 2)
    identity = torch.eye(D, dtype=torch.float64)
    assert torch.equal(factor(c, c, 1.0, p, 1.0, 0.5), identity)
    assert torch.equal(factor(c, rows(3, 1), 0.0, p, 1.0, 0.5), identity)


def test_rank_order_and_duplicates():
    c, g, p = rows(3, 0), rows(3, 1), rows(5, 2)
    t = factor(c, g, 1.0, p, 1.0, 0.5)
    assert torch.linalg.matrix_rank(t - torch.eye(D, dtype=torch.float64)) == 3
    order = [2, 0, 1]
    assert torch.allclose(factor(c[order], g[order], 1.0, p, 1.0, 0.5), t)
    twice = factor(torch.cat([c, c]), torch.cat([g, g]), 0.5, p, 1.0, 0.5)
    assert torch.allclose(twice, t)


def test_more_rows_than_dimensions_are_stored_as_one_square_factor():
    c, g, p = rows(40, 0), rows(40, 1), rows(5, 2)
    u, v = low_rank_edit(c, g, 1.0, p, 1.0, 0.5)
    assert u.shape == v.shape == (D, D)
    b = 0.5 * torch.eye(D, dtype=torch.float64) + c.T @ c + p.T @ p
    assert torch.allclose(u @ v.T, (g - c).T @ c @ torch.linalg.inv(b), rtol=1e-9, atol=1e-10)


def test_more_ridge_and_more_preservation_mean_less_change():
    c, g, p = rows(3, 0), rows(3, 1), rows(5, 2)
    identity = torch.eye(D, dtype=torch.float64)
    change = [(factor(c, g, 1.0, p, 1.0, ridge) - identity).norm() for ridge in (0.1, 1.0, 10.0, 1000.0)]
    assert change == sorted(change, reverse=True) and change[-1] < 0.02 * change[0]
    kept = [((factor(c, g, 1.0, p, beta, 0.5) - identity) @ p.T).norm() for beta in (0.1, 1.0, 10.0, 1000.0)]
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.1 * kept[0]


@pytest.mark.parametrize("layers", ["kv", "v", "k"])
def test_merging_and_hooking_are_the_same_model(tiny, layers):
    width = tiny.denoiser.config.cross_attention_dim
    generator = torch.Generator().manual_seed(0)
    u, v = (0.2 * torch.randn(width, 4, generator=generator) for _ in range(2))
    cond, x = tiny.encode(["a dog", "a cat"]), torch.randn(2, 4, 8, 8, generator=generator)
    predictions, changed = {}, {}
    with torch.no_grad():
        plain = tiny.predict(x, torch.tensor(300), cond)
        before = {name: p.clone() for name, p in tiny.named_parameters()}
        for form in FORMS:
            edit = LinearEdit(layers, form)
            with edit.attach(tiny, edit.artefact(tiny, u, v)):
                predictions[form] = tiny.predict(x, torch.tensor(300), cond)
                changed[form] = [name for name, p in tiny.named_parameters() if not torch.equal(p, before[name])]
    assert torch.allclose(predictions["hook"], predictions["merge"], atol=1e-5)
    assert (predictions["hook"] - plain).abs().max() > 1e-3
    assert changed["hook"] == [] and len(changed["merge"]) == len(projections(tiny, layers))
    assert all("attn2.to_" in name and name.split(".to_")[1][0] in layers for name in changed["merge"])


def test_enough_rows_need_no_ridge():
    c, g, p = rows(3, 0), rows(3, 1), rows(D, 2)
    wanted = g.T @ c + p.T @ p
    assert torch.allclose(factor(c, g, 1.0, p, 1.0, 0.0), wanted @ torch.linalg.inv(c.T @ c + p.T @ p), rtol=1e-5, atol=1e-7)


def test_goals_that_differ_by_layer_share_one_factorisation():
    c, p, alpha, beta, ridge = rows(3, 0), rows(5, 2), 2.0, 0.3, 0.5
    weights = {"k": rows(7, 3), "v": rows(4, 4)}
    goals = {name: torch.randn(3, len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(9)) for name, w in weights.items()}
    new = solved_per_layer(weights, c, goals, alpha, p, beta, ridge)
    inverse = torch.linalg.inv(ridge * torch.eye(D, dtype=torch.float64) + alpha * c.T @ c + beta * p.T @ p)
    for name, w in weights.items():
        direct = (ridge * w + alpha * goals[name].T @ c + beta * (w @ p.T) @ p) @ inverse
        assert torch.allclose(new[name], direct, rtol=1e-9, atol=1e-10)
    linear = solved_per_layer(weights, c, {name: rows(3, 1) @ w.T for name, w in weights.items()}, alpha, p, beta, ridge)
    assert torch.allclose(linear["k"], weights["k"] @ factor(c, rows(3, 1), alpha, p, beta, ridge))


@pytest.mark.parametrize("form", FORMS)
def test_an_affine_edit_is_the_same_in_weights_and_in_text_states(tiny, form):
    pipe, width = with_biases(tiny), tiny.denoiser.config.cross_attention_dim
    generator = torch.Generator().manual_seed(0)
    u, v, shift = (0.2 * torch.randn(width, n, generator=generator) for n in (3, 3, 1))
    hidden = pipe.encode(["a dog", ""]).hidden.detach()
    name, edit = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", LinearEdit("kv", form)
    layer = pipe.module(f"unet.{name}")
    wanted = (hidden + (hidden @ v) @ u.T + shift[:, 0]) @ layer.weight.T
    with edit.attach(pipe, edit.artefact(pipe, u, v, shift[:, 0])):
        found = layer(hidden)
    assert torch.allclose(found, wanted, atol=1e-4) and (found - layer(hidden)).norm() > 0.1 * wanted.norm()


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_every_text_state_lies_in_the_hyperplane_of_the_last_norm(family):
    tiny = with_biases(loading.load(tiny_spec(family)))
    plane = hyperplane(tiny)
    assert (all_rows(tiny, ["", "a dog in a park", "Vincent van Gogh"]).double() @ plane - 1).abs().max() < 1e-4


def test_without_a_hyperplane_a_shift_needs_the_hook(tiny):
    one, edit = torch.ones(tiny.denoiser.config.cross_attention_dim, 1), LinearEdit("kv", "merge")
    erasure = edit.artefact(tiny, one, one, one[:, 0])
    with pytest.raises(ValueError, match=r"miss their hyperplane.*method\.form=hook"), edit.attach(tiny, erasure):
        pass
    xl = loading.load(ModelSpec("tiny", "sdxl", "random:tiny", None, "float32", "reference", "photo", "photo"))
    with pytest.raises(ValueError, match=r"sdxl.*method\.form=hook"):
        hyperplane(xl)


def test_a_factor_per_layer_reaches_its_layer_alone(tiny):
    width = tiny.denoiser.config.cross_attention_dim
    names = [n.removesuffix(".weight") for n in projections(tiny, "v")]
    u = torch.randn(width, 1, generator=torch.Generator().manual_seed(0))
    per_layer = {name: (u if k == 0 else torch.zeros_like(u)) for k, name in enumerate(names)}
    edit = LinearEdit("v", "merge")
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    with edit.attach(tiny, edit.artefact(tiny, u, per_layer)):
        changed = [name for name, p in tiny.named_parameters() if not torch.equal(p, before[name])]
    assert changed == [f"unet.{names[0]}.weight"]


def test_chained_edits_multiply_in_order_and_an_edit_applied_twice_is_its_square():
    one, two = (low_rank_edit(rows(2, k), rows(2, k + 1), 1.0, rows(0, 9), 1.0, 0.5) for k in (0, 5))
    dense = [torch.eye(D, dtype=torch.float64) + u @ v.T for u, v in (one, two, chained(one, two), chained(one, one))]
    assert torch.allclose(dense[2], dense[0] @ dense[1]) and not torch.allclose(dense[2], dense[1] @ dense[0])
    assert torch.allclose(dense[3], dense[0] @ dense[0]) and not torch.allclose(dense[3], dense[0])


def test_the_gram_holds_all_sums_over_layers(tiny):
    h = torch.randn(5, tiny.denoiser.config.cross_attention_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direct = sum((h @ w.double().T).square().sum() for w in projections(tiny).values())
    assert torch.allclose((h @ gram(tiny) * h).sum(), direct)


def test_an_artefact_for_another_text_width_is_refused(tiny):
    edit = LinearEdit("kv", "merge")
    with (
        pytest.raises(ValueError, match="made for another model"),
        edit.attach(tiny, edit.artefact(tiny, torch.ones(7, 1), torch.ones(7, 1))),
    ):
        pass


def test_token_rows_are_those_of_the_published_code(tiny):
    """('golf ball', ' '): 75 aligned rows; the goal's first row is the begin token, its second the first end token."""
    edit, goal = aligned_rows(tiny, "golf ball", " ")
    hidden = tiny.encode(["golf ball", " "]).hidden
    assert edit.shape == goal.shape == (75, hidden.shape[-1])
    assert torch.equal(edit, hidden[0, 2:]) and torch.equal(goal, hidden[1, :75])
    assert torch.equal(last_rows(tiny, ""), tiny.encode([""]).hidden[0, :1])


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        low_rank_edit(rows(1, 0), rows(1, 1), 1.0, rows(0, 2), 1.0, -0.5)
    for preserved, beta in ((D - 2, 1.0), (5 * D, 0.0)):
        with pytest.raises(ValueError, match=f"rows cannot decide an edit of {D} dimensions"):
            low_rank_edit(rows(1, 0), rows(1, 1), 1.0, rows(preserved, 2), beta, 0.0)
    with pytest.raises(ValueError, match="pair up"):
        low_rank_edit(rows(2, 0), rows(1, 1), 1.0, rows(0, 2), 1.0, 0.5)


def test_the_thread_guard_restores_the_number_of_threads():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_an_artefact_without_the_layer_is_a_sentence():
    erasure = Erasure({"edit.U.some.layer": torch.zeros(4, 1), "edit.V.some.layer": torch.zeros(4, 1)})
    with pytest.raises(ValueError, match=r"holds no edit for layer other\.layer"):
        pieces_of(erasure, "other.layer.weight")
