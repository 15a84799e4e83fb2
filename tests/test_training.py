"""The world's training loop and its optimiser."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vestige.bench.world.training import fit as fitting
from vestige.bench.world.training.fit import Schedule, fit
from vestige.bench.world.training.muon import Muon, orthogonal

SCHEDULE = Schedule("toy", steps=6, lr=1e-2, matrix_lr=0.05, warmup=2, ema=0.5)


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_muon_directions_have_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 2 * torch.linalg.svdvals(matrix).min() or shape != (8, 8)


def test_muon_solves_an_ill_conditioned_problem_that_gradient_descent_does_not():
    scales = torch.logspace(0, -2, 8)
    target = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))

    def error_after(optimiser_of):
        weight = nn.Parameter(torch.zeros(8, 8))
        optimiser = optimiser_of(weight)
        for _ in range(200):
            optimiser.zero_grad()
            (((weight - target) * scales).square().sum()).backward()
            optimiser.step()
        return (weight - target).norm().item()

    descent = error_after(lambda w: torch.optim.SGD([w], lr=0.4))
    assert error_after(lambda w: Muon([w], lr=0.05)) < 0.3 * descent


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 1))


def loss_of(model):
    def loss_at(step, generator):
        x = torch.randn(5, 1, 4, 4, generator=generator)
        return (model(x).flatten() - x.sum((1, 2, 3))).square().mean()

    return loss_at


def test_matrices_go_to_muon_and_vectors_to_adamw():
    kinds = {type(o).__name__: [p.ndim for g in o.param_groups for p in g["params"]] for o in SCHEDULE.optimisers(toy())}
    assert kinds == {"AdamW": [1, 1], "Muon": [4, 2]}
    assert [type(o).__name__ for o in replace(SCHEDULE, matrix_lr=None).optimisers(toy())] == ["AdamW"]


def test_a_killed_training_ends_like_one_that_was_not(tmp_path, monkeypatch):
    straight, broken = toy(), toy()
    fit(straight, loss_of(straight), SCHEDULE, tmp_path / "straight")
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0)

    def dies(step, generator):
        if step == 3:
            raise KeyboardInterrupt
        return loss_of(broken)(step, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(broken, dies, SCHEDULE, tmp_path / "broken")
    resumed = toy()
    fit(resumed, loss_of(resumed), SCHEDULE, tmp_path / "broken")
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another training"):
        fit(toy(), loss_of(resumed), replace(SCHEDULE, steps=7), tmp_path / "broken")
