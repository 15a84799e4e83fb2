"""RealEra (reconstruction): its samples keep their distances, its closed form equals the literal sums, its adapter learns both goals."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models.diffusion import frozen_copy
from vestige.bench.models.loading import load
from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import edit_keeping, plane_normal, projections
from vestige.methods._neighbours import far, near
from vestige.methods._text_rows import aligned_rows, all_rows
from vestige.methods.realera import RealEra

D = 12


def realera(**over) -> RealEra:
    small = {"templates": ["a photo of {name}", "{name} seen from afar"], "neighbours": 4, "iterations": 0, "bins": 4, "lr": 1e-2}
    return replace(build("method", "realera_reimpl"), **{**small, **over})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def dense(erasure) -> torch.Tensor:
    u, v = (erasure.tensors[f"edit.{k}"].double() for k in "UV")
    return torch.eye(len(u), dtype=torch.float64) + u @ v.T


def cosine_and_distance(rows: torch.Tensor, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance in units of the row's norm."""
    return torch.cosine_similarity(rows, found), (rows - found).norm(dim=-1) / rows.norm(dim=-1)


# Samples


@pytest.mark.parametrize("band, reach", [((0.8, 0.95), 0.6), ((0.7, 0.95), 0.8), ((0.9, 0.9), 0.9)])
def test_every_neighbour_meets_both_constraints_and_fills_them(band, reach):
    rows = 3 * draw(4000, D) * draw(4000, 1, seed=1).exp()
    cosine, distance = cosine_and_distance(rows, near(rows, band, reach, None, generator()))
    assert cosine.min() > band[0] - 1e-9 and cosine.max() < band[1] + 1e-9 and distance.max() < reach + 1e-9
    assert cosine.max() - cosine.min() > 0.99 * (band[1] - band[0]) and distance.max() > 0.99 * reach
    longer = near(rows, band, reach, None, generator()).norm(dim=-1) > rows.norm(dim=-1)
    assert 0.2 < longer.double().mean() < 0.8, "neighbours lie on both sides"


@pytest.mark.parametrize("band, reach", [((0.0, 0.8), 0.6), ((-0.5, 0.95), 0.9)])
def test_every_sample_beyond_is_too_far_and_too_unlike(band, reach):
    rows = 3 * draw(4000, D)
    cosine, distance = cosine_and_distance(rows, far(rows, band, reach, None, generator()))
    assert cosine.min() > band[0] - 1e-9 and cosine.max() < band[1] + 1e-9 and distance.min() > reach - 1e-9
    assert cosine.min() < band[0] + 0.01 and cosine.max() > band[1] - 0.01


@pytest.mark.parametrize("sample", [near, far])
def test_samples_stay_in_the_plane_of_their_rows(sample):
    normal, rows = draw(D, seed=3), draw(50, D)
    rows = rows - torch.outer(rows @ normal, normal) / normal.square().sum()
    found = sample(rows, (0.5, 0.8), 0.9, normal, generator())
    assert (found @ normal).abs().max() < 1e-9 and (found - rows).norm(dim=-1).min() > 0.3
    free = sample(rows, (0.5, 0.8), 0.9, None, generator())
    assert (free @ normal).abs().max() > 0.1


def test_the_squares_of_many_neighbours_approach_their_expectation():
    """At one cosine and distance: r^2 (c^2 u u^T + (1 - c^2) (I - u u^T) / (d - 1)), with an error that falls as 1 / sqrt(K)."""
    row, c = draw(1, D), 0.8
    u = row / row.norm()
    squared, identity = (row.norm() * c) ** 2, torch.eye(D, dtype=torch.float64)  # at the least distance r = c |e|
    wanted = squared * (c**2 * u.T @ u + (1 - c**2) * (identity - u.T @ u) / (D - 1))
    errors = []
    for k in (100, 10_000):
        found = torch.stack([near(row.repeat(k, 1), (c, c), (1 - c**2) ** 0.5, None, generator(seed)) for seed in range(5)])
        errors.append(((found.mT @ found / k - wanted).flatten(1).norm(dim=-1) / wanted.norm()).mean().item())
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.5) and errors[1] < 0.02


def test_text_states_differ_only_across_the_normal(tiny):
    rows = all_rows(tiny, ["a dog", "an old car in a park", ""]).double()
    normal = plane_normal(tiny)
    assert (((rows - rows[0]) @ normal).abs() / normal.norm()).max() < 1e-5 * rows.norm(dim=-1).max()
    assert plane_normal(load(ModelSpec("tiny", "sdxl", "random:tiny", None, "float32", "reference", "photo", "photo"))) is None


# Stage 1


def test_without_samples_it_is_uces_edit_of_the_same_rows(tiny, concept, context):
    """And these rows are UCE's aligned ones, after the words that the two sentences share."""
    method = realera(neighbour_weight=0.0, beyond_weight=0.0, templates=["a photo of {name}"], anchor="cat")
    with torch.no_grad():
        each = method.sentences(tiny, concept())
        c, g = aligned_rows(tiny, "a photo of dog", "a photo of cat")
        assert torch.equal(each.asked.hidden[0, each.changed[0]], c) and torch.allclose(each.goals[0, each.changed[0]], g.double())
        assert torch.equal(each.goals[0, :4], each.wanted.hidden[0, :4].double())
        kept = all_rows(tiny, method.kept_texts([concept()])).double()
        u, v = edit_keeping(each.asked.hidden[0], each.goals[0], 1.0, 0.1 * kept.T @ kept, 0.5)
        got = dense(method.erase(tiny, [concept()], context()))
    assert torch.allclose(got, torch.eye(32, dtype=torch.float64) + u @ v.T, atol=1e-5) and (u @ v.T).norm() > 0.1


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_closed_form_equals_the_literal_sums(concept, context, family):
    """Row by row and layer by layer as the objective is written, with the samples drawn again from the same seeds."""
    pipe = load(replace(tiny_spec(), family=family))
    method, ctx, names = realera(neighbours=2), context(), [concept(), concept("cat", siblings=["bird"])]
    with torch.no_grad():
        got = dense(method.erase(pipe, names, ctx))
        texts = method.kept_texts(names)
        preserved, normal = pipe.encode(texts).hidden.double(), plane_normal(pipe)
        middle, d = preserved.mean(0), preserved.shape[-1]
        left, right = torch.zeros(d, d, dtype=torch.float64), 0.5 * torch.eye(d, dtype=torch.float64)

        def add(c, g, weight):
            nonlocal left, right
            left, right = left + weight * torch.outer(g, c), right + weight * torch.outer(c, c)

        for each in names:
            seeds = context().generator(f"neighbours {each.slug}")
            for asked, wanted in zip(method.worded(each.name, each), method.worded("animal", each), strict=True):
                e, g = (pipe.encode([text]).hidden[0].double() for text in (asked, wanted))
                tokens = [pipe.text.token_ids(text) for text in (asked, wanted)]
                assert len(tokens[0]) == len(tokens[1]), "one token for one: positions meet themselves"
                first = 1 + next(k for k, pair in enumerate(zip(*tokens, strict=True)) if pair[0] != pair[1])
                for c, goal in zip(e, g, strict=True):
                    add(c, goal, 1.0)
                around = middle[first:].repeat(2, 1)
                rows = e[first:].repeat(2, 1) - around
                for n, goal in zip(near(rows, (0.8, 0.95), 0.6, normal, seeds) + around, g[first:].repeat(2, 1), strict=True):
                    add(n, goal, 0.5 / 2)
                for b in far(rows, (0.0, 0.8), 0.6, normal, seeds) + around:
                    add(b, b, 0.5 / 2)
        for p in preserved.flatten(0, 1):
            add(p, p, 0.1)
        for w in (w.double() for w in projections(pipe).values()):
            literal = (0.5 * w + w @ left) @ torch.linalg.inv(right)
            assert (w @ got - literal).norm() < 1e-6 * literal.norm() and (w - literal).norm() > 1e-2 * w.norm()


def held_out(pipe, method: RealEra, concept, seed: int, sample: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh samples of one sentence's rows, with the anchor's states."""
    with torch.no_grad():
        each = method.sentences(pipe, concept)
        middle = method.middle(pipe, method.kept_texts([concept]))[each.changed[0]]
        rows = each.asked.hidden[0, each.changed[0]].double() - middle
        return getattr(method, sample)(rows, plane_normal(pipe), generator(seed)) + middle, each.goals[0, each.changed[0]]


def test_neighbours_never_seen_move_towards_the_anchor_the_more_the_neighbours_weigh(tiny, concept, context):
    """The method's only reason to exist."""
    rows, goals = held_out(tiny, realera(), concept(), 99, "near")
    left = []
    for weight in (0.0, 0.5, 5.0):
        t = dense(realera(neighbour_weight=weight, beyond_weight=0.0, neighbours=16).erase(tiny, [concept()], context()))
        left.append(((rows @ t.T - goals).norm() / (rows - goals).norm()).item())
    assert left[0] > 1.05 * left[1] > 1.05**2 * left[2]


def test_samples_beyond_keep_their_place_the_more_they_weigh(tiny, concept, context):
    rows, _ = held_out(tiny, realera(), concept(), 99, "far")
    moved = []
    for weight in (0.0, 1.0, 100.0, 1e6):
        t = dense(realera(beyond_weight=weight, neighbours=16).erase(tiny, [concept()], context()))
        moved.append(((rows @ t.T - rows).norm() / rows.norm()).item())
    assert moved == sorted(moved, reverse=True) and moved[-1] < 1e-3 < 0.05 < moved[0]


def test_other_concepts_and_their_order_change_no_samples(tiny, concept, context):
    """Of two concepts together, in either order, and the noise of one does not depend on the other."""
    dog, cat = concept(siblings=["frog"]), concept("cat", siblings=["frog"])
    there, back = (dense(realera().erase(tiny, pair, context())) for pair in ([dog, cat], [cat, dog]))
    assert torch.allclose(there, back, atol=1e-5)
    assert not torch.allclose(there, dense(realera().erase(tiny, [dog], context())), atol=1e-3)


# Stage 2


def losses(pipe, method: RealEra, concept, middle_of=None) -> dict[str, float]:
    """Squared errors of held-out samples at one latent: neighbours against the anchor, samples beyond against themselves."""
    original, found = frozen_copy(load(tiny_spec()).denoiser), {}
    x, t = torch.randn(1, 4, 8, 8, generator=generator(5)), torch.tensor(500)
    with torch.no_grad():
        each = method.sentences(pipe, concept)
        for sample in ("near", "far"):
            total = 0.0
            for seed in range(8):
                rows, _ = held_out(pipe, method, concept, seed, sample)
                cond = each.asked.rows([0])
                hidden = cond.hidden.clone()
                hidden[0, each.changed[0]] = rows.float()
                cond = replace(cond, hidden=hidden)
                wanted = each.wanted.rows([0]) if sample == "near" else cond
                total += (pipe.predict(x, t, cond) - pipe.predict(x, t, wanted, original)).square().mean().item()
            found[sample] = total
    return found


def test_training_lowers_both_losses_it_names(tiny, concept, context):
    base = realera(templates=["a photo of {name}"], anchor="car", ridge=1e4, preserve=["empty"], batch=4)  # stage 1 all but off
    left = {}
    for name, over in {
        "none": {},
        "both": {"iterations": 60, "rank": 4},
        "no beyond": {"iterations": 60, "rank": 4, "beyond_weight": 0.0},
    }.items():
        method = replace(base, **over)
        with tiny.preserved():
            erasure = method.erase(tiny, [concept()], context())
        with method.attach(tiny, erasure):
            left[name] = losses(tiny, method, concept())
    assert left["both"]["near"] < 0.8 * left["none"]["near"]
    assert left["both"]["far"] < 0.8 * left["no beyond"]["far"]


def test_adapters_of_several_concepts_are_trained_alone_and_added(tiny, concept, context):
    dog, cat = concept(siblings=["frog"]), concept("cat", siblings=["frog"])
    method = realera(iterations=3, rank=2)
    there, back = (method.erase(load(tiny_spec()), pair, context()) for pair in ([dog, cat], [cat, dog]))
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    assert there.tensors[f"lora.{name}.down"].shape == (4, 32) and there.tensors[f"lora.{name}.up"].shape == (64, 4)
    weight = dict(tiny.denoiser.named_parameters())[f"{name}.weight"]
    seen = []
    for erasure in (there, back):
        with method.attach(tiny, erasure):
            seen.append(weight.clone())
    assert torch.allclose(*seen, atol=1e-5)
    alone = replace(method, iterations=0)
    with alone.attach(tiny, alone.erase(tiny, [dog, cat], context())):
        trained = there.tensors[f"lora.{name}.up"] @ there.tensors[f"lora.{name}.down"]
        assert torch.allclose(seen[0] - weight, trained, atol=1e-6) and trained.abs().max() > 1e-3


def test_the_first_step_starts_from_stage_one(tiny, concept, context):
    """An untrained adapter is nothing: the first loss is that of the edited weights."""
    ctx, method = context(), realera(iterations=1, lr=0.0)
    method.erase(tiny, [concept()], ctx)
    assert ctx.history[0]["preserving"] > 1e-8, "beyond samples have moved in stage 1"
    ctx = context()
    realera(iterations=1, lr=0.0, ridge=1e12).erase(tiny, [concept()], ctx)
    assert ctx.history[0]["preserving"] < 1e-10, "without an edit they have not"


# Bad input


def test_bad_concepts_are_refused_before_anything_is_computed(tiny, concept, context):
    with pytest.raises(ValueError, match="has no token"):
        realera().erase(tiny, [concept(name=" ")], context())
    with pytest.raises(ValueError, match="the same tokens"):
        realera(anchor="DOG").erase(tiny, [concept()], context())
    assert "itself" in realera(anchor="{anchor}").supports(tiny.spec, [concept(anchor="dog")])
    assert "`siblings`" in realera().supports(tiny.spec, [concept(siblings=["dog"])])
    assert "`siblings`" in realera(anchor="{sibling}").supports(tiny.spec, [concept(siblings=[])])
    assert "float32" in realera(iterations=1).supports(replace(tiny.spec, dtype="float16"), [concept()])
    assert realera().supports(tiny.spec, [concept()]) is None


def test_without_a_ridge_the_rows_must_span_the_space(tiny, concept, context):
    few = {"ridge": 0.0, "preserve_scale": 0.0, "neighbour_weight": 0.0, "beyond_weight": 0.0, "templates": ["{name}"]}
    wide = load(tiny_spec())
    assert realera(**few).erase(wide, [concept()], context()).tensors["edit.V"].isfinite().all(), "77 rows span 32 dimensions"


def test_captions_join_the_preserved_texts_and_the_key(concept, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("a red car\n")
    method = realera(captions=str(file), preserve=[])
    assert method.kept_texts([concept()]) == ["a red car"]
    before = method.inputs([concept()])
    file.write_text("a green car\n")
    assert before != method.inputs([concept()]) and realera().inputs([concept()]) == {}


@pytest.mark.parametrize(
    "over",
    [
        {"preserve": ["friends"]},
        {"templates": ["a photo"]},
        {"cosine": [0.9, 0.8]},
        {"distance": 0.5},
        {"distance": 1.0},
        {"beyond_cosine": 0.9},
        {"neighbours": 0},
        {"ridge": -1.0},
        {"captions": "no-such-file"},
        {"centred": True, "preserve": []},
    ],
)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        realera(**over)
