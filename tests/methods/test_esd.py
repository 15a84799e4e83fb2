"""ESD: the algebra of its target, which weights move, and that training goes where the target points."""

import pytest
import torch
from published_shapes import stable_diffusion_1, stable_diffusion_xl
from torch.nn.functional import mse_loss

from vestige.bench.contract.types import Erasure
from vestige.bench.models.diffusion import frozen_copy, partial_denoise
from vestige.bench.run.contract_checks import build, quick
from vestige.methods.esd import ESD, trained_parameters

NUMBERS = {
    "train": "xattn",
    "prompt": "{name}",
    "form": "paper",
    "erase_from": None,
    "eta": 1.0,
    "sampling": "student",
    "start_guidance": 3.0,
    "timestep_alignment": "exact",
    "bins": 4,
    "iterations": 3,
    "batch": 1,
    "optimiser": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
}


def esd(**over) -> ESD:
    return ESD(**{**NUMBERS, **over})


@pytest.fixture
def question(tiny):
    """x, t, c and null for the loss of two rows."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, torch.tensor(400), tiny.encode(["dog", "cat"]), tiny.encode(["", ""])


def loss(pipe, question, **over):
    x, t, c, null = question
    return esd(**over).loss(pipe, frozen_copy(pipe.denoiser), x, t, c, null, c)


def test_at_the_start_the_loss_is_the_distance_between_concept_and_empty_prompt(tiny, question):
    x, t, c, null = question
    with torch.no_grad():
        gap = mse_loss(tiny.predict(x, t, c), tiny.predict(x, t, null))
        assert gap > 1e-8
        assert torch.allclose(loss(tiny, question, eta=0.0), gap)
        assert torch.allclose(loss(tiny, question, eta=1.0), 4 * gap)


def test_eta_minus_one_asks_for_no_change(tiny, question):
    with torch.no_grad():
        assert loss(tiny, question, eta=-1.0) < 1e-12 < loss(tiny, question, eta=-0.9)


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_the_released_form_without_erase_from_equals_the_paper(tiny, question, eta):
    with torch.no_grad():
        assert torch.allclose(loss(tiny, question, eta=eta, form="released"), loss(tiny, question, eta=eta), rtol=1e-4)


def test_erase_from_moves_the_prediction_of_the_other_prompt(tiny, question):
    x, t, c, null = question
    with torch.no_grad():
        source = tiny.encode(["a photo of a farm"] * 2)
        here = esd(form="released", eta=1.0).loss(tiny, frozen_copy(tiny.denoiser), x, t, c, null, source)
        assert torch.allclose(here, 4 * mse_loss(tiny.predict(x, t, c), tiny.predict(x, t, null)), rtol=1e-4)


def test_only_the_chosen_weights_differ_and_the_artefact_rebuilds_the_student_exactly(tiny, concept, context, question, tmp_path):
    x, t, c, _ = question
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    chosen = {f"unet.{name}" for name in trained_parameters(tiny, "xattn")}
    with tiny.preserved():
        erasure = esd(iterations=1).erase(tiny, [concept()], context())
        with torch.no_grad():
            student = tiny.predict(x, t, c)
        changed = {name for name, p in tiny.named_parameters() if not torch.equal(p, before[name])}
    assert changed == chosen == set(erasure.tensors)
    erasure.save(tmp_path / "artefact")
    with torch.no_grad(), esd().attach(tiny, Erasure.load(tmp_path / "artefact")):
        assert torch.equal(tiny.predict(x, t, c), student)


def test_training_moves_the_prediction_towards_the_opposite_of_the_concept(tiny, concept, context, question):
    x, t, c, null = question
    c, null, x = c.rows([0]), null.rows([0]), x[:1]
    with torch.no_grad():
        e_null, e_c = tiny.predict(x, t, null), tiny.predict(x, t, c)
    target = 2 * e_null - e_c
    method = esd(iterations=40, batch=4, lr=3e-4)
    ctx = context()
    with tiny.preserved():
        method.erase(tiny, [concept()], ctx)
        with torch.no_grad():
            e_student = tiny.predict(x, t, c)
    assert mse_loss(e_student, target) < 0.5 * mse_loss(e_c, target)
    losses = [row["loss"] for row in ctx.history]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_student_and_frozen_sampling_differ_once_weights_have_moved(tiny, concept, context):
    def tensors(sampling):
        with tiny.preserved():
            return esd(sampling=sampling, iterations=3, lr=1e-2).erase(tiny, [concept()], context()).tensors

    student, again, frozen = tensors("student"), tensors("student"), tensors("frozen")
    assert all(torch.equal(student[name], again[name]) for name in student)
    assert any(not torch.equal(student[name], frozen[name]) for name in student)


def test_alignment_of_the_latent_and_the_training_timestep(tiny, monkeypatch):
    """Bin 10 of 50: legacy leaves the last denoised step at 181 (noise level 161) and trains in 200..219; exact agrees."""
    visited = []
    predict = tiny.predict

    def watch(x, t, cond, module=None):
        visited.append(int(t))
        return predict(x, t, cond, module)

    monkeypatch.setattr(tiny, "predict", watch)
    with torch.no_grad():
        cond = tiny.encode(["dog"])
    ask = {"bin": 10, "bins": 50, "guidance": 1.0, "generator": torch.Generator().manual_seed(0)}
    _, t = partial_denoise(tiny, cond, alignment="legacy", **ask)
    assert (visited[0], visited[-1], len(visited)) == (961, 181, 40) and 200 <= int(t) <= 219
    visited.clear()
    _, t = partial_denoise(tiny, cond, alignment="exact", **ask)
    assert (visited[0], visited[-1] - 20) == (981, int(t))


@pytest.mark.parametrize(
    "train, tensors, parameters",
    [
        ("xattn", 80, 43_962_560),
        ("xattn_strict", 32, 19_169_280),
        ("noxattn", 598, 813_495_680),
        ("noxattn_released", 388, 815_358_084),
        ("selfattn", 80, 49_574_080),
        ("notime", 678, 857_458_240),
        ("full", 686, 859_520_964),
    ],
)
def test_groups_have_the_published_sizes_on_stable_diffusion_1(sd1, train, tensors, parameters):
    chosen = trained_parameters(sd1, train)
    assert (len(chosen), sum(p.numel() for p in chosen.values())) == (tensors, parameters)


def test_on_stable_diffusion_xl_the_release_trains_layers_of_blocks_without_their_time_projections():
    chosen = trained_parameters(stable_diffusion_xl(), "noxattn_released")
    assert (len(chosen), sum(p.numel() for p in chosen.values())) == (772, 1_996_259_200)


@pytest.fixture(scope="module")
def sd1():
    return stable_diffusion_1()


@pytest.mark.parametrize("over", [{"train": "xatn"}, {"form": "new"}, {"sampling": "teacher"}, {"optimiser": "sgd"}])
def test_unknown_choices_are_named_with_what_is_allowed(over):
    with pytest.raises(ValueError, match=f"method.{next(iter(over))}=.*Allowed"):
        esd(**over)


def test_erase_from_needs_the_released_form():
    with pytest.raises(ValueError, match=r"method\.form=released"):
        esd(erase_from="farm")


def test_half_precision_is_refused_with_a_reason(tiny):
    import dataclasses

    assert "model.dtype=float32" in esd().supports(dataclasses.replace(tiny.spec, dtype="float16"), [])


@pytest.mark.parametrize(
    "name, model, train",
    [("esd", "tiny", "noxattn"), ("esd_x", "tiny", "xattn"), ("esd_u", "tiny", "noxattn"), ("esd", "emoji", "noxattn")],
)
def test_yaml_chooses_weights_by_kind(name, model, train):
    method = build("method", name, model=model)
    assert method.train == train and quick(method).iterations == 2
