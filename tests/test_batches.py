"""Batches that do not fit into memory are halved, and the stage says so; batches that fit are never cut."""

from dataclasses import replace

import pytest
import torch
from test_reruns import job

from vestige.bench.contract import batches
from vestige.bench.contract.plugin import Victim
from vestige.bench.judges.asking import AskingJudge
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models.pipe import Pipe
from vestige.bench.run import generate
from vestige.bench.run.stages import Stages
from vestige.bench.vision import features
from vestige.methods.original import Original

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def small(most: int, compute, error=GPU):
    """`compute` on a machine whose memory holds `most` rows, and the rows of every try."""
    tried = []

    def fits(part):
        tried.append(len(part))
        if len(part) > most:
            raise error
        return compute(part)

    return fits, tried


@pytest.mark.parametrize("error", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_that_follow(error, capsys):
    fits, tried = small(3, list, error)
    with batches.noted() as backed_off:
        got = list(batches.in_batches([list(range(8)), list(range(8, 13))], fits, "rows"))
    assert [row for part, result in got for row in result] == list(range(13)) and all(part == result for part, result in got)
    assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 1] and backed_off == {"rows": 2}
    assert capsys.readouterr().err.count("do not fit into memory") == 2


def test_what_fits_is_never_cut(capsys):
    fits, tried = small(8, list)
    with batches.noted() as backed_off:
        list(batches.in_batches([list(range(8)), [8]], fits, "rows"))
    assert tried == [8, 1] and backed_off == {} and capsys.readouterr().err == ""


def test_one_kind_of_work_does_not_cut_another():
    with batches.noted() as backed_off:
        list(batches.in_batches([[1, 2]], small(1, list)[0], "images"))
        fits, tried = small(9, list)
        list(batches.in_batches([[1, 2]], fits, "features"))
    assert tried == [2] and backed_off == {"images": 1}


def test_a_single_row_and_other_errors_are_raised():
    with pytest.raises(torch.OutOfMemoryError):
        list(batches.in_batches([[1, 2]], small(0, list)[0], "rows"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(batches.in_batches([[1, 2]], small(1, list, RuntimeError("mat1 and mat2 shapes"))[0], "rows"))


def test_torchs_own_words_for_too_little_memory_are_known():
    with pytest.raises(RuntimeError) as lack:
        torch.empty(10**15)
    assert batches._out_of_memory(lack.value)


def little_memory(monkeypatch, most: int) -> list[int]:
    """The model's memory holds `most` images from now on; it notices when it decodes."""
    tried, whole = [], Pipe.decode

    def decode(pipe, latents):
        tried.append(len(latents))
        if len(latents) > most:
            raise GPU
        return whole(pipe, latents)

    monkeypatch.setattr(Pipe, "decode", decode)
    return tried


def test_a_set_that_does_not_fit_is_drawn_in_halves_and_what_failed_is_not_counted(tiny, prompts, sampler, tmp_path, monkeypatch):
    apart = generate.draw(tiny, prompts(6), sampler, tmp_path / "apart", 2)
    before = dict(tiny.counts)
    tried = little_memory(monkeypatch, 2)
    halved = generate.draw(tiny, prompts(6), sampler, tmp_path / "halved", 4)
    assert tried == [4, 2, 2, 2]
    assert halved.index["sha256"].tolist() == apart.index["sha256"].tolist(), "the parts are batches like any other"
    assert {name: tiny.counts[name] - before[name] for name in before} == {"images": 6, "forward_rows": 6 * 2 * sampler.steps}


def test_a_victim_draws_no_more_than_its_batch_size_at_once(tiny, prompts, sampler, concept, monkeypatch):
    victim = Victim(tiny, [concept()], Original(), sampler, None)
    whole = victim.images(prompts(5))
    tried = little_memory(monkeypatch, 9)
    assert torch.equal(victim.images(prompts(5)), whole) and tried == [5], "32 and fewer are one batch"
    drawn = replace(victim, batch_size=2).drawn(prompts(5))
    assert tried[1:] == [2, 2, 1] and len(drawn.status) == len(drawn.pixels) == 5
    assert (drawn.pixels.float() - whole.float()).abs().max() <= 1, "up to rounding"


def test_judges_and_features_answer_in_halves(monkeypatch, tmp_path):
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)

    def logits(part):
        return {"object": torch.stack([part.float().mean((1, 2, 3)), torch.full((len(part),), 128.0)], 1)}

    fits, tried = small(2, logits)
    whole, halved = (PresenceJudge(answer, {"object": ["a", "b"]}, "j") for answer in (logits, fits))
    assert torch.equal(halved.shares(images)["object"], whole.shares(images)["object"]) and tried == [4, 2, 2]
    asks, tried = small(2, lambda part: (part.float().mean((1, 2, 3)) > 127, part.float().mean((1, 2, 3)) / 255))
    verdict = AskingJudge(lambda part, what: asks(part), "j")(images, ["a"] * 4, [1] * 4)
    assert torch.allclose(verdict.probability, images.float().mean((1, 2, 3)) / 255) and tried == [4, 2, 2]
    fits, tried = small(2, lambda part: part.float().flatten(1))
    monkeypatch.setattr(features, "_extractor", lambda name: fits)
    assert torch.equal(features.of_pixels(images, "x"), images.float().flatten(1)) and tried == [4, 2, 2]


def test_a_stage_says_that_its_batches_were_halved(tmp_path, monkeypatch):
    of = job(tmp_path, "split.target.rows=4")
    (split,) = of.splits.values()
    plain = Stages(of).images(of.prompts_of(split), of.sampler)
    assert "batch_backed_off" not in plain.meta["facts"]
    little_memory(monkeypatch, 2)
    of = job(tmp_path / "halved", "split.target.rows=4")
    stage = Stages(of).images(of.prompts_of(split), of.sampler)
    assert stage.meta["facts"]["batch_backed_off"] == {"images": 2} and stage.key == plain.key
