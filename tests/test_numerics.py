"""Reference and fast arithmetic: what each changes while a model computes, that it ends there, and that a table never mixes them."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec
from made_results import make_places
from test_reruns import job

from vestige.bench.models import device, loading, numerics
from vestige.bench.reports import identity
from vestige.bench.run.stages import Stages

FLAGS = (
    (torch.backends.cuda.matmul, "allow_tf32"),
    *((torch.backends.cudnn, name) for name in ("allow_tf32", "deterministic", "benchmark")),
)
REFERENCE, FAST = [False, False, True, False], [True, True, False, True]


def flags() -> list[bool]:
    return [getattr(place, name) for place, name in FLAGS]


@pytest.fixture
def fast():
    return loading.load(replace(tiny_spec(), numerics="fast"))


def during(pipe, part: str, seen: dict) -> torch.utils.hooks.RemovableHandle:
    def look(module, args, output):
        sample = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        seen.update(flags=flags(), half=torch.is_autocast_enabled("cpu"), dtype=sample.dtype)

    return pipe.module(part).register_forward_hook(look)


def drawn(pipe, sampler):
    return pipe(["a dog", "a cat"], [0, 1], sampler).pixels.float()


def test_fast_computes_the_denoiser_in_bfloat16_and_the_decoder_in_tf32(fast, sampler):
    denoiser, decoder = {}, {}
    handles = [during(fast, "unet.conv_in", denoiser), during(fast, "vae.decoder", decoder)]
    drawn(fast, sampler)
    assert denoiser == {"flags": FAST, "half": True, "dtype": torch.bfloat16}
    assert decoder == {"flags": FAST, "half": False, "dtype": torch.float32}
    assert flags() == REFERENCE, "judges and all else compute in reference arithmetic"
    for handle in handles:
        handle.remove()


def test_reference_computes_all_in_the_models_own_arithmetic(tiny, sampler):
    for place, name in FLAGS:
        setattr(place, name, not getattr(place, name))
    with device.on("cpu"):
        assert flags() == REFERENCE, "whatever was set before"
    seen = {}
    handle = during(tiny, "unet.conv_in", seen)
    drawn(tiny, sampler)
    handle.remove()
    assert seen == {"flags": REFERENCE, "half": False, "dtype": torch.float32}


def test_arithmetic_ends_with_an_error(fast):
    with pytest.raises(ZeroDivisionError), numerics.computing(fast.spec, torch.device("cpu"), half=True):
        raise ZeroDivisionError
    assert flags() == REFERENCE and not torch.is_autocast_enabled("cpu")


def test_weights_latents_and_gradients_stay_exact_in_fast(fast, tiny):
    assert fast.dtype == torch.float32
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(fast.named_parameters(), tiny.named_parameters(), strict=True))
    assert fast.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    weight = fast.parameter("unet.conv_out.weight").requires_grad_(True)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    predicted = fast.predict(x, 500, fast.encode(["a dog", "a cat"]))
    predicted.square().mean().backward()
    assert predicted.dtype == weight.grad.dtype == x.grad.dtype == torch.float32 and x.grad.abs().sum() > 0 < weight.grad.abs().sum()


def test_fast_images_differ_by_little_and_a_copy_of_its_denoiser_predicts_the_same(fast, tiny, sampler):
    apart = (drawn(fast, sampler) - drawn(tiny, sampler)).abs()
    assert 0 < apart.mean() < 2, "of 255 levels"
    x, cond = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), fast.encode(["a dog"])
    with torch.no_grad():
        assert torch.equal(fast.predict(x, 500, cond, module=copy.deepcopy(fast.denoiser)), fast.predict(x, 500, cond))


def test_reference_and_fast_results_share_no_stage(tmp_path):
    keys = [Stages(job(tmp_path, f"model.numerics={name}")).erase_spec()["model"] for name in ("reference", "fast")]
    assert keys[0] != keys[1]


def test_a_table_tells_reference_from_fast(tmp_path):
    import json

    records, _ = make_places(tmp_path)
    record = json.loads(next(iter(sorted(records.glob("*.json")))).read_text())
    other = copy.deepcopy(record)
    other["specification"]["model"]["numerics"] = "fast"
    assert [label.model for label in identity.labels([record, other])] == ["toy (reference)", "toy (fast)"]


def test_an_arithmetic_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model.tiny.numerics='deterministic' is not known. Allowed: reference, fast"):
        job(tmp_path, "model.numerics=deterministic")
