"""Every closed form against a direct evaluation of its paper's formula, layer by layer in float64, for several shapes of layers.

TRCE's stage 1 stands in test_trce.py, MACE's fusion in test_mace.py, the debiasing form of UCE in test_uce_debias.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import shaped_pipe, with_biases
from scipy.linalg import sqrtm

from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import projections
from vestige.methods._guardedness import leace
from vestige.methods.speed import invariant_rows, least_passed

TOLERANCE = 1e-6


def states(pipe, text: str) -> torch.Tensor:
    """[77, d]: every position of one text."""
    with torch.no_grad():
        return pipe.encode([text]).hidden[0].double()


def solved(w, pairs, kept, beta: float, ridge: float) -> torch.Tensor:
    """(ridge W + sum W g c^T + beta sum W p p^T) (ridge I + sum c c^T + beta sum p p^T)^-1."""
    left, right = ridge * w.clone(), ridge * torch.eye(w.shape[1], dtype=w.dtype)
    for c, g in pairs:
        left, right = left + w @ g.T @ c, right + c.T @ c
    for p in kept:
        left, right = left + beta * w @ p.T @ p, right + beta * p.T @ p
    return left @ torch.linalg.inv(right)


def assert_agrees(pipe, method, concepts, ctx, literal, layers: str = "kv") -> None:
    """The edit in the artefact, applied in float64, and the weights that attaching puts into the model, against literal(w)."""
    erasure = method.erase(pipe, concepts, ctx)
    weights = {name: w.double().clone() for name, w in projections(pipe, layers).items()}
    assert {w.shape[0] for w in weights.values()} == {16, 64, 160}
    wanted = {name: literal(w) for name, w in weights.items()}
    with method.attach(pipe, erasure):
        for name, w in weights.items():
            got = pipe.parameter(f"unet.{name}").double()
            assert (got - wanted[name]).norm() < TOLERANCE * wanted[name].norm(), name
            assert (got - w).norm() > 1e-2 * w.norm(), "the edit is worth the comparison"


@pytest.fixture
def animals(concept):
    return [concept(), concept("cat", siblings=["frog", "bird"])]


def uce(**over):
    return replace(build("method", "uce"), **{"guide": "{anchor}", "preserve": ["empty", "others"], "preserve_scale": 0.3, **over})


def kept(pipe, method, concepts) -> list[torch.Tensor]:
    return [states(pipe, text) for text in method.kept_texts(concepts)]


def test_uce_of_the_paper(shaped, animals, context):
    """'dog' and 'animal' are one token each: rows 1 to 76 of either."""
    pairs = [(states(shaped, name)[1:], states(shaped, "animal")[1:]) for name in ("dog", "cat")]
    method = uce()
    p = [states(shaped, text) for text in ("", "apple", "car")]
    assert_agrees(shaped, method, animals, context(), lambda w: solved(w, pairs, p, 0.3, 0.5))


def test_uce_of_the_rewrite(shaped, animals, context):
    pairs = [(states(shaped, name)[1:2], states(shaped, "animal")[1:2]) for name in ("dog", "cat")]
    p = [states(shaped, text)[k : k + 1] for text, k in (("", 0), ("apple", 1), ("car", 1))]
    assert_agrees(shaped, uce(rows="last", ridge=0.1), animals, context(), lambda w: solved(w, pairs, p, 0.3, 0.1))


def test_time(shaped, animals, context):
    """'an' meets 'a': positions meet themselves."""
    method = replace(build("method", "time_eraser"), templates=["{}", "A photo of {}"])
    sentences = [("a dog", "an animal"), ("a cat", "an animal")]
    pairs = [(states(shaped, t + s), states(shaped, t + d)) for s, d in sentences for t in ("", "A photo of ")]
    assert_agrees(shaped, method, animals, context(), lambda w: solved(w, pairs, [], 0.0, 0.1))


@pytest.mark.parametrize("regulariser", ["zero", "standard", "own"])
@pytest.mark.parametrize("each", [False, True])
def test_rece(shaped, animals, context, regulariser, each):
    """UCE, then two rounds of adversarial states, found and erased with the weights of the round before, of all layers.

    As in the code, `standard` pulls every state to that of the old target, the guide; explicit content has one blank per text.
    """
    settings = {"guide": "{anchor}", "epochs": 2, "regulariser": regulariser, "regular_scale": 0.3, "empty_per_text": each}
    method = replace(build("method", "rece"), **settings)
    original = {name: w.double().clone() for name, w in projections(shaped).items()}
    k, g, empty = ([states(shaped, text) for text in texts] for texts in (["dog", "cat"], ["animal"] * 2, [""]))
    edited = {n: solved(w, [(a[1:], b[1:]) for a, b in zip(k, g, strict=True)], empty, 1.0, 0.5) for n, w in original.items()}
    identity = torch.eye(k[0].shape[1], dtype=torch.float64)
    for _ in range(2):
        left = sum(e.T @ e for e in edited.values()) + 0.3 * identity
        across = sum(edited[n].T @ original[n] for n in original)
        pulls = {"zero": [0 * rows for rows in k], "standard": g, "own": k}[regulariser]
        found = [(torch.linalg.inv(left) @ (across @ rows.T + 0.3 * pull.T)).T for rows, pull in zip(k, pulls, strict=True)]
        blanks = empty * 2 if each else empty
        edited = {n: solved(e, list(zip(found, g, strict=True)), blanks, 0.1, 0.1) for n, e in edited.items()}
    by_weight = {tuple(w.flatten()[:4].tolist()): edited[n] for n, w in original.items()}
    assert_agrees(shaped, method, animals, context(), lambda w: by_weight[tuple(w.flatten()[:4].tolist())])


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_mace_refinement(shaped, animals, context, ridge):
    """'a photo of dog': the four words before the name and all after it, without the name."""
    shaped = with_biases(shaped)  # without, all states lie in a plane through the origin, and no ridge is no solution
    settings = {"templates": ["a photo of {name}"], "prior": ["others"], "prior_size": 2, "refine_preserve": 0.5}  # squared: 0.25
    method = replace(build("method", "mace"), **settings, ridge=ridge)
    rows = [*range(4), *range(5, 77)]
    pairs = [(states(shaped, f"a photo of {name}")[rows], states(shaped, "a photo of animal")[rows]) for name in ("dog", "cat")]
    p = [states(shaped, text) for text in ("a photo of apple", "a photo of car")]
    u, v = method.refine(shaped, animals, 0.25 * method.kept_squares(shaped, animals))
    for name, w in projections(shaped).items():
        w = w.double()
        wanted = solved(w, pairs, p, 0.25, ridge)
        assert (w + w @ u @ v.T - wanted).norm() < TOLERANCE * wanted.norm(), name
        assert (wanted - w).norm() > 1e-2 * w.norm()


def speed_literal(w, pairs, retained, k, generator, copies: int, filtered: bool, ridge: float, r: float, threshold: float) -> torch.Tensor:
    """W + W (A - T) P [I - M K (K^T P M K + ridge I)^-1 K^T P] M with M = (T P + r I)^-1.

    T and A: c^T c and g^T c summed over the rows of a text (pairs: [rows, d] each) and averaged over texts. P: null space of the
    retained rows and their copies x + s v, each pile of which is filtered by |W (A - T)(I + T)^-1 x| and its mean. The published
    code filters rows only where there are copies, and copies always.
    """
    t, a = (torch.stack([rows.T @ c for c, rows in rows_of]).mean(0) for rows_of in ([(c, c) for c, _ in pairs], pairs))
    identity = torch.eye(w.shape[1], dtype=torch.float64)
    update = w @ (a - t) @ torch.linalg.inv(identity + t)

    def strongest(rows):
        size = (rows @ update.T).norm(dim=1)
        assert 0 < (size >= size.mean()).sum() < len(rows), "the filter does something"
        return rows[size >= size.mean()]

    rows = strongest(retained) if filtered and copies else retained
    if copies:
        steps = torch.randn((len(rows), copies), generator=generator, dtype=torch.float64).flatten()[:, None]
        rows = torch.cat([rows, strongest(rows.repeat_interleave(copies, 0) + steps * least_passed(w))])
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    p = vectors[:, values < threshold] @ vectors[:, values < threshold].T
    m = torch.linalg.inv(t @ p + r * identity)
    inner = torch.linalg.inv(k.T @ p @ m @ k + ridge * torch.eye(k.shape[1], dtype=torch.float64))
    return w + w @ (a - t) @ p @ (identity - m @ k @ inner @ k.T @ p) @ m


def assert_speed_agrees(pipe, method, concepts, pairs, retained, ctx) -> None:
    k = invariant_rows(states(pipe, ""), 3, ctx.generator("centres"))
    retained = retained[torch.randperm(len(retained), generator=ctx.generator("order"))] if method.retain else retained
    layers = {tuple(w.flatten()[:4].tolist()): n for n, w in projections(pipe).items()}

    def literal(w):
        name = layers[tuple(w.flatten()[:4].tolist())].removesuffix(".weight")
        settings = (method.augment, method.filter, method.invariance_ridge, method.retain_scale, method.threshold)
        return speed_literal(w, pairs, retained, k, ctx.generator(f"augmentation {name}"), *settings)

    assert_agrees(pipe, method, concepts, ctx, literal)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("copies", [0, 3])
def test_speed(shaped, animals, context, ridge, filtered, copies):
    settings = {"filter": filtered, "augment": copies, "invariance_ridge": ridge, "retain_scale": 0.3, "layers": "kv"}
    method = replace(build("method", "speed"), **settings, anchor="{anchor}", retain=["others"], threshold=0.01)
    animals = [replace(each, others=["car", "apple", "tree", "house", "guitar"]) for each in animals]
    pairs = [(states(shaped, name)[1:2], states(shaped, "animal")[1:2]) for name in ("dog", "cat")]
    retained = torch.cat([states(shaped, name)[1:2] for name in ("apple", "car", "guitar", "house", "tree")])
    assert_speed_agrees(shaped, method, animals, pairs, retained, context())


@pytest.mark.parametrize("names", [["dog"], ["dog", "cat"]])
def test_speed_of_explicit_concepts_sums_over_a_text_and_averages_over_texts(shaped, animals, context, names):
    """The settings of nudity: all rows but the begin token of the concept and of the empty text, nothing else retained."""
    settings = {"rows": "all", "anchor": "", "retain": [], "threshold": 0.1, "retain_scale": 0.7, "invariance_ridge": 0.5, "layers": "kv"}
    method = replace(build("method", "speed"), **settings, filter=True, augment=4)
    pairs = [(states(shaped, name)[1:], states(shaped, "")[1:]) for name in names]
    assert_speed_agrees(shaped, method, animals[: len(names)], pairs, states(shaped, "")[1:], context())


def leace_literal(x: np.ndarray, z: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """I - W^+ P W with W = (Sigma^1/2)^+ and P the orthogonal projector on the columns of W Cov(x, z)."""
    root = np.real(sqrtm(sigma))
    whiten = np.linalg.pinv(root, rcond=1e-6)  # text states lie in a plane: one variance is rounding
    a = whiten @ (x - x.mean(0)).T @ (z - z.mean(0)) / (len(x) - 1)
    return np.eye(x.shape[1]) - np.linalg.pinv(whiten, rcond=1e-6) @ (a @ np.linalg.pinv(a)) @ whiten


@pytest.mark.parametrize("d", [32, 96])
@pytest.mark.parametrize("concepts", [1, 3])
def test_leace(d, concepts):
    """Each row of a third concept's label is its own class; the mean is where the map is anchored."""
    generator = torch.Generator().manual_seed(d)
    z = torch.nn.functional.one_hot(torch.randint(concepts + 1, (5 * d,), generator=generator))[:, :concepts].double()
    x = torch.randn(5 * d, d, generator=generator, dtype=torch.float64) @ torch.randn(d, d, generator=generator, dtype=torch.float64)
    x = x + 10 * z @ torch.randn(concepts, d, generator=generator, dtype=torch.float64) + 5
    left, right, _ = leace(x, z, shrinkage=False, tolerance=1e-9)
    literal = torch.from_numpy(leace_literal(x.numpy(), z.numpy(), np.cov(x.numpy().T)))
    ours = torch.eye(d, dtype=torch.float64) - left @ right
    assert (ours - literal).norm() < TOLERANCE * literal.norm() and left.shape[1] == concepts


@pytest.mark.parametrize("width", [32, 96])
@pytest.mark.parametrize("fill", ["mean", "anchor", "zero"])
def test_leace_as_an_eraser(width, concept, context, fill):
    """x -> x - W^+ P W (x - m), m the mean of all rows (LEACE) or of the anchor's (ours), in the artefact's T and shift."""
    pipe, settings = shaped_pipe(width), {"fill": fill, "shrinkage": False, "centre": False, "neutral": [], "padding": 20}
    method = replace(build("method", "leace_t2i"), **settings)
    with torch.no_grad():
        erasure = method.erase(pipe, [concept()], context())
        seen = method.examples(pipe, [concept()], context().generator("padding"))
    literal = torch.from_numpy(leace_literal(seen.x.numpy(), seen.z.numpy(), np.cov(seen.x.numpy().T)))
    u, v = (erasure.tensors[f"edit.{k}"].double() for k in "UV")
    identity = torch.eye(width, dtype=torch.float64)
    assert (identity + u @ v.T - literal).norm() < TOLERANCE * literal.norm()
    middle = {"mean": seen.x.mean(0), "anchor": seen.x[seen.z[:, 0] == 0].mean(0), "zero": torch.zeros(width)}[fill].double()
    shift = (identity - literal) @ middle
    got = erasure.tensors.get("edit.shift", torch.zeros(width)).double()
    assert (got - shift).norm() <= 2 * TOLERANCE * shift.norm() and (fill == "zero") == ("edit.shift" not in erasure.tensors)
