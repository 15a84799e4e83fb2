"""Relearning: trains only what it says, returns it all, and knows when it does not apply."""

from dataclasses import dataclass, replace

import pytest
import torch
from conftest import tiny_spec

from vestige.attacks.relearning import Relearning
from vestige.attacks.training_images import original_images
from vestige.bench.contract.plugin import Method, Victim
from vestige.bench.contract.types import Adversary, Erasure
from vestige.bench.run.job import Job, Runtime, Split
from vestige.bench.run.stages import Stages
from vestige.methods.original import Original

SMALL = Relearning(
    data="target",
    tuner="full_unet",
    rank=2,
    templates=["a photo of a {name}"],
    images=2,
    source="target",
    steps=2,
    batch=2,
    accumulation=1,
    lr=1e-3,
    weight_decay=0.0,
    caption_dropout=0.1,
    flip=0.5,
)


@pytest.fixture
def run(tiny, concept, prompts, sampler, context):
    def go(concepts=None, touched=frozenset(), **over):
        victim = Victim(tiny, concepts or [concept()], Original(), sampler, None, frozenset(touched))
        with tiny.preserved():
            return replace(SMALL, **over).attack(victim, prompts(2), context())

    return go


def test_zero_steps_draw_exactly_the_unattacked_images_and_some_steps_do_not(run, tiny, sampler, prompts):
    asked = prompts(2)
    before = tiny(asked.prompts, [1, 2], sampler).pixels
    for steps, same in ((0, True), (2, False)):
        found = run(steps=steps)
        assert found.prompts.digest == asked.digest
        with SMALL.attach(tiny, found) as pipe:
            assert torch.equal(pipe(asked.prompts, [1, 2], sampler).pixels, before) == same
    assert torch.equal(tiny(asked.prompts, [1, 2], sampler).pixels, before)


def test_the_same_seed_gives_the_same_weights(run):
    first, again = run().tensors, run().tensors
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_tuner_decides_which_weights_move_and_without_a_touched_part_they_are_the_denoisers(run, tiny):
    whole, cross = run().tensors, run(tuner="xattn").tensors
    assert all(name.startswith("unet.") for name in whole)
    assert len(whole) == len(list(tiny.denoiser.named_parameters())) > len(cross) > 0
    assert all("attn2" in name for name in cross)
    moved = [name for name, value in cross.items() if not torch.equal(value, tiny.parameter(name))]
    assert len(moved) > len(cross) / 2


def test_training_lowers_the_loss_on_the_training_images(run, tiny, context):
    attack = replace(SMALL, steps=60, batch=4)
    found = run(steps=60, batch=4)
    training_images = original_images(context(), attack.templates, ["dog"], 2)

    def loss():
        shared = torch.Generator().manual_seed(5)
        with torch.no_grad():
            return sum(attack.loss(tiny, training_images, shared).item() for _ in range(10))

    before = loss()
    with attack.attach(tiny, found):
        assert loss() < 0.9 * before


def test_unrelated_data_never_shows_an_erased_concept(concept, context):
    dog, car = concept(), concept("car", others=["dog", "banana"])
    assert set(replace(SMALL, data="target").training_images([dog, car], context()).things) == {"dog", "car"}
    assert set(replace(SMALL, data="unrelated").training_images([dog, car], context()).things) == {"apple", "banana"}


@pytest.mark.parametrize("data", ["target", "unrelated"])
def test_adapters_learn_what_they_are_shown_and_leave_the_weights_alone(run, tiny, context, concept, data):
    attack = replace(SMALL, tuner="lora", data=data, lr=1e-2)
    before = tiny.fingerprint()
    found = run(tuner="lora", data=data, lr=1e-2, steps=60, batch=4)
    assert tiny.fingerprint() == before and all(name.startswith("lora.") for name in found.tensors)
    training_images = attack.training_images([concept()], context())

    def loss():
        with torch.no_grad():
            shared = torch.Generator().manual_seed(5)
            return sum(attack.loss(tiny, training_images, shared).item() for _ in range(10))

    plain = loss()
    with attack.attach(tiny, found):
        assert loss() < 0.95 * plain
    assert tiny.fingerprint() == before


def test_no_steps_of_adapters_draw_exactly_the_unattacked_images(run, tiny, sampler, prompts):
    before = tiny(prompts(2).prompts, [1, 2], sampler).pixels
    attack = replace(SMALL, tuner="lora")
    with attack.attach(tiny, run(tuner="lora", steps=0)) as pipe:
        assert torch.equal(pipe(prompts(2).prompts, [1, 2], sampler).pixels, before)


def test_controls_train_on_other_images_under_the_same_captions(run):
    weights = [run(source=source).tensors["unet.conv_in.weight"] for source in ("target", "scrambled", "never_knew")]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ValueError, match="control of data=target"):
        replace(SMALL, data="unrelated", source="scrambled")


def test_dropped_captions_are_empty(run, tiny, monkeypatch):
    captions = []
    encode = type(tiny).encode
    monkeypatch.setattr(type(tiny), "encode", lambda self, prompts: captions.extend(prompts) or encode(self, prompts))
    run(caption_dropout=1.0, steps=1)
    assert captions[-2:] == ["", ""]
    run(caption_dropout=0.0, steps=1)
    assert captions[-2:] == ["a photo of a dog"] * 2


def test_methods_without_changed_weights_are_not_applicable_and_small_floats_are_refused(concept, monkeypatch):
    assert SMALL.supports(tiny_spec(), [concept()], Original()) is None
    assert "float16" in SMALL.supports(replace(tiny_spec(), dtype="float16"), [concept()], Original())
    for intervention in ("sampling", "filter"):
        monkeypatch.setattr(Original, "intervention", intervention)
        assert SMALL.supports(tiny_spec(), [concept()], Original()).startswith("not applicable:")


def test_an_unknown_tuner_is_named_with_the_allowed_ones():
    with pytest.raises(ValueError, match="full_unet, xattn, lora"):
        replace(SMALL, tuner="everything")


TEXT = "text_encoder"


@pytest.mark.parametrize("tuner", ["full_unet", "xattn"])
def test_relearning_trains_the_parts_that_the_erasure_touched(run, tiny, tuner):
    before = tiny.fingerprint()
    text = run(touched={TEXT}, tuner=tuner).tensors
    assert {name.partition(".")[0] for name in text} == {TEXT}
    assert len(text) == len(list(tiny.parts[TEXT].named_parameters()))
    assert sum(not torch.equal(value, tiny.parameter(name)) for name, value in text.items()) > len(text) / 2
    both = run(touched={TEXT, "unet"}, tuner=tuner).tensors
    assert both.keys() == text.keys() | run(tuner=tuner).tensors.keys()
    assert tiny.fingerprint() == before
    assert run(touched={"vae"}).tensors.keys() == run().tensors.keys(), "an image autoencoder learns nothing from this loss"


def test_adapters_stand_where_the_erasure_was_and_are_found_again(run, tiny, sampler, prompts):
    attack, found = replace(SMALL, tuner="lora"), run(touched={TEXT}, tuner="lora", lr=1e-2)
    assert all(name.startswith(f"lora@{TEXT}.") for name in found.tensors)
    assert any(tensor.abs().max() > 0 for name, tensor in found.tensors.items() if name.endswith(".up"))
    plain, before = tiny.encode(["a dog"]).hidden, tiny.fingerprint()
    with attack.attach(tiny, found), torch.no_grad():
        assert not torch.equal(tiny.encode(["a dog"]).hidden, plain)
    assert tiny.fingerprint() == before


@dataclass
class EditsText(Method):
    """Rewrites what the text encoder says, and nothing else."""

    def erase(self, pipe, concepts, ctx):
        name = f"{TEXT}.final_layer_norm.weight"
        return Erasure({name: 1.5 * pipe.parameter(name).detach()})


def test_after_an_edit_of_the_text_encoder_a_job_relearns_the_text_encoder(tmp_path, concept, sampler, prompts):
    runtime = Runtime("cpu", 8, str(tmp_path / "store"), str(tmp_path / "records"), "skip", [], None)
    split = Split("target", "target", 2, 1, True)
    job = Job(
        tiny_spec(),
        [concept()],
        "edits_text",
        EditsText(),
        {"relearning": SMALL},
        {"target": split},
        sampler,
        "emoji_b",
        0,
        "erase",
        runtime,
    )
    stages = Stages(job)
    erased = stages.erase()
    assert stages.models.touched(erased) == {TEXT}
    found = Adversary.load(stages.attack(erased, SMALL, "relearning", prompts(2)).path)
    assert {name.partition(".")[0] for name in found.tensors} == {TEXT}
    name = f"{TEXT}.final_layer_norm.weight"
    with stages.models.attached(erased) as pipe:
        left = pipe.parameter(name).detach().clone()
        with SMALL.attach(pipe, found):
            assert torch.equal(pipe.parameter(name), found.tensors[name]) and not torch.equal(found.tensors[name], left)
        assert torch.equal(pipe.parameter(name), left), "the artefact is taken out again, the erasure stays"


def test_an_erasure_says_what_it_touched():
    tensor = torch.zeros(1)
    assert Erasure({"unet.a.weight": tensor, "text_encoder.b": tensor}).touched == {"unet", "text_encoder"}
    assert Erasure({"edit.a": tensor}, {"parts": ["unet"]}).touched == {"unet"}
    assert Erasure({}).touched == frozenset()
