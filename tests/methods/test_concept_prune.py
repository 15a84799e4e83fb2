"""ConceptPrune: which weights are chosen, that stopping early and batching change nothing, and that only zeros are written."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec
from published_shapes import stable_diffusion_1

from vestige.bench.models.loading import load
from vestige.bench.run.contract_checks import build
from vestige.methods.concept_prune import LAYERS, ConceptPrune, skilled


def prune(**over) -> ConceptPrune:
    small = {"calls": 2, "steps": 4, "things": ["car", "tree", "beach"], "ratio": 0.05}
    return replace(build("method", "concept_prune"), **{**small, **over})


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_scores_equal_the_literal_rule():
    """Row by row, weight by weight, as the paper writes it."""
    weight, a, b, ratio = draw(6, 40), draw(40, seed=1).abs(), draw(40, seed=2).abs(), 0.13
    got = skilled(weight, a, b, ratio)
    for i in range(6):
        scores = [abs(weight[i, j].item()) * a[j].item() for j in range(40)]
        top = sorted(range(40), key=lambda j: -scores[j])[: int(ratio * 40)]
        wanted = {j for j in top if scores[j] > abs(weight[i, j].item()) * b[j].item()}
        assert set(got[i].nonzero().flatten().tolist()) == wanted
    assert 0 < got.sum() < 6 * 5 and (got.sum(1) <= 5).all()


def test_equal_prompts_choose_nothing(tiny, concept, context):
    same = prune(reference="a {name} in a {thing}")
    assert not any(mask.any() for mask in same.masks(tiny, concept(), context()).values())
    with pytest.raises(ValueError, match=r"no weight was chosen.*method\.ratio"):
        same.erase(tiny, [concept()], context())


def test_norms_are_those_of_the_geglu_outputs_with_normalised_rows(tiny, concept, context):
    """Against the official way: hooks on the GEGLU layers, one prompt after another, counting calls."""
    method = prune()
    prompts = method.prompts(concept())[1]
    norms = method.norms(tiny, prompts, context())
    assert set(norms) == {f"unet.{n}" for n, _ in tiny.denoiser.named_modules() if n.endswith("ff.net.2")}
    seen = {}

    def hook_of(name):
        def keep(module, args, kwargs, output):
            rows = output.flatten(0, -2)
            seen.setdefault(name, []).append((rows / rows.norm(dim=-1, keepdim=True)).square().sum(0))

        return keep

    gates = {name: name.replace("net.2", "net.0") for name in norms}
    with torch.no_grad(), tiny.hooked({gate: hook_of(name) for name, gate in gates.items()}):
        for prompt in prompts:
            tiny.sample(tiny.encode([prompt]), [context().seed("latents")], method.sampler(context()))
    for name, got in norms.items():
        each = torch.stack(seen[name]).view(len(prompts), -1, got.shape[1])  # PNDM: 5 calls for 4 steps
        assert each.shape[1] == 5 and torch.allclose(got, each[:, :2].sum(0).sqrt(), rtol=1e-3)


def test_stopping_early_and_batching_do_not_change_the_masks(tiny, concept, context):
    method = prune(batch=1)
    alone = method.norms(tiny, method.prompts(concept())[1], context())
    together = replace(method, batch=3).norms(tiny, method.prompts(concept())[1], context())
    whole = replace(method, calls=4).norms(tiny, method.prompts(concept())[1], context())
    for name in alone:
        assert torch.allclose(alone[name], together[name], rtol=1e-4)
        assert torch.allclose(alone[name], whole[name][:2], rtol=1e-4)
        assert not torch.allclose(alone[name][0], alone[name][1], rtol=1e-4)


def test_generations_end_after_the_asked_calls(tiny, concept, context):
    before = tiny.counts["forward_rows"]
    prune(calls=3, steps=4).masks(tiny, concept(), context())
    assert tiny.counts["forward_rows"] - before == 2 * 3 * 3 * 2  # both sides, three prompts, three calls, two guidance halves


def test_the_union_grows_with_calls_and_shrinks_with_the_share_asked(tiny, concept, context):
    few, more = (prune(calls=calls).masks(tiny, concept(), context()) for calls in (1, 3))
    strict = prune(calls=3, select_ratio=0.9).masks(tiny, concept(), context())
    for name in few:
        assert (few[name] <= more[name]).all() and (strict[name] <= more[name]).all()
    assert sum(m.sum() for m in strict.values()) < sum(m.sum() for m in more.values())
    assert sum(m.sum() for m in few.values()) < sum(m.sum() for m in more.values())


def test_several_concepts_are_the_union_of_each_alone_also_with_a_share(tiny, concept, context):
    method, cat = prune(select_ratio=0.5), concept("cat", siblings=["dog"])
    alone = [method.erase(tiny, [each], context()).tensors for each in (concept(), cat)]
    both = method.erase(tiny, [concept(), cat], context()).tensors
    back = method.erase(tiny, [cat, concept()], context()).tensors
    for name, places in both.items():
        assert set(places.tolist()) == {k for one in alone for k in one[name].tolist()}
        assert torch.equal(places, back[name])


END = {"ffn2": ".ff.net.2", "ffn1": ".ff.net.0.proj", "attn_k": ".attn2.to_k", "attn_v": ".attn2.to_v", "text": ".mlp.fc2"}
PART = {"text": "text_encoder"}


@pytest.mark.parametrize("layers", sorted(LAYERS))
def test_only_the_chosen_layers_change_and_only_to_zero(tiny, concept, context, layers):
    erasure = prune(layers=layers, ratio=0.1).erase(load(tiny_spec()), [concept()], context())
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    with prune().attach(tiny, erasure):
        changed = {n: p.clone() for n, p in tiny.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all(name.startswith(PART.get(layers, "unet")) and name.endswith(f"{END[layers]}.weight") for name in changed)
    assert erasure.touched == {PART.get(layers, "unet")}
    for name, weight in changed.items():
        differs = weight != before[name]
        assert (weight[differs] == 0).all() and differs.sum() <= len(erasure.tensors[f"prune.{name.removesuffix('.weight')}"])
    assert erasure.meta["parameters"] == sum(len(places) for places in erasure.tensors.values())


def test_the_published_layers_of_stable_diffusion_1():
    pipe = stable_diffusion_1()
    shapes = [pipe.module(name).weight.shape for name in prune().names(pipe)]
    assert len(shapes) == 16 and set(shapes) == {(320, 1280), (640, 2560), (1280, 5120)}


def test_text_layers_are_those_of_every_text_encoder():
    layers = prune(layers="text").names(load(tiny_spec("sdxl")))
    assert len(layers) == 4 and {name.partition(".")[0] for name in layers} == {"text_encoder", "text_encoder_2"}


def test_prompts_pair_up(concept):
    method = prune(things=["noto", "lineart", "fluent"], reference="a {other} in {thing} style", target="a {name} in {thing} style")
    without, having = method.prompts(concept(others=["apple", "car"]))
    assert without == ["an apple in noto style", "a car in lineart style", "an apple in fluent style"]
    assert having == ["a dog in noto style", "a dog in lineart style", "a dog in fluent style"]
    assert "`others`" in method.supports(tiny_spec(), [concept(others=[])])


@pytest.mark.parametrize(
    "over", [{"layers": "ffn3"}, {"ratio": 1.5}, {"select_ratio": 1.0}, {"calls": 9}, {"calls": 0}, {"target": "a dog"}]
)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        prune(**over)
