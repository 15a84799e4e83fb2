"""TRCE: only end tokens are edited by default, the closed form equals the literal sums, steering trains what it says and stops in time."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from published_shapes import stable_diffusion_1

from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.diffusion import frozen_copy
from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import projections
from vestige.methods._text_rows import all_rows
from vestige.methods._trajectories import latents_of
from vestige.methods.trce import TRCE, read_pairs, steered


def trce(**over) -> TRCE:
    small = {"epochs": 1, "runs": 2, "steps": 4, "early": 2, "kept_runs": 3, "kept_batch": 2, "lr": 1e-3}
    small["templates"] = ["a photo of {name}"]
    return replace(build("method", "trce"), **{**small, **over})


def stage1(**over) -> TRCE:
    return trce(epochs=0, **over)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(erasure) -> torch.Tensor:
    u, v = erasure.tensors["edit.U"].double(), erasure.tensors["edit.V"].double()
    return torch.eye(len(u), dtype=torch.float64) + u @ v.T


def end_rows(pipe, texts: list[str]) -> torch.Tensor:
    cond = pipe.encode(texts)
    return cond.hidden[torch.arange(len(texts)), pipe.text.last_token(cond.ids) + 1].double()


# Stage 1


@pytest.mark.parametrize("weights", [[0, 1, 0, 0], [1, 1, 0.5, 2]])
def test_the_closed_form_equals_the_literal_sums(shaped, concept, context, weights):
    """Sentence by sentence and layer by layer, as the official code accumulates, with its words for positions."""
    method = stage1(token_weights=weights, templates=["a photo of {name}", "{name} seen from afar"], preserve=0.3, ridge=0.05)
    with torch.no_grad():
        got = matrix(method.erase(shaped, [concept()], context()))
        pairs = [(t.format(name=n), t.format(name="animal"), n) for n in ("dog", "puppy") for t in method.templates]
        kept = all_rows(shaped, ["", *(t.format(name=n) for n in ("apple", "car", "cat", "frog") for t in method.templates)]).double()
        for name, weight in projections(shaped).items():
            w = weight.double()
            left, right = 0.05 * w.clone(), 0.05 * torch.eye(w.shape[1], dtype=torch.float64)
            for asked, safe, keyword in pairs:
                c, g = (shaped.encode([text]).hidden[0].double() for text in (asked, safe))
                words = len(asked.split())
                places = [0, words + 1, 76, asked.split().index(keyword) + 1]
                aims = [0, len(safe.split()) + 1, 76, 76]
                for place, aim, scale, base in zip(places, aims, weights, [1, 1, 77 - words - 2, 1], strict=True):
                    left += scale * base / len(pairs) * torch.outer(w @ g[aim], c[place])
                    right += scale * base / len(pairs) * torch.outer(c[place], c[place])
            left += 0.3 / len(kept) * w @ kept.T @ kept
            right += 0.3 / len(kept) * kept.T @ kept
            literal = left @ torch.linalg.inv(right)
            assert ((w @ got - literal).norm() / literal.norm()) < 1e-6, name
            assert ((w - literal).norm() / literal.norm()) > 1e-2  # the edit is worth the comparison


def test_the_unsafe_end_token_gets_the_safe_output_and_preserved_texts_keep_theirs(tiny, concept, context):
    t = matrix(stage1(preserve=0.01, ridge=1e-4, safe="car").erase(tiny, [concept()], context()))
    dog, car = end_rows(tiny, ["a photo of dog", "a photo of car"])
    assert (t @ dog - car).norm() < 0.3 * (dog - car).norm()
    frog = all_rows(tiny, ["a photo of frog"]).double()
    moved = [
        (frog @ (matrix(stage1(preserve=p, safe="car").erase(tiny, [concept()], context())).T - torch.eye(frog.shape[1]))).norm().item()
        for p in (1.0, 1e2, 1e4)
    ]
    assert moved[0] > 1.5 * moved[1] > 3 * moved[2]


def test_phrases_that_are_safe_already_leave_the_text_as_it_is(tiny, concept, context):
    method = stage1(phrases=["name"], safe="dog")
    u, _ = method.edit(tiny, method.groups([concept()]), [concept()])
    assert u.abs().max() == 0


def test_only_end_tokens_enter_unless_others_weigh(tiny, concept):
    method, texts = stage1(eot_index="token"), (["a photo of dog"], ["a photo of animal"])
    c, g = method.paired_rows(tiny, *texts, "dog")
    assert torch.equal(c, end_rows(tiny, texts[0])) and torch.equal(g, end_rows(tiny, texts[1]))
    c, g = replace(method, token_weights=[1, 1, 1, 1]).paired_rows(tiny, *texts, "dog")
    hidden, safe = (tiny.encode(text).hidden[0].double() for text in texts)
    assert torch.allclose(c, torch.stack([hidden[0], hidden[5], hidden[76] * 71**0.5, hidden[4]]))
    assert torch.allclose(g, torch.stack([safe[0], safe[5], safe[76] * 71**0.5, safe[76]]))


def test_the_official_index_of_the_end_token_counts_words(tiny):
    """'dobermann' is several word pieces: the official index points at one of them."""
    text, safe = "a photo of dobermann", "a photo of cat"
    pieces = len(tiny.text.token_ids(text))
    assert pieces > 4
    hidden = tiny.encode([text]).hidden[0].double()
    for rule, place in (("whitespace", 5), ("token", pieces + 1)):
        c, _ = stage1(eot_index=rule).paired_rows(tiny, [text], [safe], "dobermann")
        assert torch.equal(c[0], hidden[place])


def test_a_file_of_pairs_replaces_the_concepts_words(tiny, concept, context, tmp_path):
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([["dog", "car"], ["hound", "car"]]))
    own = stage1(phrases=["name"], safe="car", pairs=None, edited_pairs=1)
    given = stage1(pairs=str(file), edited_pairs=1)
    assert torch.allclose(matrix(own.erase(tiny, [concept()], context())), matrix(given.erase(tiny, [concept()], context())))
    both = matrix(stage1(pairs=str(file)).erase(tiny, [concept()], context()))
    assert not torch.allclose(both, matrix(given.erase(tiny, [concept()], context())))
    assert list(given.inputs([concept()])) == ["pairs"]
    file.write_text('{"dog": "car"}')
    with pytest.raises(ValueError, match=r"method.pairs.*JSON list"):
        read_pairs(str(file))


# Stage 2


def test_the_trained_parameters_are_the_published_ones():
    chosen = steered(stable_diffusion_1())
    assert all("attn1" in name or ("attn2" in name and "to_q" in name) for name in chosen)
    assert sum(p.numel() for p in chosen.values()) == 61_964_480


def test_stage_two_keeps_the_edit_of_stage_one_and_adds_trained_tensors(tiny, concept, context):
    full, first = (trce(epochs=e).erase(tiny, [concept()], context()) for e in (1, 0))
    assert torch.equal(full.tensors["edit.V"], first.tensors["edit.V"])
    trained = {name for name in full.tensors if not name.startswith("edit.")}
    assert trained == {f"unet.{name}" for name in steered(tiny)}


@pytest.fixture
def question(tiny):
    with torch.no_grad():
        x, t = torch.randn(2, 4, 8, 8, generator=generator()), torch.tensor([900, 700])
        unsafe, safe, null = (tiny.encode([text] * 2) for text in ("a dog", "a car", ""))
    return x, t, unsafe, safe, null


def test_the_hinge_is_the_difference_of_distances_in_both_branches(tiny, question):
    """Against a literal evaluation, in the code's form e_c + 15 (e_c - e_0), on a denoiser that is not the reference."""
    x, t, unsafe, safe, null = question
    original = frozen_copy(tiny.denoiser)
    with torch.no_grad():
        for parameter in steered(tiny).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
        got = trce(margin=0.7).hinge(tiny, original, x, t, unsafe, safe, null)
        total = 0.0
        for k in range(2):
            row, at = x[k : k + 1], t[k : k + 1]
            e = {name: tiny.predict(row, at, c.rows([k]), original) for name, c in (("unsafe", unsafe), ("safe", safe))}
            e_0 = tiny.predict(row, at, null.rows([k]), original)
            prefer, reject = (e[name] + 15 * (e[name] - e_0) for name in ("safe", "unsafe"))
            for cond in (unsafe.rows([k]), null.rows([k])):
                now = tiny.predict(row, at, cond)
                total += max(0.0, ((now - prefer) ** 2).mean() - ((now - reject) ** 2).mean() + 0.7) / 4
    assert abs(got - total) < 1e-4 * total and total > 0


def test_the_hinge_stays_at_the_margin_for_equal_texts_and_stops_when_safe_is_near_enough(tiny, question):
    x, t, unsafe, safe, null = question
    original = frozen_copy(tiny.denoiser)
    assert torch.isclose(trce().hinge(tiny, original, x, t, unsafe, unsafe, null), torch.tensor(0.01))
    chosen = steered(tiny)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    done = trce(margin=-1e3).hinge(tiny, original, x, t, unsafe, safe, null)
    done.backward()
    assert done == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in chosen.values())
    open_ = trce(margin=1e3).hinge(tiny, original, x, t, unsafe, safe, null)
    open_.backward()
    assert open_ > 0 and any(p.grad.abs().max() > 0 for p in chosen.values())


def test_training_turns_predictions_towards_the_safe_text(tiny, concept, context, question):
    x, t, unsafe, safe, null = question
    method = trce(epochs=8, runs=4, edited_pairs=0, safe="car", phrases=["name"], kept_weight=1.0, accumulate_grads=False)
    original, meet = frozen_copy(tiny.denoiser), replace(method, margin=10.0)
    with torch.no_grad():
        before = meet.hinge(tiny, original, x, t, unsafe, safe, null)
    with tiny.preserved():
        erasure = method.erase(tiny, [concept()], context())
    with torch.no_grad(), method.attach(tiny, erasure):
        after = meet.hinge(tiny, original, x, t, unsafe, safe, null)
    assert after < before - 1e-3


def test_the_preserving_loss_starts_at_zero_and_keeps_the_unconditional_prediction(tiny, concept, context, question):
    x, t, *_, empty = question
    with torch.no_grad():
        plain = tiny.predict(x, t, empty)
    moved = {}
    for weight in (0.0, 1e3):
        ctx = context()
        # Without stage 1 the first model is the original, so what stays can be read from it.
        method = trce(kept_weight=weight, epochs=4, edited_pairs=0, accumulate_grads=False, kept_batch=8, kept_runs=8)
        with tiny.preserved():
            erasure = method.erase(tiny, [concept()], ctx)
        assert ctx.history[0]["preserving"] < 1e-10 and ctx.history[-1]["preserving"] > 0
        with torch.no_grad(), method.attach(tiny, erasure):
            moved[weight] = (tiny.predict(x, t, empty) - plain).norm().item()
    assert moved[1e3] < 0.7 * moved[0.0]


@pytest.mark.parametrize("over", [{"accumulate_grads": False}, {"latent_offset": 0}, {"kept_timesteps": "grid"}, {"shuffle": True}])
def test_options_change_the_result(tiny, concept, context, over):
    tensors = []
    for method in (trce(runs=6), trce(runs=6, **over)):
        with tiny.preserved():
            tensors.append(method.erase(tiny, [concept()], context()).tensors)
    assert any(not torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_runs_are_those_of_the_sampler_whatever_is_visited(tiny):
    with torch.no_grad():
        cond, null = tiny.encode(["a dog", "a car"]), tiny.null(2)
        x = torch.randn(2, 4, 8, 8, generator=generator(3))
        scheduler, wanted = DDIMScheduler.from_config(dict(tiny.scheduler.config), steps_offset=0, timestep_spacing="leading"), [x]
        scheduler.set_timesteps(4)
        for step in scheduler.timesteps:
            e_0, e = tiny.predict(x, step, null), tiny.predict(x, step, cond)
            x = scheduler.step(e_0 + 3.0 * (e - e_0), step, x).prev_sample
            wanted.append(x)
    assert scheduler.timesteps.tolist() == [750, 500, 250, 0]
    run, done = torch.tensor([1, 0, 1, 1]), torch.tensor([4, 2, 0, 1])
    got = latents_of(tiny, tiny.denoiser, cond, run, done, 4, 3.0, generator(3))
    for k in range(4):
        assert torch.allclose(got[k], wanted[done[k]][run[k]], atol=1e-5)


def test_a_latent_is_a_step_ahead_of_its_timestep_unless_told_otherwise(tiny, concept, context):
    """With every run visited at its first step: the official latent is after one step, the aligned one pure noise."""
    groups = trce().groups([concept()])
    for offset in (1, 0):
        method = trce(latent_offset=offset, early=1, runs=2, phrases=["name"])
        unsafe, safe, pair, x, s = method.unsafe_latents(tiny, tiny.denoiser, groups, context())
        noise = latents_of(tiny, tiny.denoiser, unsafe.rows(pair), torch.arange(2), torch.zeros(2).long(), 4, 3.0, drawn_past(context(), 2))
        assert s.tolist() == [0, 0] and torch.equal(x, noise) == (offset == 0)
        assert isinstance(safe, Conditioning) and len(safe) == len(unsafe) == 2


def drawn_past(ctx, n: int) -> torch.Generator:
    """The generator of the dog's runs after the draw of n step indices below 1."""
    g = ctx.generator("runs dog")
    torch.randint(1, (n,), generator=g)
    return g


def test_concepts_are_edited_together_in_any_order_and_keep_their_own_runs(tiny, concept, context):
    dog, cat = concept(siblings=["frog"]), concept("cat", siblings=["frog"], aliases=["kitten"])
    there, back = (matrix(stage1().erase(tiny, pair, context())) for pair in ([dog, cat], [cat, dog]))
    assert torch.allclose(there, back, atol=1e-5) and (there - torch.eye(len(there))).abs().max() > 1e-2
    alone, both = (trce().unsafe_latents(tiny, tiny.denoiser, trce().groups(c), context()) for c in ([dog], [cat, dog]))
    assert torch.allclose(alone[3], both[3][2:], atol=1e-5)


@pytest.mark.parametrize("form", ["merge", "hook"])
def test_both_forms_train_and_draw_alike(tiny, concept, context, sampler, form):
    method = trce(form=form)
    with tiny.preserved():
        erasure = method.erase(tiny, [concept()], context())
    with tiny.preserved():
        wanted = trce().erase(tiny, [concept()], context())
    with method.attach(tiny, erasure):
        one = tiny(["a photo of a dog"], [3], sampler).pixels.int()
    with trce().attach(tiny, wanted):
        two = tiny(["a photo of a dog"], [3], sampler).pixels.int()
    assert (one - two).abs().max() <= 2


def test_what_a_concept_lacks_is_named(tiny, concept):
    assert "`others`" in trce(templates=["a {name} {other}"]).supports(tiny.spec, [concept(others=[])])
    assert "`siblings`" in trce(safe="{sibling}").supports(tiny.spec, [concept(siblings=[])])
    assert "method.pairs" in trce().supports(tiny.spec, [concept(kind="explicit")])
    half = replace(tiny.spec, dtype="float16")
    assert "float32" in trce().supports(half, [concept()]) and stage1().supports(half, [concept()]) is None


@pytest.mark.parametrize(
    "over",
    [
        {"eot_index": "first"},
        {"kept_timesteps": "x"},
        {"latent_offset": 2},
        {"phrases": ["friends"]},
        {"phrases": []},
        {"prior": ["friends"]},
        {"templates": ["a photo"]},
        {"token_weights": [0, 0, 0, 0]},
        {"token_weights": [1]},
        {"early": 9},
        {"pairs": "no-such-file"},
        {"captions": "no-such-file"},
    ],
)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        trce(**over)
