"""What a row costs is counted on every family, without computing anything."""

import pytest
import torch
from conftest import tiny_spec
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vestige.bench.models import loading
from vestige.bench.models.families import names
from vestige.bench.models.row_cost import row_cost


@pytest.mark.parametrize("family", names())
def test_a_row_is_counted_and_the_model_stays_as_it_is(family):
    pipe = loading.load(tiny_spec(family))
    before = pipe.fingerprint()
    cost = row_cost(pipe, 32, 32)
    assert cost.flops > 1e6 and cost.weight_bytes == 4 * sum(p.numel() for p in pipe.denoiser.parameters())
    assert pipe.fingerprint() == before and pipe.counts["forward_rows"] == 0


def test_four_times_the_pixels_cost_about_four_times_as_much(tiny):
    small, large = (row_cost(tiny, side, side).flops for side in (64, 128))
    assert 3 < large / small < 12, "linear layers grow by 4, attention between pixels by 16"


def test_the_count_is_that_of_a_real_call(tiny):
    cond = tiny.encode([""]).detach()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.predict(tiny.noise([1], 32, 32), 500, cond)
    assert row_cost(tiny, 32, 32).flops == counter.get_total_flops()
