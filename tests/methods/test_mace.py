"""MACE: its closed forms equal the literal sums, its rows leave the concept out, its training takes attention off the concept."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.contract.types import Erasure
from vestige.bench.models.attention_maps import attention_loss, on_map, positions, recorded
from vestige.bench.models.loading import load
from vestige.bench.run.contract_checks import build
from vestige.bench.vision.masks import masker
from vestige.methods._closed_form import edit_keeping, merged, projections, sum_of_squares
from vestige.methods._text_rows import all_rows, context_rows
from vestige.methods.mace import MACE, fused, shuffled

D, OUT = 12, {"a.to_k": 7, "b.to_v": 5}


def mace(**over) -> MACE:
    small = {"images": 2, "material_steps": 2, "iterations": 2, "mask": "whole", "lr": 1e-2, "templates": ["a photo of {name}"]}
    return replace(build("method", "mace"), **{**small, **over})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def problem():
    """Weights, refinement factors, two LoRAs, their texts and preserved rows, all random."""
    weights = {name: draw(out, D, seed=out) for name, out in OUT.items()}
    u, v = 0.3 * draw(D, 4, seed=1), 0.3 * draw(D, 4, seed=2)
    loras = [{name: (draw(D, seed=10 * k + out), draw(out, seed=10 * k + out + 1)) for name, out in OUT.items()} for k in (3, 4)]
    return weights, u, v, loras, [draw(20, D, seed=5), draw(15, D, seed=6)], draw(9, D, seed=7)


def closed_form(problem, kept_scale: float, ridge: float, order=(0, 1)) -> dict[str, torch.Tensor]:
    weights, u, v, loras, texts, kept = problem
    chosen = [loras[k] for k in order]
    new_v, downs = fused(v, u, chosen, [texts[k].T @ texts[k] for k in order], kept_scale * kept.T @ kept, ridge)
    ups = {name: torch.stack([lora[name][1] for lora in chosen], 1) for name in OUT}
    return {name: merged(w, u, new_v) + ups[name] @ downs[name] for name, w in weights.items()}


@pytest.mark.parametrize("kept_scale, ridge", [(0.0, 2.0), (0.7, 0.5), (30.0, 1e-3)])
def test_fusion_equals_the_literal_sums(problem, kept_scale, ridge):
    """Row by row as the objective of the paper is written, with the original weights' answers preserved."""
    weights, u, v, loras, texts, kept = problem
    got = closed_form(problem, kept_scale, ridge)
    for name, w in weights.items():
        refined = w + w @ u @ v.T
        left, right = ridge * refined.clone(), ridge * torch.eye(D, dtype=torch.float64)
        for lora, rows in zip(loras, texts, strict=True):
            adapted = refined + torch.outer(lora[name][1], lora[name][0])
            for e in rows:
                left += torch.outer(adapted @ e, e)
                right += torch.outer(e, e)
        for p in kept:
            left += kept_scale * torch.outer(w @ p, p)
            right += kept_scale * torch.outer(p, p)
        literal = left @ torch.linalg.inv(right)
        assert (got[name] - literal).norm() <= 1e-9 * literal.norm()
        assert (got[name] - refined).norm() > 1e-2 * refined.norm()


def test_fusion_ignores_the_order_of_concepts(problem):
    there, back = closed_form(problem, 0.7, 0.5), closed_form(problem, 0.7, 0.5, order=(1, 0))
    assert all(torch.allclose(there[name], back[name], rtol=1e-9, atol=1e-12) for name in OUT)


def test_without_loras_and_preservation_fusion_changes_nothing(problem):
    weights, u, v, loras, texts, kept = problem
    idle = [{name: (down, torch.zeros_like(up)) for name, (down, up) in lora.items()} for lora in loras]
    got = closed_form((weights, u, v, idle, texts, kept), 0.0, 0.5)
    assert all(torch.allclose(got[name], w + w @ u @ v.T, rtol=1e-9, atol=1e-12) for name, w in weights.items())


def test_one_lora_that_nothing_holds_back_is_kept_on_its_own_rows(problem):
    weights, u, v, loras, texts, kept = problem
    got = closed_form((weights, u, v, loras, texts, kept), 0.0, 0.0, order=(1,))
    for name, w in weights.items():
        adapted = w + w @ u @ v.T + torch.outer(loras[1][name][1], loras[1][name][0])
        assert torch.allclose(texts[1] @ got[name].T, texts[1] @ adapted.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_refinement_equals_the_literal_sums(ridge):
    w, f, g, p = draw(7, D), draw(30, D, seed=1), draw(30, D, seed=2), draw(40, D, seed=3)
    u, v = edit_keeping(f, g, 1.0, 0.3 * p.T @ p, ridge)
    left, right = ridge * w.clone(), ridge * torch.eye(D, dtype=torch.float64)
    for a, b in zip(f, g, strict=True):
        left, right = left + torch.outer(w @ b, a), right + torch.outer(a, a)
    for row in p:
        left, right = left + 0.3 * torch.outer(w @ row, row), right + 0.3 * torch.outer(row, row)
    literal = left @ torch.linalg.inv(right)
    assert (merged(w, u, v) - literal).norm() <= 1e-6 * literal.norm()


def test_refined_rows_leave_out_what_differs_and_pair_up(tiny):
    """'golf ball' has two tokens, 'sky' one: 75 rows of either sentence, and none of them a concept token."""
    asked, wanted = "a photo of golf ball in a city", "a photo of sky in a city"
    with torch.no_grad():
        f, g = context_rows(tiny, [asked], [wanted])
        hidden = tiny.encode([asked, wanted]).hidden
    assert torch.equal(f, hidden[0, [0, 1, 2, 3, *range(6, 77)]])
    assert torch.equal(g, hidden[1, [0, 1, 2, 3, *range(5, 76)]])


def test_the_concept_as_its_own_anchor_refines_nothing(tiny, concept):
    method = mace(anchor="dog", templates=["a photo of {name}", "{name} in a city"])
    nothing = torch.zeros(32, 32, dtype=torch.float64)
    u, v = method.refine(tiny, [concept()], nothing)
    assert (u @ v.T).abs().max() == 0
    u, v = mace(ridge=0.1).refine(tiny, [concept()], nothing)
    assert (u @ v.T).abs().max() > 1e-2


def test_a_shared_word_of_anchor_and_concept_is_context(tiny):
    with torch.no_grad():
        f, g = context_rows(tiny, ["a photo of a woman"], ["a photo of a person"])
        hidden = tiny.encode(["a photo of a woman", "a photo of a person"]).hidden
    places = [0, 1, 2, 3, 4, *range(6, 77)]
    assert torch.equal(f, hidden[0, places]) and torch.equal(g, hidden[1, places])


def test_sums_of_squares_do_not_depend_on_the_batches(tiny):
    texts = ["a dog", "two cats in a city", "", "a car", "art"]
    with torch.no_grad():
        rows = all_rows(tiny, texts).double()
        assert torch.allclose(sum_of_squares(tiny, texts, batch=2), rows.T @ rows, rtol=1e-6)
        assert sum_of_squares(tiny, []).abs().max() == 0


def test_preserved_texts_weigh_as_much_as_the_captions_they_stand_for(tiny, concept, tmp_path):
    few = mace(prior=["siblings"], prior_size=1000).kept_squares(tiny, [concept()])
    with torch.no_grad():
        own = sum_of_squares(tiny, ["a photo of cat", "a photo of frog"])
    assert torch.allclose(few, 500 * own, rtol=1e-6)
    file = tmp_path / "captions.txt"
    file.write_text("a red car\nan apple on a table\n")
    method = mace(prior=[], prior_size=2, captions=str(file), domain=["siblings"], domain_size=4, domain_weight=3.0)
    with torch.no_grad():
        read = sum_of_squares(tiny, ["a red car", "an apple on a table"])
    assert torch.allclose(method.kept_squares(tiny, [concept()]), read + 3 * 2 * own, rtol=1e-6)
    before = method.inputs([concept()])
    file.write_text("a green car\n")
    assert before != method.inputs([concept()]) and mace().inputs([concept()]) == {}


def test_names_that_contain_the_concept_are_not_preserved(concept):
    assert mace().kept_texts([concept(siblings=["hot dog", "cat"])], ["empty", "siblings"]) == ["", "a photo of cat"]


def test_attended_tokens_are_the_concept_and_all_behind_the_text(tiny):
    ids = tiny.text.ids(["a photo of golf ball on a golf course"])[0]
    words = tiny.text.token_ids("golf ball")
    assert positions(ids, words, None).nonzero().flatten().tolist() == [4, 5]
    assert positions(ids, words, 9).nonzero().flatten().tolist() == [4, 5, *range(10, 77)]


def test_padding_that_is_no_end_token_is_attended_as_well(concept, context, monkeypatch):
    """Stable Diffusion 2 pads with "!"."""
    pipe, seen = load(tiny_spec("sd2")), []
    monkeypatch.setattr("vestige.methods.mace.attention_loss", lambda m, k, spots, s: seen.append(spots) or attention_loss(m, k, spots, s))
    mace(iterations=1, templates=["a photo of {name}"]).train(pipe, concept(), masker("whole", 0.0, "", ""), context())
    assert seen[0][0].nonzero().flatten().tolist() == list(range(4, 77))


def test_recorded_maps_are_those_of_the_eager_processor_and_change_nothing(tiny):
    from diffusers.models.attention_processor import AttnProcessor

    x, t = torch.randn(2, 4, 8, 8, generator=generator()), torch.tensor([300, 500])
    with torch.no_grad():
        cond = tiny.encode(["a dog", "a car"])
        plain = tiny.predict(x, t, cond)
        with recorded(tiny) as maps:
            assert torch.equal(tiny.predict(x, t, cond), plain)
        seen = {}

        class Eager(AttnProcessor):
            def __call__(self, attn, hidden_states, encoder_hidden_states=None, **rest):
                if encoder_hidden_states is not None:
                    q, k = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
                    q, k = (each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in (q, k))
                    seen[id(attn)] = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
                return super().__call__(attn, hidden_states, encoder_hidden_states, **rest)

        tiny.denoiser.set_attn_processor(Eager())
        tiny.predict(x, t, cond)
    layers = {name: id(module) for name, module in tiny.denoiser.named_modules() if name.endswith("attn2")}
    assert maps.keys() == layers.keys()
    for name, attention in maps.items():
        assert torch.allclose(attention, seen[layers[name]], atol=1e-5) and torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5)


def test_masks_meet_maps_of_any_resolution():
    mask = torch.zeros(1, 8, 16, dtype=torch.bool)
    mask[:, :4, 8:] = True
    assert on_map(mask, 8).view(2, 4).tolist() == [[False, False, True, True], [False] * 4]


@pytest.mark.parametrize("squared", [False, True])
def test_the_loss_is_the_norm_over_heads_mask_pixels_and_tokens(squared):
    maps = {"a": draw(2, 3, 16, 7).softmax(-1), "b": draw(2, 3, 4, 7, seed=1).softmax(-1)}
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2], mask[1, 2:, 2:] = True, True
    tokens = torch.tensor([[0, 0, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0, 1]]).bool()
    wanted = 0
    for attention in maps.values():
        for k in range(2):
            inside = on_map(mask[k : k + 1], attention.shape[2])[0]
            wanted += attention[k][:, inside][:, :, tokens[k]].norm() ** (2 if squared else 1) / 2
    assert torch.allclose(attention_loss(maps, mask, tokens, squared), wanted)


def attention_mass(pipe, erasure: Erasure | None, method: MACE, prompt: str) -> tuple[float, float]:
    """(mass on the concept and end tokens, mass on the begin token), mean over layers, of a fixed question."""
    x, t = torch.randn(4, 4, 8, 8, generator=generator(7)), torch.tensor(300)
    with torch.no_grad():
        cond = pipe.encode([prompt] * 4)
        spots = positions(cond.ids[0], pipe.text.token_ids("dog"), int(pipe.text.last_token(cond.ids)[0]))
        with method.attach(pipe, erasure) if erasure else pipe.preserved(), recorded(pipe) as maps:
            pipe.predict(x, t, cond)
    maps = [attention.mean((0, 1, 2)) for attention in maps.values()]
    return (sum(m[spots].sum().item() for m in maps) / len(maps), sum(m[0].item() for m in maps) / len(maps))


def test_training_takes_attention_off_the_concept_and_puts_it_on_the_begin_token(tiny, concept, context):
    method = mace(iterations=60, lr=2e-2, batch=2, anchor="hound", prior=[], ridge=1e-3)
    ctx = context()
    erasure = method.erase(tiny, [concept()], ctx)
    losses = [entry["loss"] for entry in ctx.history]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    (before, begin), (after, begin_after) = (attention_mass(tiny, e, method, "a photo of dog") for e in (None, erasure))
    assert after < 0.9 * before and begin_after > 1.2 * begin


def test_attached_weights_are_the_fusion_of_the_trained_adapters(tiny, concept, context):
    """Against a literal solution from the refined model and LoRAs trained alone, whatever the order of concepts."""
    method = mace(refine_preserve=0.1, fuse_preserve=0.1, prior_size=10, ridge=1.0, iterations=3)
    pair = [concept(), concept("cat", siblings=["bird"])]
    erasure = method.erase(tiny, pair, context())
    back = method.erase(load(tiny_spec()), pair[::-1], context())
    fresh = load(tiny_spec())
    weights = projections(fresh)
    original = {name: w.double().clone() for name, w in weights.items()}
    kept = method.kept_squares(fresh, pair)
    u, v = method.refine(fresh, pair, 0.01 * kept)
    refined = {name: w + w @ u @ v.T for name, w in original.items()}
    ctx, loras = context(), []
    with fresh.replaced({f"unet.{name}": w.float() for name, w in refined.items()}):
        for each in pair:
            loras.append(method.train(fresh, each, lambda images, name: torch.ones(len(images), 16, 16).bool(), ctx))
    with torch.no_grad():
        rows = [all_rows(fresh, method.worded(each.name, each)).double() for each in pair]
    with method.attach(fresh, erasure):
        there = {name: w.double().clone() for name, w in weights.items()}
    with method.attach(fresh, back):
        again = {name: w.double().clone() for name, w in weights.items()}
    b = torch.eye(32, dtype=torch.float64) + sum(r.T @ r for r in rows) + 0.1 * kept
    for name, w in original.items():
        a = refined[name] + 0.1 * w @ kept
        for lora, r in zip(loras, rows, strict=True):
            down, up = lora[name.removesuffix(".weight")]
            a = a + (refined[name] + torch.outer(up, down).double()) @ r.T @ r
        literal = a @ torch.linalg.inv(b)
        assert (there[name] - literal).norm() < 1e-5 * literal.norm()
        assert (again[name] - there[name]).norm() < 1e-5 * literal.norm()
        assert (there[name] - w).norm() > 1e-3 * w.norm()


def test_fusion_weighs_preserved_texts(tiny, concept, context):
    """A preserved name moves the less the more it weighs."""
    moved = []
    with torch.no_grad():
        rows = all_rows(tiny, ["a photo of cat"])
    weight = next(iter(projections(tiny).values()))
    before = rows @ weight.T
    for scale in (0.0, 1.0, 100.0):
        method = mace(prior=["siblings"], prior_size=2, refine_preserve=scale, fuse_preserve=scale, refinement_scale="plain", ridge=0.1)
        erasure = method.erase(load(tiny_spec()), [concept()], context())
        with method.attach(tiny, erasure):
            moved.append((rows @ weight.T - before).norm().item())
    assert moved[0] > 1.5 * moved[1] > 2 * moved[2] > 0


def test_most_timesteps_lie_between_the_focus(tiny):
    method = mace(batch=20_000)
    t = method.drawn_timesteps(tiny, generator())
    assert ((t >= 140) & (t <= 460)).float().mean() > 0.9 and 280 < t.float().mean() < 320
    assert mace(batch=20_000, timesteps="uniform").drawn_timesteps(tiny, generator()).float().mean() > 480


def test_every_image_is_used_before_any_is_used_again():
    order = shuffled(3, 7, generator())
    assert sorted(order[:3].tolist()) == sorted(order[3:6].tolist()) == [0, 1, 2] and len(order) == 7
    assert len(shuffled(3, 0, generator())) == 0 and len(shuffled(3, 6, generator())) == 6


@pytest.mark.parametrize("field", ["loss", "tokens", "pixels", "refinement_scale", "timesteps"])
def test_each_official_choice_makes_another_model_than_the_papers(tiny, concept, context, field):
    other = {"loss": "squared_norm", "tokens": "concept", "pixels": "signed", "refinement_scale": "plain", "timesteps": "uniform"}
    base = mace(refine_preserve=0.1, fuse_preserve=0.1, prior_size=10)
    one = base.erase(tiny, [concept()], context())
    two = replace(base, **{field: other[field]}).erase(load(tiny_spec()), [concept()], context())
    assert any(not torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_zero_iterations_are_the_refinement_alone(tiny, concept, context):
    erasure = mace(iterations=0).erase(tiny, [concept()], context())
    assert all(t.abs().max() == 0 for name, t in erasure.tensors.items() if name.endswith(".up"))


def test_images_without_the_concept_are_named(tiny, concept, context):
    with pytest.raises(ValueError, match=r"no dog was found.*mask_threshold"):
        mace(mask="background_difference", mask_threshold=1.0).erase(tiny, [concept()], context())


def test_a_concept_file_without_what_the_settings_name_is_refused(tiny, concept):
    assert "`others`" in mace(templates=["a {name} {other}"]).supports(tiny.spec, [concept(others=[])])
    assert "`siblings`" in mace(anchor="{sibling}").supports(tiny.spec, [concept(siblings=[])])
    assert "float32" in mace().supports(replace(tiny.spec, dtype="float16"), [concept()])


@pytest.mark.parametrize(
    "over",
    [
        {"mask": "sam"},
        {"loss": "l1"},
        {"tokens": "all"},
        {"pixels": "x"},
        {"prior": ["friends"]},
        {"templates": ["a photo"]},
        {"focus": [4]},
        {"captions": "no-such-file"},
        {"image_prompts": []},
    ],
)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        mace(**over)
