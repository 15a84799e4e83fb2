"""UCE: the concept's words get the guide's answers, preserved words keep theirs, by either form of the edit."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.run.contract_checks import build
from vestige.methods._text_rows import all_rows, last_rows
from vestige.methods.uce import UCE


def uce(**over) -> UCE:
    return replace(build("method", "uce_lasttoken"), **over)


def shift(pipe, erasure, rows) -> torch.Tensor:
    """How far T moves each row, in the output of one key projection."""
    u, v = erasure.tensors["edit.U"], erasure.tensors["edit.V"]
    weight = next(p for n, p in pipe.denoiser.named_parameters() if n.endswith("attn2.to_k.weight"))
    return ((rows @ v) @ u.T) @ weight.T


def test_the_concepts_last_token_gets_the_guides_output(tiny, concept, context):
    c, g = last_rows(tiny, "dog"), last_rows(tiny, "cat")
    weight = next(p for n, p in tiny.denoiser.named_parameters() if n.endswith("attn2.to_v.weight"))
    wanted = (g - c) @ weight.T
    left = {}
    for ridge in (0.5, 1e-6):
        erasure = uce(guide="cat", ridge=ridge).erase(tiny, [concept()], context())
        u, v = erasure.tensors["edit.U"], erasure.tensors["edit.V"]
        left[ridge] = ((((c @ v) @ u.T) @ weight.T - wanted).norm() / wanted.norm()).item()
    assert left[0.5] < 0.2 and left[1e-6] < 1e-3


def test_a_concept_without_tokens_or_with_itself_as_guide_is_refused_before_anything_is_computed(tiny, concept, context):
    with pytest.raises(ValueError, match=r"'   ' has no token"):
        uce().erase(tiny, [concept(name="   ")], context())
    with pytest.raises(ValueError, match=r"'dog' should become 'DOG', which are the same tokens"):
        uce(guide="DOG").erase(tiny, [concept()], context())
    assert "itself" in uce(guide="{anchor}").supports(tiny.spec, [concept(anchor="Dog ")])
    assert uce(guide="{anchor}").supports(tiny.spec, [concept()]) is None


def test_a_concept_among_its_own_preserved_names_is_refused(tiny, concept):
    with_itself, with_alias = concept(siblings=["cat", "Dog"]), concept(others=["puppy"])
    method = uce(preserve=["empty", "siblings", "others"])
    assert "'dog' under `siblings`" in method.supports(tiny.spec, [with_itself])
    assert "'puppy' under `others`" in method.supports(tiny.spec, [with_alias])
    assert uce(preserve=[]).supports(tiny.spec, [with_itself]) is None


def test_preserved_names_keep_their_answers_the_better_the_more_they_weigh(tiny, concept, context):
    cat = last_rows(tiny, "cat")
    moved = [
        shift(tiny, uce(preserve=["siblings"], preserve_scale=scale).erase(tiny, [concept()], context()), cat).norm().item()
        for scale in (0.0, 1.0, 100.0)
    ]
    assert moved[0] > 2 * moved[1] > 4 * moved[2]


def test_names_that_contain_the_concept_are_never_preserved(tiny, concept, context):
    with_hot_dog = concept(siblings=["hot dog", "cat"])
    kept = uce(preserve=["siblings"]).kept_rows(tiny, [with_hot_dog])
    assert torch.equal(kept, last_rows(tiny, "cat"))
    assert uce(preserve=["siblings"]).erase(tiny, [with_hot_dog], context()).meta["left_out"] == ["hot dog"]


def test_concepts_are_solved_together_in_any_order(tiny, concept, context):
    dog, cat = concept(), concept("cat", siblings=["dog"])
    split = all_rows(tiny, ["a dog and a cat"])
    there, back = (shift(tiny, uce().erase(tiny, pair, context()), split) for pair in ([dog, cat], [cat, dog]))
    assert torch.allclose(there, back, atol=1e-5) and there.abs().max() > 1e-3


def test_wordings_with_other_things_need_such_things(tiny, concept):
    method = uce(templates=["{name}", "a {name} {other}"], guide="{sibling}")
    assert method.worded("dog", concept()) == ["dog", "a dog car", "a dog apple"]
    assert "`others`" in method.supports(tiny.spec, [concept(others=[])])
    assert "`siblings`" in method.supports(tiny.spec, [concept(siblings=[])])


@pytest.mark.parametrize("name, model", [("uce", "tiny"), ("uce_lasttoken", "tiny"), ("uce", "emoji")])
def test_merge_and_hook_draw_the_same_images(tiny, concept, context, sampler, name, model):
    method = build("method", name, model=model)
    erasure = method.erase(tiny, [concept()], context())
    plain = tiny(["a photo of a dog"], [3], sampler).pixels.int()
    drawn = {}
    for form in ("merge", "hook"):
        with replace(method, form=form).attach(tiny, erasure):
            drawn[form] = tiny(["a photo of a dog"], [3], sampler).pixels.int()
    assert (drawn["merge"] - drawn["hook"]).abs().max() <= 1 and not torch.equal(drawn["merge"], plain)


def test_the_paper_edits_seventy_rows_and_the_rewrite_one(tiny, concept, context):
    rows = {name: build("method", name).erase(tiny, [concept()], context()).meta["rows"] for name in ("uce", "uce_lasttoken")}
    assert rows == {"uce": 76, "uce_lasttoken": 1}


def test_moderation_reaches_the_synonyms_and_erasing_does_not(tiny, concept, context):
    puppy, begin, left = last_rows(tiny, "puppy"), last_rows(tiny, ""), {}
    for edits in (["name"], ["name", "aliases"]):
        method = replace(build("method", "uce_moderate"), edits=edits, rows="last", preserve=[])
        u, v = (method.erase(tiny, [concept()], context()).tensors[f"edit.{k}"] for k in "UV")
        left[len(edits)] = (puppy + (puppy @ v) @ u.T - begin).norm().item()
    assert left[2] < 0.3 * left[1]
    assert "`aliases`" in uce(edits=["aliases"]).supports(tiny.spec, [concept(aliases=[])])


def test_without_a_ridge_the_rows_must_span_the_space(tiny, concept, context):
    with pytest.raises(ValueError, match=r"1 rows cannot decide an edit of 32 dimensions.*method\.ridge"):
        uce(ridge=0.0).erase(tiny, [concept()], context())
    erasure = replace(build("method", "uce"), ridge=0.0).erase(tiny, [concept()], context())
    assert all(tensor.isfinite().all() for tensor in erasure.tensors.values())


BAD = [
    {"rows": "first"},
    {"form": "lora"},
    {"preserve": ["friends"]},
    {"templates": []},
    {"edits": ["slug"]},
    {"edits": []},
    {"ridge": -1.0},
]


@pytest.mark.parametrize("over", BAD)
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        uce(**over)
