"""What no closed-form eraser can do is refused with a sentence before any text is encoded or any image is drawn."""

from dataclasses import replace

import pytest
import torch
from conftest import shaped_pipe

from vestige.bench.run.contract_checks import build, quick

ANCHOR = {  # the field that says what a concept becomes
    **dict.fromkeys(("uce", "uce_lasttoken", "uce_moderate", "rece"), "guide"),
    **dict.fromkeys(("speed", "mace", "realera_reimpl"), "anchor"),
    **dict.fromkeys(("trce", "trce_stage1"), "safe"),
    **dict.fromkeys(("leace_t2i", "leace_t2i_anchored", "inlp_t2i", "rlace_t2i"), "becomes"),
    **dict.fromkeys(("time_eraser",), "destination"),
}
KEEPS = {  # the field that says what stays
    **dict.fromkeys(("uce", "uce_lasttoken", "uce_moderate", "rece", "realera_reimpl", "uce_debias"), "preserve"),
    **dict.fromkeys(("mace", "trce", "trce_stage1"), "prior"),
    **dict.fromkeys(("leace_t2i", "leace_t2i_anchored", "inlp_t2i", "rlace_t2i"), "neutral"),
    "speed": "retain",
}
FEW = {  # settings that leave fewer rows than dimensions, and no ridge
    "uce_lasttoken": {"ridge": 0.0},
    "uce": {"ridge": 0.0, "preserve": []},
    "rece": {"ridge": 0.0, "preserve": []},
    "time_eraser": {"ridge": 0.0, "templates": ["{}"]},
    "mace": {"ridge": 0.0, "templates": ["{name}"], "prior": []},
    "trce": {"ridge": 0.0, "templates": ["{name}"], "prior": []},
    "trce_stage1": {"ridge": 0.0, "templates": ["{name}"], "prior": []},
    "realera_reimpl": {"ridge": 0.0, "templates": ["{name}"], "preserve_scale": 0.0, "neighbour_weight": 0.0, "beyond_weight": 0.0},
    "leace_t2i": {"shrinkage": False, "templates": ["{name}"], "neutral": [], "padding": 2},
    "leace_t2i_anchored": {"shrinkage": False, "templates": ["{name}"], "neutral": [], "padding": 2},
}
ALL = sorted({*ANCHOR, "sequential_uce", "uce_debias"})


def method(name: str, **over):
    plain = {"mask": "whole"} if name == "mace" else {"clip": "emoji"} if name == "uce_debias" else {}
    return quick(replace(build("method", name), **plain, **over))


@pytest.fixture
def idle(tiny, monkeypatch):
    """A pipe on which any work is a failure."""

    def work(*args, **kwargs):
        raise AssertionError("work was done before the refusal")

    for name in ("encode", "predict", "null"):
        monkeypatch.setattr(tiny, name, work)
    return tiny


@pytest.mark.parametrize("name", ALL)
def test_a_concept_that_tokenises_to_nothing(idle, concept, context, name):
    with pytest.raises(ValueError, match=r"has no token in model 'tiny'.*another name"):
        method(name).erase(idle, [concept(name="   ")], context())


@pytest.mark.parametrize("name, field", ANCHOR.items())
def test_an_anchor_that_is_the_concept(idle, concept, context, name, field):
    value = "a DOG" if name == "time_eraser" else "DOG"
    refused = method(name, **{field: value})
    assert "itself" in refused.supports(idle.spec, [concept()]), "from the concept's file alone"
    with pytest.raises(ValueError, match=r"should become .*the same tokens.*another anchor"):
        refused.erase(idle, [concept()], context())
    assert method(name, **{field: "a cat" if name == "time_eraser" else "cat"}).supports(idle.spec, [concept()]) is None


@pytest.mark.parametrize("name, field", KEEPS.items())
@pytest.mark.parametrize("word", ["Dog", "puppy"])
def test_a_preserved_set_that_holds_the_concept_or_a_synonym(idle, concept, name, field, word):
    asked = concept(siblings=["frog", word])
    unsupported_reason = method(name, **{field: ["siblings"]}).supports(idle.spec, [asked])
    assert repr(word.lower()) in unsupported_reason and "`siblings`" in unsupported_reason and "take it off" in unsupported_reason
    assert method(name, **{field: ["siblings"]}).supports(idle.spec, [concept(siblings=["frog", "dogma"])]) is None


def test_a_sequence_refuses_what_its_steps_refuse(idle, concept):
    node = build("method", "sequential_uce").steps["uce"]
    refused = replace(build("method", "sequential_uce"), steps={"uce": {**node, "preserve": ["siblings"]}})
    assert "'dog' under `siblings`" in refused.supports(idle.spec, [concept(siblings=["dog"])])
    assert "itself" in replace(refused, steps={"uce": {**node, "guide": "dog"}}).supports(idle.spec, [concept()])


@pytest.mark.parametrize("name, over", FEW.items())
def test_no_ridge_and_fewer_rows_than_dimensions(tiny, concept, context, monkeypatch, name, over):
    monkeypatch.setattr(tiny.text.readers[0], "length", 12)  # so few positions that one text cannot span 32 dimensions
    before = dict(tiny.counts)
    how = "shrinkage" if name.startswith("leace") else r"set a ridge weight above 0"
    with pytest.raises(ValueError, match=rf"\d+ rows cannot .* {tiny.denoiser.config.cross_attention_dim} dimensions.*{how}"):
        method(name, **over).erase(tiny, [concept()], context())
    assert tiny.counts == before, "no image was drawn and nothing was trained"


def test_speed_without_a_pull_towards_the_original_is_refused():
    with pytest.raises(ValueError, match=r"method\.retain_scale=0\.0 must be positive"):
        method("speed", retain_scale=0.0)
    with pytest.raises(ValueError, match=r"method\.invariance_ridge=-1\.0 must not be negative"):
        method("speed", invariance_ridge=-1.0)


@pytest.mark.parametrize("name", ALL)
def test_an_artefact_for_another_text_width(concept, context, name):
    wide, tiny, eraser = shaped_pipe(96), shaped_pipe(32), method(name)
    with wide.preserved():
        erasure = eraser.erase(wide, [concept()], context())
    before = tiny.fingerprint()
    with torch.no_grad(), pytest.raises(ValueError, match="made for another model"), eraser.attach(tiny, erasure):
        pass
    assert tiny.fingerprint() == before
