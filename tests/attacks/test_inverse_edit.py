"""A closed-form edit is undone from the edited weights alone, and a projection is not."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.attacks.inverse_edit import InverseEdit, inverse
from vestige.bench.contract.plugin import Victim
from vestige.bench.run import contract_checks
from vestige.methods.original import Original

ATTACK = InverseEdit(cut=1e-5, rounds=20, tolerance=1e-5)


@pytest.mark.parametrize("name", ["uce", "time_eraser"])
@pytest.mark.parametrize("form", ["merge", "hook"])
def test_the_recovered_model_draws_the_original_models_images(tiny, concept, prompts, sampler, context, name, form):
    method = contract_checks.build("method", name)
    method.form = form
    asked, original = prompts(2), {n: p.clone() for n, p in tiny.group("cross_kv").items()}
    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]]
    clean = tiny(asked.prompts, seeds, sampler).pixels
    erasure = method.erase(tiny, [concept()], context())
    with method.attach(tiny, erasure):
        erased = tiny(asked.prompts, seeds, sampler).pixels
        found = ATTACK.attack(Victim(tiny, [concept()], method, sampler, None), asked, context("attacker"))
        with ATTACK.attach(tiny, found):
            restored = tiny(asked.prompts, seeds, sampler).pixels
    assert not torch.equal(erased, clean)
    assert (restored.int() - clean.int()).abs().max() <= 1
    assert found.meta["distance"] < 1e-5 and found.meta["directions_lost"] == 0
    if form == "merge":
        for key, weight in original.items():
            assert torch.allclose(found.tensors[f"unet.{key}"], weight, atol=1e-3)


def test_where_the_edit_depends_on_the_weights_the_nearest_candidate_is_taken(tiny, concept, prompts, sampler, context):
    method = contract_checks.build("method", "rece")
    ctx = context()
    with method.attach(tiny, method.erase(tiny, [concept()], context())):
        found = replace(ATTACK, rounds=4).attack(Victim(tiny, [concept()], method, sampler, None), prompts(1), ctx)
    distances = [entry["distance"] for entry in ctx.history]
    assert found.meta["rounds"] == len(distances) and found.meta["distance"] == min(distances)


def test_directions_that_the_edit_removed_stay_removed():
    t = torch.eye(4, dtype=torch.float64)
    t[0, 0] = 0
    assert torch.allclose(inverse(t, 1e-5), t)
    t[0, 0] = 1e-3
    assert torch.allclose(inverse(t, 1e-5) @ t, torch.eye(4, dtype=torch.float64))


def test_a_projection_is_reported_as_lost(tiny, concept, prompts, sampler, context):
    method = contract_checks.build("method", "inlp_t2i")
    with method.attach(tiny, method.erase(tiny, [concept()], context())):
        found = ATTACK.attack(Victim(tiny, [concept()], method, sampler, None), prompts(1), context())
    assert found.meta["directions_lost"] >= 1 and found.meta["condition"] > 1e5


def test_methods_that_are_no_closed_form_are_not_applicable(concept):
    assert ATTACK.supports(tiny_spec(), [concept()], contract_checks.build("method", "uce")) is None
    for method in (Original(), contract_checks.build("method", "trce")):
        assert ATTACK.supports(tiny_spec(), [concept()], method).startswith("not applicable:")


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="cut"):
        InverseEdit(cut=0.0, rounds=1, tolerance=0.1)
