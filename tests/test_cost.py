"""What a step costs: loading is no part of it, nor what is made for all jobs; memory is a true peak, also from the second job on."""

import time
from dataclasses import dataclass, replace

import pytest
import torch

from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Erasure
from vestige.bench.models import loading
from vestige.bench.places import CONF
from vestige.bench.run import composing, cost, generate, record, resolvers, runner
from vestige.bench.run.cost import Clock, peak_memory
from vestige.bench.run.stages import Stages


def busy(seconds: float) -> None:
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass


def test_a_clock_stands_still_while_something_is_loaded_also_inside_another_stop():
    clock = Clock()
    begun = clock.read()
    with clock.stopped():
        busy(0.1)
        with clock.stopped():
            busy(0.1)
    busy(0.05)
    spent = {name: value - begun[name] for name, value in clock.read().items()}
    assert 0.04 < spent["cpu_seconds"] < 0.09 and spent["seconds"] >= 0.04
    assert time.perf_counter() - begun["seconds"] - spent["seconds"] >= 0.2, "what was left out is all of the stops"


def test_processor_seconds_are_not_those_of_other_programs():
    clock = Clock()
    begun = clock.read()
    time.sleep(0.3)  # as if another program had the processor
    spent = {name: value - begun[name] for name, value in clock.read().items()}
    assert spent["seconds"] >= 0.3 and spent["cpu_seconds"] < 0.1


def test_peak_memory_is_that_of_the_step_and_the_same_the_second_time():
    size = 200 * 2**20
    found = []
    for _ in range(3):
        with peak_memory("cpu") as peak:
            held = torch.ones(size // 4)
            time.sleep(0.02)
            del held
        found.append(peak.bytes)
    assert all(0.95 * size < each < 1.3 * size for each in found), found
    with peak_memory("cpu") as nothing:
        time.sleep(0.02)
    assert nothing.bytes < 0.1 * size and nothing.kind == "resident memory above the loaded model"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu_is_above_the_loaded_model_too():
    loaded = torch.ones(2**26, device="cuda")
    for _ in range(2):
        with peak_memory("cuda") as peak:
            torch.ones(2**24, device="cuda").sum()
        assert peak.bytes == 2**26 and peak.kind.startswith("GPU")
    assert len(loaded)


def test_the_load_of_the_machine_is_told():
    assert cost.load() >= 0


def job(place, *words):
    from hydra import compose, initialize_config_dir

    resolvers.register_resolvers()
    settings = ["model=tiny", "concept=[dog]", "split=[target]", "split.target.rows=2", "split.target.repeats=1", "model.sampler.steps=2"]
    settings += ["until=generate", f"runtime.store={place}/store", f"runtime.records={place}/records"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composing.build_job(compose("run", [*settings, *words]))


@pytest.fixture
def slow_loading(monkeypatch):
    honest = loading.load

    def load(*of):
        busy(0.5)
        return honest(*of)

    monkeypatch.setattr(loading, "load", load)


def test_an_eraser_that_computes_nothing_costs_nothing_however_slow_the_model_loads(tmp_path, slow_loading):
    made = runner.run_job(job(tmp_path, "method=sld"))["cost"]
    assert made["erase_forward_rows"] == 0 and made["erase_cpu_seconds"] < 0.02
    assert made["erase_wall_seconds"] == made["erase_seconds"] and made["erase_device_seconds"] is None
    assert made["erase_peak_kind"] == "resident memory above the loaded model" and made["load"] is not None


@dataclass
class Asking(Method):
    """Asks the denoiser of both models for three rows, and for images of the original, which are shared material."""

    def erase(self, pipe, concepts, ctx):
        for asked in (pipe, ctx.original()):
            with torch.no_grad():
                asked.predict(asked.noise([1, 2, 3], 16, 16), 5, asked.encode(["a dog"] * 3))
        ctx.generate(["a cat"], 1)
        return Erasure({"unet.conv_out.weight": pipe.parameter("unet.conv_out.weight") * 0.5})


def test_rows_are_counted_on_both_models_and_shared_images_are_nobodys(tmp_path, slow_loading, monkeypatch):
    whole = runner.run_job(replace(job(tmp_path, "method=original"), method=Asking()))
    assert whole["error"] is None
    made = whole["cost"]
    assert made["erase_forward_rows"] == 6 and made["erase_cpu_seconds"] < 0.5, made  # loading takes 0.5 a model


def test_what_an_image_costs_is_counted_and_timed_without_loading(tmp_path, slow_loading):
    stages = Stages(job(tmp_path, "method=original"))
    split = stages.job.splits["target"]
    drawn = stages.images(stages.job.prompts_of(split), stages.job.sampler)
    made = record.speed([drawn])
    assert made["rows_per_image"] == 2 * 2, "two steps, with and without the prompt"
    assert 0 < made["cpu_seconds_per_image"] < 0.4 and 0 < made["seconds_per_image"] < 0.4


def test_images_that_a_killed_process_drew_do_not_make_the_rest_look_fast(tmp_path, monkeypatch):
    wanted, honest, calls = job(tmp_path, "method=original", "runtime.batch_size=1"), generate._write_png, []

    def dies(file, pixels):
        calls.append(file)
        if len(calls) == 2:
            raise KeyboardInterrupt
        honest(file, pixels)

    monkeypatch.setattr(generate, "_write_png", dies)
    stages = Stages(wanted)
    asked = wanted.prompts_of(wanted.splits["target"])
    with pytest.raises(KeyboardInterrupt):
        stages.images(asked, wanted.sampler)
    again = Stages(wanted)
    drawn = again.images(asked, wanted.sampler)
    assert drawn.meta["facts"]["images"] == 2 and drawn.meta["facts"]["timed"]["images"] == 1
    assert record.speed([drawn])["rows_per_image"] == 4
