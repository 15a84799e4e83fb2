"""FID, KID and CMMD against closed forms."""

import pytest
import torch

from metrics.distances import Fid, cmmd, fid, kid


@pytest.fixture
def two():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 8, generator=generator), torch.randn(60, 8, generator=generator) * 2 + 1


def test_fid_of_a_set_with_itself_is_zero(two):
    assert abs(fid(two[0], two[0])) < 1e-9


def test_fid_of_a_shifted_and_scaled_set_is_the_closed_form(two):
    a, shift = two[0].double(), torch.full((8,), 0.5).double()
    spread = float((a - a.mean(0)).square().sum() / (len(a) - 1))
    b = 3 * (a - a.mean(0)) + a.mean(0) + shift
    # C_b = 9 C_a, so the trace term is (1 + 9 - 2 * 3) tr C_a
    assert fid(a, b) == pytest.approx(float(shift.square().sum()) + 4 * spread, rel=1e-9)


def test_fid_agrees_with_the_eigenvalue_formula_when_pictures_are_few(two):
    a, b = (x[:5].double() for x in two)
    values = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp_min(0).sqrt().sum()
    want = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * values
    assert fid(a, b) == pytest.approx(float(want), abs=1e-4)


@pytest.mark.parametrize("distance", [fid, kid, lambda a, b: cmmd(a, b, 10.0)])
def test_distances_ignore_order_are_symmetric_and_grow_with_difference(distance, two):
    a, b = two
    shuffled = b[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    assert distance(a, b) == pytest.approx(distance(a, shuffled), rel=1e-8)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-8)
    assert distance(a, b) > distance(a[:30], a[30:])


def test_kid_is_unbiased_around_zero_for_one_distribution():
    generator = torch.Generator().manual_seed(2)
    values = torch.tensor([kid(*torch.randn(2, 20, 4, generator=generator)) for _ in range(300)])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert values.min() < 0


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="original, real"):
        Fid("clip_emoji", "genuine")
