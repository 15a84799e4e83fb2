"""The oracle: refuses whatever it was not retrained for, and hands over the retrained weights."""

import dataclasses

import torch
from safetensors.torch import save_file

from vestige.bench.contract.types import ModelSpec
from vestige.bench.models import loading
from vestige.bench.run.contract_checks import build
from vestige.bench.world.content import catalog
from vestige.methods.oracle import left_out

EMOJI = ModelSpec("emoji", "sd1", "bench/world/weights/generator", None, "float32", "reference", "emoji", "emoji")


def test_it_says_which_command_makes_a_missing_oracle(concept):
    assert "vestige world retrain --without unicorn" in build("method", "oracle").supports(EMOJI, [concept("unicorn")])


def test_it_refuses_other_models_and_several_concepts(tiny, concept):
    oracle = build("method", "oracle")
    assert "model=emoji" in oracle.supports(tiny.spec, [concept()])
    assert "dog, cat were asked for together" in oracle.supports(EMOJI, [concept(), concept("cat")])


def test_the_artefact_is_the_retrained_denoiser_and_its_file_enters_the_key(tiny, concept, context, tmp_path):
    other = loading.load(tiny.spec).denoiser
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    file = tmp_path / "dog.safetensors"
    save_file({name: p.half() for name, p in other.state_dict().items()}, file)
    oracle = dataclasses.replace(build("method", "oracle"), weights=str(tmp_path / "{slug}.safetensors"))
    first = oracle.inputs([concept()])
    erasure = oracle.erase(tiny, [concept()], context())
    with oracle.attach(tiny, erasure):
        for name, p in tiny.denoiser.named_parameters():
            assert torch.equal(p, other.get_parameter(name).half().float())
    save_file({name: p.half() * 2 for name, p in other.state_dict().items()}, file)
    assert oracle.inputs([concept()]) != first


def test_a_whole_group_has_one_oracle_and_another_seed_has_its_own(concept):
    danger = [concept(slug) for slug in catalog.groups()["danger"]]
    assert left_out(danger) == "danger"
    assert left_out(danger[1:]) is None
    other = build("method", "oracle_seed1")
    assert other.file(danger) != build("method", "oracle").file(danger)
    assert "--without unicorn --seed 1" in other.supports(EMOJI, [concept("unicorn")])


def test_concepts_that_are_no_group_have_no_file_to_digest(concept):
    assert build("method", "oracle").inputs([concept("dog"), concept("car")]) == {}
