"""The oracle: refuses whatever it was not retrained for, and hands over the retrained weights."""

import dataclasses

import torch
from safetensors.torch import save_file

from bench import model
from bench.contract import build
from bench.types import ModelSpec

EMOJI = ModelSpec("emoji", "sd1", "bench/world/weights/generator", None, "float32", "deterministic", "emoji")


def test_it_says_which_command_makes_a_missing_oracle(concept):
    assert "vestige world retrain --without unicorn" in build("method", "oracle").supports(EMOJI, [concept("unicorn")])


def test_it_refuses_other_models_and_several_concepts(tiny, concept):
    oracle = build("method", "oracle")
    assert "model=emoji" in oracle.supports(tiny.spec, [concept()])
    assert "one concept each" in oracle.supports(EMOJI, [concept(), concept("cat")])


def test_the_artefact_is_the_retrained_denoiser_and_its_file_enters_the_key(tiny, concept, context, tmp_path):
    other = model.load(tiny.spec).unet
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    file = tmp_path / "dog.safetensors"
    save_file({name: p.half() for name, p in other.state_dict().items()}, file)
    oracle = dataclasses.replace(build("method", "oracle"), weights=str(tmp_path / "{slug}.safetensors"))
    first = oracle.inputs([concept()])
    erasure = oracle.erase(tiny, [concept()], context())
    with oracle.attach(tiny, erasure):
        for name, p in tiny.unet.named_parameters():
            assert torch.equal(p, other.get_parameter(name).half().float())
    save_file({name: p.half() * 2 for name, p in other.state_dict().items()}, file)
    assert oracle.inputs([concept()]) != first
