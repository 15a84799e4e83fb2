"""UCE: the concept's words get the guide's answers, preserved words keep theirs, by either form of the edit."""

from dataclasses import replace

import pytest
import torch

from bench.contract import build
from methods._closed_form import all_rows, last_rows
from methods.uce import UCE


def uce(**over) -> UCE:
    return replace(build("method", "uce_lasttoken"), **over)


def shift(pipe, erasure, rows) -> torch.Tensor:
    """How far T moves each row, in the output of one key projection."""
    u, v = erasure.tensors["edit.U"], erasure.tensors["edit.V"]
    weight = next(p for n, p in pipe.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    return ((rows @ v) @ u.T) @ weight.T


def test_the_concepts_last_token_gets_the_guides_output(tiny, concept, context):
    c, g = last_rows(tiny, "dog"), last_rows(tiny, "cat")
    weight = next(p for n, p in tiny.unet.named_parameters() if n.endswith("attn2.to_v.weight"))
    wanted = (g - c) @ weight.T
    left = {}
    for ridge in (0.5, 1e-6):
        erasure = uce(guide="cat", ridge=ridge).erase(tiny, [concept()], context())
        u, v = erasure.tensors["edit.U"], erasure.tensors["edit.V"]
        left[ridge] = ((((c @ v) @ u.T) @ weight.T - wanted).norm() / wanted.norm()).item()
    assert left[0.5] < 0.2 and left[1e-6] < 1e-3


def test_the_concept_itself_as_guide_changes_nothing(tiny, concept, context):
    erasure = uce(guide="dog").erase(tiny, [concept()], context())
    assert shift(tiny, erasure, all_rows(tiny, ["a dog in a park"])).abs().max() < 1e-6


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


def test_concepts_are_solved_together_in_any_order(tiny, concept, context):
    dog, cat = concept(), concept("cat", siblings=["dog"])
    probe = all_rows(tiny, ["a dog and a cat"])
    there, back = (shift(tiny, uce().erase(tiny, pair, context()), probe) for pair in ([dog, cat], [cat, dog]))
    assert torch.allclose(there, back, atol=1e-5) and there.abs().max() > 1e-3


def test_wordings_with_other_things_need_such_things(tiny, concept):
    method = uce(templates=["{name}", "a {name} {other}"], guide="{sibling}")
    assert method.worded("dog", concept()) == ["dog", "a dog car", "a dog apple"]
    assert "`others`" in method.supports(tiny.spec, [concept(others=[])])
    assert "`siblings`" in method.supports(tiny.spec, [concept(siblings=[])])


@pytest.mark.parametrize("name", ["uce", "uce_lasttoken", "uce_emoji"])
def test_merge_and_hook_draw_the_same_pictures(tiny, concept, context, sampler, name):
    method = build("method", name)
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


@pytest.mark.parametrize("over", [{"rows": "first"}, {"form": "lora"}, {"preserve": ["friends"]}, {"templates": []}])
def test_bad_settings_are_named(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}"):
        uce(**over)
