"""SPM: the size and start of its adapters, how they add up, which prompts open them, and that anchoring protects."""

from dataclasses import replace

import pytest
import torch
from published_shapes import stable_diffusion_1

from vestige.bench.contract.types import Erasure
from vestige.bench.models.adapters import adapters
from vestige.bench.run.contract_checks import build
from vestige.methods.spm import LAYERS, SPM, Transport, new_adapter, pseudo_prompts


def spm(**over) -> SPM:
    small = {"iterations": 4, "warmup": 0, "cycles": 1, "bins": 4, "resolutions": [], "lr": 1e-2, "anchoring": 1.0}
    return replace(build("method", "spm"), **{**small, **over})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def question(tiny):
    with torch.no_grad():
        return torch.randn(2, 4, 8, 8, generator=generator()), torch.tensor(400), tiny.encode(["a dog", "a car"])


def two_adapters(pipe) -> tuple[dict, dict]:
    draw = generator(5)
    layers = {name: layer.weight for name, layer in pipe.layers(LAYERS).items()}
    down = {name: torch.randn(2, w.shape[1], generator=draw) * 0.1 for name, w in layers.items()}
    return down, {name: torch.randn(2, w.shape[0], generator=draw) * 0.1 for name, w in layers.items()}


def test_it_covers_the_published_layers_of_stable_diffusion_1():
    layers = stable_diffusion_1().layers(LAYERS).values()
    assert len(layers) == 192 and all(layer.weight[0, 0].numel() == 1 for layer in layers)
    assert sum(sum(layer.weight.shape[:2]) for layer in layers) == 423_936


def test_a_fresh_adapter_changes_nothing(tiny, question):
    adapter = new_adapter(tiny, generator())
    down = {name.removesuffix(".down"): p[None].detach() for name, p in adapter.items() if name.endswith(".down")}
    up = {name.removesuffix(".up"): p[None].detach() for name, p in adapter.items() if name.endswith(".up")}
    with torch.no_grad():
        plain = tiny.predict(*question)
        with adapters(tiny, down, up, lambda: None, "paper"):
            assert torch.equal(tiny.predict(*question), plain)


@pytest.mark.parametrize("composition", ["paper", "official"])
def test_adapters_are_what_merged_weights_would_be(tiny, question, composition):
    """Paper: W + sum gamma_i u_i v_i; official: W + (sum gamma_i u_i)(sum gamma_i v_i), with cross terms."""
    down, up = two_adapters(tiny)
    gamma = torch.tensor([0.5, 0.8])
    merged = {}
    for name in down:
        if composition == "paper":
            change = torch.einsum("n,no,ni->oi", gamma, up[name], down[name])
        else:
            change = torch.outer(gamma @ up[name], gamma @ down[name])
        weight = tiny.denoiser.get_submodule(name).weight
        merged[f"unet.{name}.weight"] = weight + change.view_as(weight)
    with torch.no_grad():
        plain = tiny.predict(*question)
        with tiny.replaced(merged):
            wanted = tiny.predict(*question)
        with adapters(tiny, down, up, lambda: gamma.expand(2, 2), composition):
            got = tiny.predict(*question)
    assert torch.allclose(got, wanted, atol=1e-4) and (got - plain).abs().max() > 1e-2


def gammas(pipe, prompts, concepts, measure="clipcos_tokenuni"):
    transport = Transport(pipe, concepts, measure)
    with torch.no_grad():
        transport.prepare(pipe.encode(prompts))
    return transport.gamma


def test_a_prompt_that_names_the_concept_opens_the_adapter_fully(tiny):
    gamma = gammas(tiny, ["a photo of Snoopy", "a car"], ["Snoopy"])
    assert gamma[0, 0] == 1 and gamma[1, 0] < 1
    assert torch.equal(gammas(tiny, ["a red ball", "a blue car"], ["red car"], "tokenuni").flatten(), torch.tensor([0.5, 0.5]))


def test_rows_of_the_unconditional_half_take_the_strength_of_the_prompt_they_serve(tiny):
    transport = Transport(tiny, ["a dog"], "clipcos_tokenuni")
    with torch.no_grad():
        cond = tiny.encode(["a dog", "a car"])
        transport.prepare(cond.with_null(tiny.null(2)))
        both = transport.gamma
        transport.prepare(cond)
    assert torch.allclose(both, transport.gamma.repeat(2, 1), atol=1e-5) and both[0, 0] > both[1, 0]


def test_a_prompt_that_is_served_from_another_call_is_encoded_anew(tiny):
    transport = Transport(tiny, ["a dog"], "clipcos")
    with torch.no_grad():
        cond = tiny.encode(["a dog", "a car"])
        transport.prepare(tiny.null(2).serving(cond))
        alone = transport.gamma
        transport.prepare(cond)
    assert torch.allclose(alone, transport.gamma, atol=1e-5) and alone[0, 0] > alone[1, 0]


def test_equal_token_ids_of_two_encoders_are_different_words(tiny):
    transport, cond = Transport(tiny, ["a dog"], "tokenuni"), tiny.encode(["a dog"])
    moved = replace(cond, owner=cond.owner.roll(40, 1), layout=(("clip", 40), ("other", 37)))  # its words stand in the other's segment
    with torch.no_grad():
        transport.prepare(cond)
        assert transport.gamma.item() == 1
        transport.prepare(replace(moved, ids=moved.owner))
        assert transport.gamma.item() == 0


def test_without_transport_every_prompt_is_changed_fully(tiny, concept, context, question):
    erasure = spm(transport="allone").erase(tiny, [concept()], context())
    with torch.no_grad():
        plain = tiny.predict(*question)
        with spm(transport="allone").attach(tiny, erasure):
            static = tiny.predict(*question)
        with spm(transport="tokenuni").attach(tiny, erasure):
            open_for_cars = tiny.predict(*question)
    assert torch.allclose(static[0], open_for_cars[0], atol=1e-6)  # "a dog" overlaps fully
    assert torch.allclose(open_for_cars[1], plain[1], atol=1e-6) and not torch.allclose(static[1], plain[1], atol=1e-5)


def test_pseudo_prompts_keep_the_norm_and_the_official_layout_anchors_the_empty_prompt(tiny):
    c = tiny.encode(["a dog"]).detach()
    pseudo = pseudo_prompts(c, 50, generator())
    norms = pseudo.hidden.flatten(1).norm(dim=-1) / c.hidden.norm()
    assert norms.min() >= 0.8 and norms.max() <= 1.2 and norms.max() - norms.min() > 0.2


def test_training_moves_away_from_the_concept_and_anchoring_protects_other_texts(tiny, concept, context, question):
    """Card: with anchoring, random texts change at least ten times less."""
    x, t, c = question
    with torch.no_grad():
        e_c, e_0 = tiny.predict(x, t, c), tiny.predict(x, t, tiny.encode(["", ""]))
        pseudo = pseudo_prompts(c.rows([0]), 2, generator(9))
        other = tiny.predict(x, t, pseudo)
    moved = {}
    for weight in (0.0, 1000.0):
        method = spm(anchoring=weight, transport="allone", iterations=80, lr=3e-3, batch=2, anchor_layout="paper")
        erasure = method.erase(tiny, [concept()], context())
        with torch.no_grad(), method.attach(tiny, erasure):
            moved[weight] = (tiny.predict(x, t, pseudo) - other).square().mean().item()
            if weight == 0:
                target = 2 * e_0[0] - e_c[0]
                assert (tiny.predict(x, t, c)[0] - target).square().mean() < 0.7 * (e_c[0] - target).square().mean()
    assert moved[1000.0] < 0.1 * moved[0.0]


def test_several_concepts_make_one_adapter_each(tiny, concept, context, tmp_path):
    erasure = spm(iterations=1).erase(tiny, [concept(), concept("cat")], context())
    assert {t.shape[0] for t in erasure.tensors.values()} == {2} and erasure.meta["prompts"] == ["dog", "cat"]
    erasure.save(tmp_path / "artefact")
    assert Erasure.load(tmp_path / "artefact").meta == erasure.meta


@pytest.mark.parametrize("over", [{"transport": "none"}, {"composition": "sum"}, {"anchor_layout": "all"}, {"timestep_alignment": "x"}])
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}=.*Allowed"):
        spm(**over)
