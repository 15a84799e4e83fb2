"""What methods ask of a family of models, and what an artefact says of the parts it acts on."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.contract.types import Erasure
from vestige.bench.models.adapters import adapters
from vestige.bench.models.capabilities import offers, unsupported
from vestige.bench.models.families import family
from vestige.bench.models.process import RectifiedFlow
from vestige.bench.places import CONF
from vestige.bench.run.contract_checks import build, quick

METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
UNETS = ("sd1", "sd2", "sdxl")
# They edit, or look through, layers that read the text states themselves, which other families do not have
CLOSED_FORMS = {
    *("uce", "uce_lasttoken", "uce_moderate", "uce_debias", "rece", "rece_unsafe", "speed", "sequential_uce", "time_edit", "time_eraser"),
    *("leace_t2i", "leace_t2i_anchored", "inlp_t2i", "rlace_t2i", "mace", "mace_paper", "trce", "trce_stage1", "realera_reimpl"),
}


@pytest.fixture(scope="module")
def built():
    return {name: build("method", name) for name in METHODS}


@pytest.mark.parametrize("model", UNETS)
def test_every_method_asks_for_what_models_with_a_unet_offer(built, model):
    assert {name: set(method.needs) - set(offers(model)) for name, method in built.items()} == {name: set() for name in METHODS}


def test_closed_forms_alone_ask_for_layers_that_read_the_text_states(built):
    assert {name for name, method in built.items() if any(need.startswith("cross_") for need in method.needs)} == CLOSED_FORMS


@pytest.mark.parametrize(
    "name, over, needs",
    [
        ("esd", {"train": "xattn"}, ("levels", "text_attention")),
        ("esd", {"train": "noxattn"}, ("levels", "all", "text_attention", "ends")),
        ("uce", {"layers": "v"}, ("words", "states", "cross_v")),
        ("concept_ablation", {"train": "full", "cut_begin_token": False}, ("draw", "levels", "all")),
        ("concept_prune", {"layers": "text"}, ("draw", "words")),
        ("realera_reimpl", {"iterations": 0}, ("words", "states", "cross_kv")),
        ("trce", {"epochs": 0}, ("words", "states", "cross_kv")),
    ],
)
def test_needs_follow_the_settings(built, name, over, needs):
    assert replace(built[name], **over).needs == needs


def test_what_a_family_lacks_is_said_in_words(built, monkeypatch, concept):
    some = {role: names for role, names in family("sd1").groups.items() if role in ("all", "ends", "text_attention")}
    monkeypatch.setattr(type(family("sd1")), "groups", some)
    assert unsupported(built["esd"], tiny_spec(), [concept()]) is None
    released = replace(built["esd"], train="noxattn_released")
    assert unsupported(released, tiny_spec(), [concept()]).startswith("ESD needs the weights 'esd_release', which models of family sd1")


@pytest.mark.parametrize(
    "name, fit", [("esd", "timestep_alignment=exact"), ("spm", "timestep_alignment=exact"), ("concept_prune", "scheduler=null")]
)
def test_what_is_made_for_diffusion_alone_is_refused_elsewhere_with_what_to_set(built, monkeypatch, concept, name, fit):
    monkeypatch.setattr(type(family("sd1")), "diffusion", False)
    assert f"set method.{fit}" in unsupported(built[name], tiny_spec(), [concept()])
    setting, _, value = fit.partition("=")
    fitting = replace(built[name], **{setting: None if value == "null" else value})
    assert unsupported(fitting, tiny_spec(), [concept()]) is None


@pytest.mark.parametrize("name, over", [("esd_x", {}), ("spm", {}), ("concept_ablation", {"loss": "noise", "prior_weight": 1.0})])
def test_trainers_train_a_flow_as_they_train_a_diffusion_model(tiny, concept, context, name, over):
    """Levels between whole numbers, latents and targets of a straight path: all through the model's process."""
    tiny.process = RectifiedFlow(2.0)
    timing = {} if name == "concept_ablation" else {"timestep_alignment": "exact"}
    method, ctx = quick(replace(build("method", name), **over, **timing)), context()
    seen, predict = [], tiny.predict
    tiny.predict = lambda x, t, *rest: seen.append(torch.as_tensor(t)) or predict(x, t, *rest)
    erasure = method.erase(tiny, [concept()], ctx)
    assert any((level != level.round()).any() for level in seen) and all(level.min() >= 0 and level.max() <= 1000 for level in seen)
    assert all(torch.isfinite(tensor).all() for tensor in erasure.tensors.values()) and all(row["loss"] > 0 for row in ctx.history)


# Parts


def test_the_parts_an_erasure_touches_are_those_of_its_tensors_or_the_ones_it_names():
    one = torch.zeros(1)
    assert Erasure({"unet.a.weight": one, "text_encoder.b.weight": one}).touched == {"unet", "text_encoder"}
    assert Erasure({"mine.down": one}, {"parts": ["transformer"]}).touched == {"transformer"}
    assert Erasure({"filter.texts": one}, {"parts": []}).touched == Erasure({}).touched == frozenset()


@pytest.mark.parametrize("name", ["uce", "spm", "esd_x", "trce", "safety_checker", "negative_prompt"])
def test_methods_name_the_parts_they_act_on(tiny, concept, context, name):
    over = {"clip": "emoji"} if name == "safety_checker" else {}
    erasure = quick(replace(build("method", name), **over)).erase(tiny, [concept()], context())
    assert erasure.touched == (frozenset() if name in ("safety_checker", "negative_prompt") else {"unet"})


# Adapters


def test_adapters_that_are_off_leave_others_in_force(tiny):
    """The teacher of a later step is the model that the steps before left."""
    draw = torch.Generator().manual_seed(0)
    layers = {name: layer.weight for name, layer in tiny.layers("text_kv").items()}
    first, second = ([{n: torch.randn(1, w.shape[k], generator=draw) for n, w in layers.items()} for k in (1, 0)] for _ in range(2))
    x, t, cond = torch.randn(1, 4, 8, 8, generator=draw), torch.tensor(500), tiny.encode(["a dog"])
    with torch.no_grad(), adapters(tiny, *first, lambda: None, "paper"):
        before = tiny.predict(x, t, cond)
        with adapters(tiny, *second, lambda: None, "paper") as off:
            both = tiny.predict(x, t, cond)
            with off():
                assert torch.equal(tiny.predict(x, t, cond), before)
            assert torch.equal(tiny.predict(x, t, cond), both) and not torch.equal(both, before)
    assert not torch.equal(tiny.predict(x, t, cond), before)
