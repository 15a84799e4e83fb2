"""Sequential edits: the product of the steps in their order, equal to editing a merged model, and not the joint solution."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.contract import building
from vestige.bench.places import CONF
from vestige.bench.run import composing, resolvers
from vestige.bench.run.contract_checks import build
from vestige.methods._closed_form import pieces_of, projections
from vestige.methods.sequential import Sequential, after

D = 6


def sequence(*names: str, **over) -> Sequential:
    """The named methods as steps a, b, ..."""
    nodes = {key: node(name) for key, name in zip("abc", names, strict=False)}
    return replace(build("method", "sequential_uce"), steps=nodes, **over)


def node(name: str, **over) -> dict:
    method = replace(build("method", name), **over)
    kind = f"{type(method).__module__}.{type(method).__qualname__}"
    return {"_target_": kind, **building.specification(method)["params"]}


def weights(pipe) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in projections(pipe).items()}


def edited(pipe, method, concepts, ctx) -> dict[str, torch.Tensor]:
    """All key and value weights after erasing and attaching."""
    erasure = method.erase(pipe, concepts, ctx)
    with method.attach(pipe, erasure):
        return weights(pipe)


def distance(one: dict, two: dict) -> float:
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.fixture
def dog_and_cat(concept):
    return [concept("dog", siblings=["frog"]), concept("cat", siblings=["frog"])]


@pytest.mark.parametrize("name", ["uce", "rece", "speed"])
def test_a_sequence_edits_the_model_that_the_step_before_left(tiny, dog_and_cat, context, name):
    method, (dog, cat) = build("method", name), dog_and_cat
    with method.attach(tiny, method.erase(tiny, [dog], context())):
        by_hand = edited(tiny, method, [cat], context())
    ours = edited(tiny, sequence(name), [dog, cat], context())
    assert distance(ours, by_hand) < 1e-5
    assert distance(ours, edited(tiny, method, [dog], context())) > 1e-3, "the second concept was edited too"


def test_the_order_counts_and_the_joint_solution_is_another(tiny, dog_and_cat, context):
    there, back = (edited(tiny, sequence("uce"), pair, context()) for pair in (dog_and_cat, dog_and_cat[::-1]))
    joint, joint_back = (edited(tiny, build("method", "uce"), pair, context()) for pair in (dog_and_cat, dog_and_cat[::-1]))
    assert distance(joint, joint_back) < 1e-6
    assert distance(there, back) > 1e-3 and distance(there, joint) > 1e-3 and distance(back, joint) > 1e-3


def test_one_concept_and_one_step_is_the_method_itself(tiny, concept, context):
    ours, uce = (edited(tiny, method, [concept()], context()) for method in (sequence("uce"), build("method", "uce")))
    assert distance(ours, uce) < 1e-6


def test_methods_follow_each_other_and_the_artefact_says_in_which_order(tiny, dog_and_cat, context):
    both = sequence("uce", "speed")
    erasure = both.erase(tiny, dog_and_cat, context())
    assert erasure.meta["order"] == ["a: dog", "a: cat", "b: dog", "b: cat"]
    other = sequence("speed", "uce").erase(tiny, dog_and_cat, context())
    key = next(name for name in weights(tiny) if name.endswith("to_k.weight"))
    alone = sequence("uce").erase(tiny, dog_and_cat, context())
    dense = [u @ v.T for u, v, _ in (pieces_of(e, key) for e in (erasure, other, alone))]
    assert torch.allclose(dense[0], dense[2], atol=1e-5) and torch.allclose(dense[1], dense[2], atol=1e-5), "SPEED edits values alone"
    with both.attach(tiny, erasure):
        first = weights(tiny)
    with both.attach(tiny, other):
        assert distance(first, weights(tiny)) > 1e-3


def test_affine_edits_chain_with_their_shifts():
    generator = torch.Generator().manual_seed(0)

    def edit(shift: bool):
        u, v, a = (torch.randn(D, n, generator=generator, dtype=torch.float64) for n in (2, 2, 1))
        return u, v, a[:, 0] if shift else None

    def apply(e, h):
        return h + (h @ e[1]) @ e[0].T + (0 if e[2] is None else e[2])

    h = torch.randn(4, D, generator=generator, dtype=torch.float64)
    for one, two in ((edit(True), edit(True)), (edit(False), edit(True)), (edit(True), edit(False)), (edit(False), edit(False))):
        assert torch.allclose(apply(after(one, two), h), apply(one, apply(two, h)))
        assert not torch.allclose(apply(after(one, two), h), apply(two, apply(one, h)))


def test_a_sequence_leaves_the_model_as_it_was(tiny, dog_and_cat, context):
    before = tiny.fingerprint()
    sequence("uce", "rece").erase(tiny, dog_and_cat, context())
    assert tiny.fingerprint() == before


def test_the_key_depends_on_steps_and_their_versions(concept, monkeypatch):
    from vestige.methods.uce import UCE

    method = sequence("uce")
    before = method.inputs([concept()])
    monkeypatch.setattr(UCE, "version", UCE.version + 1)
    assert method.inputs([concept()]) != before


def test_steps_are_checked_before_a_model_is_loaded(tiny, concept):
    with pytest.raises(ValueError, match=r"method\.steps is empty"):
        sequence()
    with pytest.raises(ValueError, match="not a LinearEdit"):
        sequence("negative_prompt")
    with pytest.raises(ValueError, match=r"method\.layers=v does not cover"):
        sequence("uce", layers="v")
    with pytest.raises(ValueError, match=r"method\.steps\.a\.edgar is not a setting"):
        replace(build("method", "sequential_uce"), steps={"a": {**node("uce"), "edgar": 1}})
    refused = sequence("uce").supports(tiny.spec, [concept(siblings=["dog"])])
    assert refused is None, "UCE for objects preserves no siblings"
    named = replace(build("method", "sequential_uce"), steps={"a": node("uce", preserve=["siblings"])})
    assert "`siblings`" in named.supports(tiny.spec, [concept(siblings=["dog"])])


def test_a_second_step_can_be_typed():
    from hydra import compose, initialize_config_dir

    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("run", ["model=tiny", "concept=[dog,cat]", "method=sequential_uce", "+method@method.steps.second=speed"])
    job = composing.build_job(tree)
    assert [type(method).__name__ for method in job.method.methods.values()] == ["UCE", "SPEED"]
