"""INLP, R-LACE and LEACE: what they promise about probes and covariances, on random rows and on the text states of a model.

Long because three erasers make the same promises, tested side by side.
"""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec, with_biases

from vestige.bench.models import loading
from vestige.bench.run.contract_checks import build
from vestige.methods._guardedness import accuracy, fantope, inlp, joined, leace, majority, probe, rlace, shrunk, top
from vestige.methods.linear_erasure import POSITIONS, centred, sentences

D = 16
NAMES = ["inlp_t2i", "rlace_t2i", "leace_t2i", "leace_t2i_anchored"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def eye(d: int = D) -> torch.Tensor:
    return torch.eye(d, dtype=torch.float64)


@pytest.fixture
def data():
    """(x [n, d] of unequal spread, y [n]): two classes, 40 % positive, that a probe tells apart along one direction."""
    y = (torch.rand(600, generator=generator(1)) < 0.4).double()
    x = draw(600, D) * torch.linspace(0.3, 3, D, dtype=torch.float64) @ torch.linalg.qr(draw(D, D, seed=2)).Q
    return x + 4 * torch.outer(y, torch.nn.functional.normalize(draw(D, seed=3), dim=0)) + 2, y


def covariance(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)).T @ (z - z.mean(0)) / (len(x) - 1)


def best_accuracy(x: torch.Tensor, y: torch.Tensor) -> float:
    return accuracy(x, y, *probe(x, y, "logistic", 1e-4))


# The probe


@pytest.mark.parametrize("loss, weight", [("squared_hinge", 0.01), ("logistic", 0.1)])
def test_a_probe_is_at_the_minimum_of_its_objective(data, loss, weight):
    """Against the gradient of the objective written out with autograd: scikit-learn's with a free intercept."""
    x, y = data
    found = [p.clone().requires_grad_() for p in probe(x, y, loss, weight)]

    def objective(w, b):
        margin = (2 * y - 1) * (x @ w + b)
        if loss == "squared_hinge":
            return w.square().sum() / 2 + weight * (1 - margin).clamp_min(0).square().sum()
        return torch.nn.functional.softplus(-margin).mean() + weight * w.square().sum() / 2

    at = objective(*found)
    at.backward()
    start = objective(torch.zeros(D, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    assert all(p.grad.abs().max() < 1e-3 * (1 + abs(at.item())) for p in found) and at < 0.9 * start


# INLP


def test_inlp_projects_every_probe_away(data):
    """B has orthonormal rows, P = I - B^T B is a projector, and no direction of a later probe lies in what is gone."""
    x, y = data
    basis = inlp(x, y, iterations=5, min_accuracy=0.0, penalty=1.0)
    p = eye() - basis.T @ basis
    assert torch.allclose(basis @ basis.T, eye(5), atol=1e-9)
    assert torch.allclose(p @ p, p, atol=1e-9) and torch.allclose(p.trace(), torch.tensor(D - 5.0, dtype=torch.float64))
    for k in range(5):
        left = x - x @ basis[:k].T @ basis[:k]
        w, _ = probe(left, y, "squared_hinge", 1.0)
        assert (p @ w).norm() < 1e-6 * w.norm(), "each of the five probes reads nothing from what is left"
    assert best_accuracy(x, y) > 0.85 and best_accuracy(x @ p, y) < majority(y) + 0.05


def test_inlp_stops_below_the_accuracy_it_is_given(data):
    x, y = data
    few = inlp(x, y, iterations=10, min_accuracy=0.8, penalty=1.0)
    assert 1 <= len(few) < 10
    left = x - x @ few.T @ few
    assert accuracy(left, y, *probe(left, y, "squared_hinge", 1.0)) < 0.8
    assert len(inlp(x, y, iterations=10, min_accuracy=1.01, penalty=1.0)) == 0


def test_joined_directions_are_orthonormal_and_span_both():
    one, two = draw(2, D), torch.cat([draw(1, D, seed=5), draw(2, D)[:1]])
    basis = joined([one, two])
    assert basis.shape == (3, D) and torch.allclose(basis @ basis.T, eye(3))
    for row in [*one, *two]:
        assert torch.allclose(basis.T @ (basis @ row), row)


# R-LACE


@pytest.mark.parametrize("rank", [1, 3])
def test_the_fantope_projection_is_the_nearest_point(rank):
    p = draw(D, D)
    p = (p + p.T) / 2
    found = fantope(p, rank)
    values = torch.linalg.eigvalsh(found)
    assert torch.allclose(found, found.T, atol=1e-12) and abs(found.trace().item() - rank) < 1e-5
    assert values.min() > -1e-9 and values.max() < 1 + 1e-9
    for seed in range(20):  # any other point of the Fantope is further away
        vectors = torch.linalg.qr(draw(D, rank, seed=seed)).Q
        for share in (1.0, 0.1):
            other = (1 - share) * found + share * vectors @ vectors.T
            assert (other - p).norm() >= (found - p).norm() - 1e-6
    assert torch.allclose(fantope(found, rank), found, atol=1e-5)


def test_rlace_finds_the_direction_and_leaves_the_best_probe_at_the_majority(data):
    x, y = data
    basis, facts = rlace(x, y, 1, 3000, 128, 0.05, 1e-4, 100, 0.0015, generator())
    assert basis.shape == (1, D) and torch.allclose(basis.norm(), torch.ones((), dtype=torch.float64))
    left = x - x @ basis.T @ basis
    assert best_accuracy(left, y) < majority(y) + 0.03 < best_accuracy(x, y) - 0.2
    random = torch.nn.functional.normalize(draw(1, D, seed=9))
    assert best_accuracy(x - x @ random.T @ random, y) > majority(y) + 0.1, "another direction would not do"
    assert facts["probe_accuracy"] == pytest.approx(best_accuracy(left, y), abs=0.02) and facts["steps"] <= 3000


def test_rlace_of_a_higher_rank_takes_as_many_directions(data):
    basis, _ = rlace(*data, 3, 50, 64, 0.05, 1e-4, 20, 0.0, generator())
    t = eye() - basis.T @ basis
    assert torch.allclose(t @ t, t, atol=1e-9) and t.trace().item() == pytest.approx(D - 3)
    p = draw(D, D)
    assert torch.allclose(top(p + p.T, 2) @ top(p + p.T, 2).T, eye(2), atol=1e-9)


# LEACE


@pytest.mark.parametrize("shrinkage", [False, True])
@pytest.mark.parametrize("concepts", [1, 3])
def test_after_leace_states_and_labels_are_uncorrelated(data, shrinkage, concepts):
    x, _ = data
    z = torch.nn.functional.one_hot(torch.randint(concepts + 1, (600,), generator=generator(4)))[:, :concepts].double()
    x = x + z @ draw(concepts, D, seed=6)
    left, right, values = leace(x, z, shrinkage, 1e-3)
    erased = x - (x - x.mean(0)) @ right.T @ left.T
    assert covariance(erased, z).norm() < 1e-10 * covariance(x, z).norm()
    t = eye() - left @ right
    assert torch.allclose(t @ t, t, atol=1e-9) and torch.linalg.matrix_rank(eye() - t) == (values > 1e-3).sum() == concepts
    assert torch.allclose(erased.mean(0), x.mean(0))


def test_leace_leaves_a_logistic_probe_at_the_majority(data):
    x, y = data
    left, right, _ = leace(x, y[:, None], False, 0.01)
    assert best_accuracy(x, y) > 0.85 and abs(best_accuracy(x @ (eye() - left @ right).T, y) - majority(y)) < 0.01


def test_no_other_map_that_hides_the_label_moves_the_states_less(data):
    """In the plain norm and in the states' own: oblique LEACE against the orthogonal projection and random oblique ones."""
    x, y = data
    left, right, _ = leace(x, y[:, None], False, 0.01)
    cross, rows = covariance(x, y[:, None])[:, 0], x - x.mean(0)
    inverse = torch.linalg.inv(torch.cov(x.T))

    def moved(l, r, norm):  # noqa: E741
        change = (rows @ r)[:, None] * l
        return (change @ norm * change).sum(-1).mean().item()

    for norm in (eye(), inverse):
        ours = moved(left[:, 0], right[0], norm)
        assert ours < 0.9 * moved(cross, cross / (cross @ cross), norm)
        for seed in range(20):
            r = cross + 0.5 * cross.norm() * torch.nn.functional.normalize(draw(D, seed=seed), dim=0)
            assert moved(cross, r / (r @ cross), norm) > ours - 1e-9


def test_labels_that_mean_nothing_have_a_singular_value_of_about_half_the_root_of_d_over_n():
    found = []
    for seed in range(10):
        x, z = draw(2000, D, seed=seed), (torch.rand(2000, 1, generator=generator(100 + seed)) < 0.5).double()
        found.append(leace(x, z, False, 1.0)[2][0].item())
    assert sum(found) / 10 == pytest.approx(0.5 * (D / 2000) ** 0.5, rel=0.2)


def test_directions_below_the_tolerance_are_kept(data):
    x, y = data
    left, right, values = leace(x, y[:, None], False, 10.0)
    assert left.shape == (D, 0) and right.shape == (0, D) and values[0] < 10


def test_shrinkage_keeps_the_trace_and_is_strongest_where_rows_are_few():
    rows = draw(10, D)
    sigma = rows.T @ rows / 10
    few, many = shrunk(sigma, 10), shrunk(sigma, 100_000)
    assert torch.allclose(few.trace(), sigma.trace()) and torch.linalg.eigvalsh(sigma)[0] < 1e-9
    assert torch.linalg.eigvalsh(few)[0] > 1e-2 and (many - sigma).norm() < 1e-3 * sigma.norm()
    assert (few - sigma).norm() > 10 * (many - sigma).norm()


def test_a_direction_that_no_row_takes_is_left_alone_without_shrinkage(data):
    """The text states of a layer norm have one; float32 rounding must not count as variance."""
    x, y = data
    normal = torch.nn.functional.normalize(draw(D, seed=8), dim=0)
    flat = (x - torch.outer(x @ normal, normal)).float().double()
    left, right, _ = leace(flat, y[:, None], False, 0.01)
    assert (left @ right).norm() < 10 and (normal @ left).abs().max() < 1e-5
    assert covariance(flat - flat @ right.T @ left.T, y[:, None]).norm() < 1e-6 * covariance(flat, y[:, None]).norm()


# Rows of sentences


def method(name: str = "leace_t2i", **over):
    small = {"templates": ["a photo of a {name}", "a {name} on a table", "{name}"], "neutral": [], "padding": 3}
    fast = {"iterations": 40, "evaluate_every": 20, "lr": 0.05} if name == "rlace_t2i" else {}
    return replace(build("method", name), **{**small, **fast, **over})


def test_a_pair_enters_with_matched_positions(tiny):
    """'a photo of a dog on a table' against 'an animal': both end tokens, both words after the name, the same padding steps."""
    asked = method(positions=["begin", "concept", "after", "end", "padding"], padding=2)
    with torch.no_grad():
        rows, places = asked.rows(tiny, "a photo of a {name} on a table", ["golf ball", "animal"], generator())
        first, second = (tiny.encode([text]).hidden[0] for text in ("a photo of a golf ball on a table", "a photo of an animal on a table"))
    assert places == ["begin", "concept", *["after"] * 3, "end", *["padding"] * 2]
    assert torch.allclose(rows[0][:6], first[[0, 6, 7, 8, 9, 10]], atol=1e-5)
    assert torch.allclose(rows[1][:6], second[[0, 5, 6, 7, 8, 9]], atol=1e-5)

    def place(hidden, row):
        return next(k for k, other in enumerate(hidden) if torch.allclose(other, row, atol=1e-5))

    for k in (6, 7):
        assert place(first, rows[0][k]) - 10 == place(second, rows[1][k]) - 9 > 0


def test_only_the_asked_positions_enter_and_padding_is_drawn_by_the_seed(tiny):
    asked = method(positions=["end", "padding"], padding=5)
    with torch.no_grad():
        one, places = asked.rows(tiny, "a {name}", ["dog"], generator(0))
        two, _ = asked.rows(tiny, "a {name}", ["dog"], generator(1))
    assert places == ["end", *["padding"] * 5] and torch.equal(one[0][0], two[0][0]) and not torch.equal(one[0], two[0])


def test_labels_places_and_anchors_of_the_examples(tiny, concept):
    asked = method(neutral=["empty", "siblings"], templates=["a {name}"], positions=["concept", "end"], becomes="tree")
    pair = [concept(siblings=["frog"]), concept("cat", siblings=["frog", "hot dog"])]
    with torch.no_grad():
        seen = asked.examples(tiny, pair, generator())
        dog, cat, tree, frog = (tiny.encode([f"a {name}"]).hidden[0, 2:4].double() for name in ("dog", "cat", "tree", "frog"))
    assert torch.allclose(seen.x[:10], torch.cat([dog, tree, cat, tree, frog]), atol=1e-5), "and no hot dog"
    assert seen.z[:10].tolist() == [[1, 0]] * 2 + [[0, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 4
    assert seen.anchor[:10].tolist() == [False, False, True, True] * 2 + [False] * 2
    assert len(seen.x) == 10 + 77 and seen.z[10:].abs().max() == 0, "every row of the empty text"
    assert [POSITIONS[k] for k in seen.place[:2].tolist()] == ["concept", "end"]


def test_synonyms_count_as_the_concept_where_asked(tiny, concept):
    with torch.no_grad():
        name, both = (method(edits=edits).examples(tiny, [concept()], generator()) for edits in (["name"], ["name", "aliases"]))
    assert both.z.sum() == 2 * name.z.sum() and len(both.x) == 2 * len(name.x)


def test_unrelated_things_fill_the_sentences(concept):
    assert sentences(["a {name}", "a {other} by {name}"], concept()) == ["a {name}", "a car by {name}", "a apple by {name}"]


def test_centring_takes_each_positions_own_mean(tiny, concept):
    with torch.no_grad():
        seen = method().examples(tiny, [concept()], generator())
    rows = centred(seen)
    for place in seen.place.unique():
        assert rows[seen.place == place].mean(0).abs().max() < 1e-9 < seen.x[seen.place == place].mean(0).abs().max()


# The erasers


def parts(erasure) -> tuple[torch.Tensor, torch.Tensor]:
    """(T [d, d], shift [d])."""
    u, v = (erasure.tensors[f"edit.{k}"].double() for k in "UV")
    return eye(len(u)) + u @ v.T, erasure.tensors.get("edit.shift", torch.zeros(len(u))).double()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fill", ["zero", "mean", "anchor"])
def test_merged_weights_and_edited_states_are_the_same_model(tiny, concept, context, sampler, name, fill):
    pipe, erasers = with_biases(tiny), {form: method(name, fill=fill, form=form) for form in ("merge", "hook")}
    plain, drawn = pipe(["a photo of a dog"], [3], sampler).pixels.int(), {}
    for form, eraser in erasers.items():
        with eraser.attach(pipe, eraser.erase(pipe, [concept()], context())):
            drawn[form] = pipe(["a photo of a dog"], [3], sampler).pixels.int()
    assert (drawn["merge"] - drawn["hook"]).abs().max() <= 1 and not torch.equal(drawn["merge"], plain)


@pytest.mark.parametrize("name", ["inlp_t2i", "rlace_t2i", "leace_t2i"])
def test_a_fixed_mean_stays_where_it_is(tiny, concept, context, name):
    """anchor: the anchor's rows, mean: all rows; zero leaves neither."""
    with torch.no_grad():
        seen = method(name).examples(tiny, [concept()], context().generator("padding"))
        means = {"anchor": seen.x[seen.anchor].mean(0), "mean": seen.x.mean(0)}
        for fill, mean in means.items():
            t, shift = parts(method(name, fill=fill).erase(tiny, [concept()], context()))
            assert (t @ mean + shift - mean).norm() < 1e-5 * mean.norm()
        t, shift = parts(method(name, fill="zero").erase(tiny, [concept()], context()))
        assert shift.norm() == 0 and (t @ means["mean"] - means["mean"]).norm() > 1e-3 * means["mean"].norm()


def test_anchored_states_of_the_concept_land_on_the_anchors_mean_and_plain_ones_half_way(tiny, concept, context):
    def class_means(seen, rows):
        return rows[seen.z[:, 0] == 1].mean(0), rows[seen.anchor].mean(0)

    def gap_to_anchor(fill):
        asked = method(fill=fill, centre=False, shrinkage=False, padding=10)
        with torch.no_grad():
            seen = asked.examples(tiny, [concept()], context().generator("padding"))
            t, shift = parts(asked.erase(tiny, [concept()], context()))
        after = seen.x @ t.T + shift
        means = {"before": class_means(seen, seen.x), "after": class_means(seen, after)}
        gap = (means["before"][0] - means["before"][1]).norm()
        assert (means["after"][0] - means["after"][1]).norm() < 1e-5 * gap, "the two classes have one mean"
        return ((means["after"][1] - means["before"][1]).norm() / gap).item()

    assert gap_to_anchor("anchor") < 1e-5 and gap_to_anchor("mean") == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("name", ["inlp_t2i", "rlace_t2i", "leace_t2i"])
def test_strength_scales_the_change_and_its_shift(tiny, concept, context, name):
    def change(s):
        t, shift = parts(method(name, strength=s, fill="anchor").erase(tiny, [concept()], context()))
        return torch.cat([t - eye(32), shift[:, None]], 1)

    assert torch.allclose(change(1.6), 1.6 * change(1.0), atol=1e-5) and change(1.0).norm() > 0.5


@pytest.mark.parametrize("name", ["inlp_t2i", "rlace_t2i", "leace_t2i"])
def test_several_concepts_are_erased_together_in_any_order(tiny, concept, context, name):
    """Each concept adds directions of its own: one, or for INLP several."""
    dog, cat = concept(siblings=["frog"]), concept("cat", siblings=["frog"])
    few = {"iterations": 3, "min_accuracy": 0.6} if name == "inlp_t2i" else {}
    asked = method(name, centre=False, fill="zero", positions=["concept"], **few)
    there, back = (parts(asked.erase(tiny, pair, context()))[0] for pair in ([dog, cat], [cat, dog]))
    rank = torch.linalg.matrix_rank(eye(32) - there, tol=1e-4).item()
    assert torch.allclose(there, back, atol=1e-4) and (rank > 2 if name == "inlp_t2i" else rank == 2)
    alone = parts(asked.erase(tiny, [dog], context()))[0]
    assert torch.linalg.matrix_rank(eye(32) - alone, tol=1e-4) < rank


def test_the_record_says_what_chance_would_give(tiny, concept, context):
    meta = method(neutral=["siblings"]).erase(tiny, [concept(siblings=["hot dog", "cat"])], context()).meta
    assert meta["chance_level"] == pytest.approx(0.5 * (32 / meta["examples"]) ** 0.5)
    assert meta["singular_values"][0] > meta["chance_level"] and meta["directions"] == 1 and meta["left_out"] == ["hot dog"]


def test_sdxl_takes_the_hook_alone(concept, context):
    xl = loading.load(replace(tiny_spec(), family="sdxl"))
    assert "method.form=hook" in method(fill="mean", form="merge").supports(xl.spec, [concept()])
    assert method(fill="zero", form="merge").supports(xl.spec, [concept()]) is None
    asked = method(fill="mean", form="hook")
    with torch.no_grad():
        assert asked.erase(xl, [concept()], context()).tensors["edit.U"].shape[0] == 64


def test_labels_without_any_direction_are_an_error(tiny, concept, context):
    with pytest.raises(ValueError, match=r"no direction reaches method\.tolerance=10\.0"):
        method(tolerance=10.0).erase(tiny, [concept()], context())


@pytest.mark.parametrize(
    "name, over",
    [
        ("leace_t2i", {"edits": ["slug"]}),
        ("leace_t2i", {"neutral": ["friends"]}),
        ("leace_t2i", {"positions": ["middle"]}),
        ("leace_t2i", {"positions": []}),
        ("leace_t2i", {"fill": "half"}),
        ("leace_t2i", {"templates": ["a photo"]}),
        ("leace_t2i", {"strength": 0.0}),
        ("leace_t2i", {"form": "lora"}),
        ("inlp_t2i", {"iterations": 0}),
        ("rlace_t2i", {"rank": 0}),
        ("rlace_t2i", {"evaluate_every": 0}),
    ],
)
def test_bad_settings_are_named(name, over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        method(name, **over)
