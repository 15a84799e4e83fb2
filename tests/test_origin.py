"""Weights as they were loaded: what a plugin changed is put back from the file, and a second model shares nothing that is written."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from conftest import tiny_spec
from safetensors.torch import load_file, save_file

from vestige.bench.contract.types import Erasure
from vestige.bench.models import loading
from vestige.bench.models.diffusion import choose_parameters, frozen_copy, make_trainable
from vestige.bench.models.families import family
from vestige.bench.models.origin import Origin, Saved

KEYS = r"attn2\.to_k\.weight$"


def saved_model(folder: Path, dtype: torch.dtype) -> Path:
    from diffusers import StableDiffusionPipeline

    parts, tokenizers, scheduler, _ = family("sd1").tiny()
    whole = StableDiffusionPipeline(
        **parts, tokenizer=tokenizers[0], scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    whole.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return saved_model(tmp_path / "model", torch.float32)


def opened(folder: Path | None):
    """A pipe that knows its origin; without a folder a random one, which has no file."""
    spec = tiny_spec() if folder is None else dataclasses.replace(tiny_spec(), repo=str(folder))
    pipe = loading.load(spec)
    pipe.origin = Origin(pipe)
    return pipe


def weights_of(pipe) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in pipe.named_parameters()}


def equal(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def lies_in(tensor: torch.Tensor, file: Path) -> bool:
    """Its memory is a map of the file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(file)):
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            if begin <= tensor.data_ptr() < end:
                return True
    return False


def test_only_what_changed_is_read_again_and_written(folder, monkeypatch):
    pipe, asked, read = opened(folder), Origin.tensor, []
    before, places = weights_of(pipe), {name: p.data_ptr() for name, p in pipe.named_parameters()}
    monkeypatch.setattr(Origin, "tensor", lambda self, name: read.append(name) or asked(self, name))
    with pipe.preserved():
        pipe.parameter("unet.conv_in.weight").data.mul_(2)  # past every counter of torch
        make_trainable({"k": pipe.parameter("unet.conv_out.bias")})[0].data[0] += 1
        table = pipe.parameter("text_encoder.embeddings.token_embedding.weight").data
        table[[5, 6]] = table[[6, 5]]  # rows that change places
    assert sorted(read) == sorted(["unet.conv_in.weight", "unet.conv_out.bias", "text_encoder.embeddings.token_embedding.weight"])
    assert equal(weights_of(pipe), before) and not any(p.requires_grad for _, p in pipe.named_parameters())
    assert {name: p.data_ptr() for name, p in pipe.named_parameters()} == places


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_of_a_model_with_files_is_copied(tmp_path, dtype):
    """Also where the file has another dtype than the model in memory."""
    pipe = opened(saved_model(tmp_path, dtype))
    assert not pipe.origin.kept and not Saved(pipe).copies and len(pipe.origin.places) == len(list(pipe.named_parameters()))
    name = "unet.conv_in.weight"
    with pipe.replaced({name: torch.ones_like(pipe.parameter(name))}):
        assert list(Saved(pipe).copies) == [name], "an attached erasure is in no file of the model"


def test_what_an_erasure_attached_is_preserved_inside_and_leaves_with_it(folder):
    pipe, name = opened(folder), "unet.conv_in.weight"
    before = weights_of(pipe)
    with pipe.replaced({name: torch.ones_like(pipe.parameter(name))}):
        with pipe.preserved():
            pipe.parameter(name).data.zero_()
            pipe.parameter("unet.conv_out.weight").data.zero_()
        assert torch.equal(pipe.parameter(name), torch.ones_like(before[name]))
    assert equal(weights_of(pipe), before)


def test_replacing_writes_neither_to_the_models_own_tensors_nor_to_the_erasures(folder):
    pipe, name = opened(folder), "unet.conv_in.weight"
    own, given = pipe.parameter(name).detach(), torch.ones_like(pipe.parameter(name))
    before = own.clone()
    with pipe.replaced({name: given}):
        assert torch.equal(own, before)
        pipe.parameter(name).data.zero_()
    assert torch.equal(given, torch.ones_like(given)) and pipe.parameter(name).data_ptr() == own.data_ptr()


def test_weights_that_no_file_holds_under_their_name_are_kept_and_come_back(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    pipe = loading.load(dataclasses.replace(tiny_spec(), repo=str(folder)))
    stored = load_file(file)
    # The first is there under another name, the second with another shape, the third with another content.
    stored["old.name"] = stored.pop("conv_in.weight")
    stored["conv_out.weight"] = stored["conv_out.weight"].flatten()
    stored["conv_out.bias"] = stored["conv_out.bias"] + 1
    save_file({name: tensor.clone() for name, tensor in stored.items()}, folder / "new")
    os.replace(folder / "new", file)
    pipe.origin, before = Origin(pipe), weights_of(pipe)
    assert sorted(pipe.origin.kept) == ["unet.conv_in.weight", "unet.conv_out.bias", "unet.conv_out.weight"]
    with pipe.preserved():
        for name in [*pipe.origin.kept, "unet.conv_norm_out.weight"]:
            pipe.parameter(name).data.zero_()
    assert equal(weights_of(pipe), before) and equal(weights_of(pipe.origin.pipe()), before)


def test_a_new_file_under_the_old_name_is_not_taken_for_the_one_that_was_loaded(folder):
    pipe = opened(folder)
    before, file = weights_of(pipe), folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, folder / "new")
    os.replace(folder / "new", file)
    with pipe.preserved():
        pipe.parameter("unet.conv_in.weight").data.zero_()
    assert equal(weights_of(pipe), before) and equal(weights_of(pipe.origin.pipe()), before)


@pytest.mark.parametrize("files", [True, False])
def test_a_second_pipe_draws_the_same_and_sees_nothing_that_is_done_to_the_first(folder, files, sampler):
    pipe = opened(folder if files else None)
    wanted = pipe(["a dog"], [0], sampler).pixels
    with pipe.hooked({"unet.conv_in": lambda *_: None}), pipe.preserved():
        for _, p in pipe.named_parameters():
            p.data.zero_()
        twin = pipe.origin.pipe()  # made while the first is at its worst
        assert torch.equal(twin(["a dog"], [0], sampler).pixels, wanted) and twin.counts["images"] == 1
        twin.parameter("unet.conv_in.weight").data.zero_()
        assert twin.origin.changed(twin) == "unet.conv_in.weight"
    assert pipe.origin.changed(pipe) is None and torch.equal(pipe(["a dog"], [0], sampler).pixels, wanted)
    assert torch.equal(pipe.origin.pipe()(["a dog"], [0], sampler).pixels, wanted), "nor does a third"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are read from /proc")
def test_weights_and_artefacts_on_a_cpu_are_maps_of_their_files(folder, tmp_path):
    pipe = opened(folder)
    for one in (pipe, pipe.origin.pipe()):
        for part, file in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
            file = folder / part / f"{file}.safetensors"
            assert all(lies_in(p, file) for p in one.parts[part].parameters()), part
    Erasure({"unet.conv_in.weight": torch.ones(1 << 16)}).save(tmp_path)
    (tensor,) = Erasure.load(tmp_path).tensors.values()
    assert lies_in(tensor, tmp_path / "tensors.safetensors")


@pytest.mark.parametrize("where", ["weight", "hook", "filter", "word"])
def test_what_is_left_changed_is_named(tiny, where):
    origin = Origin(tiny)
    assert origin.changed(tiny) is None
    if where == "weight":
        tiny.parameter("vae.decoder.conv_in.bias").data[0] = 1
    elif where == "hook":
        tiny.module("unet.conv_in").register_forward_hook(lambda *_: None)
    elif where == "filter":
        tiny.filters.append(lambda images: (images, []))
    else:
        tiny.text.words["<new>"] = torch.zeros(1, 32)
    assert origin.changed(tiny) == ("vae.decoder.conv_in.bias" if where == "weight" else "a hook, a module, a rule or a word")


def test_hooks_that_transformers_leaves_on_first_use_are_no_change():
    pipe = loading.load(tiny_spec("sdxl"))
    origin, before = Origin(pipe), pipe.fingerprint()
    pipe.encode(["a dog"])
    assert origin.changed(pipe) is None and pipe.fingerprint() == before
    with pipe.hooked({"text_encoder": lambda *_: None}):
        assert origin.changed(pipe) and pipe.fingerprint() != before


# Teachers


def test_a_teacher_shares_what_is_not_trained_and_sees_no_training(tiny):
    chosen = choose_parameters(tiny.denoiser, KEYS)
    teacher = frozen_copy(tiny.denoiser, chosen.values())
    before, theirs = {name: p.detach().clone() for name, p in chosen.items()}, dict(teacher.named_parameters())
    optimiser = torch.optim.Adam(make_trainable(chosen), lr=0.1)
    sum(p.sum() for p in chosen.values()).backward()
    optimiser.step()
    for name, p in tiny.denoiser.named_parameters():
        if name in chosen:
            assert torch.equal(theirs[name], before[name]) and not torch.equal(p, before[name])
        else:
            assert theirs[name].data_ptr() == p.data_ptr()
        assert not theirs[name].requires_grad and theirs[name].grad is None


def test_a_teacher_that_shares_everything_keeps_its_weights_while_others_are_attached(tiny):
    teacher, name = frozen_copy(tiny.denoiser, changing=[]), "unet.conv_in.weight"
    before = tiny.parameter(name).detach().clone()
    with tiny.replaced({name: torch.zeros_like(before)}):
        tiny.parameter(name).data += 1
        assert torch.equal(teacher.get_parameter("conv_in.weight"), before)


def test_a_teacher_of_which_nothing_is_said_shares_nothing(tiny):
    teacher = dict(frozen_copy(tiny.denoiser).named_parameters())
    assert not any(teacher[name].data_ptr() == p.data_ptr() for name, p in tiny.denoiser.named_parameters())
