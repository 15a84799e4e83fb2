"""A folder of another architecture than the family says is refused, with the family that it looks like. Settings alone tell it."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import tiny_spec
from newcomer import vestige

from vestige.bench.models import loading
from vestige.bench.models.architecture import check_family
from vestige.bench.models.families import family as family_of
from vestige.bench.models.families import names
from vestige.bench.models.folders import files_missing

UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4}
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4}
WIDTH = {"sd1": 768, "sd2": 1024, "sdxl": 2048}


def of(folder: Path | str, family: str = "sd1", **changes):
    return dataclasses.replace(tiny_spec(family), repo=str(folder), **changes)


def settings_only(folder: Path, family: str, scheduler: str | None = None, **unet) -> Path:
    """A folder with the settings of a published model and no weights."""
    layout = family_of(family)
    library = {"unet": "diffusers", "vae": "diffusers", "transformer": "diffusers"}
    index = {part: [library.get(part, "transformers"), names[0]] for part, names in layout.classes.items()}
    index |= {name: ["transformers", "CLIPTokenizer"] for name in layout.tokenizers}
    kind = scheduler or ("PNDMScheduler" if layout.diffusion else "FlowMatchEulerDiscreteScheduler")
    files = {"model_index.json": {"_class_name": "Pipeline", "scheduler": ["diffusers", kind], **index}, "vae/config.json": VAE}
    files["scheduler/scheduler_config.json"] = {"_class_name": kind, "prediction_type": "v_prediction"}
    if "unet" in layout.classes:
        files["unet/config.json"] = {**UNET, "cross_attention_dim": WIDTH[family], **unet}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("family", [name for name in names() if family_of(name).library == "diffusers"])
@pytest.mark.parametrize("said", [name for name in names() if family_of(name).library == "diffusers"])
def test_a_folder_of_another_family_is_refused_with_what_to_type(tmp_path, family, said):
    folder = settings_only(tmp_path, family)
    if family == said:
        lost = files_missing(folder, family)
        assert lost, "settings alone are no model"
        with pytest.raises(ValueError, match=f"lacks {lost[0]}"):
            loading.check(of(folder, said))
    else:
        with pytest.raises(ValueError, match=rf"model\.family='{said}' does not fit .*looks like {family}: type model\.family={family},"):
            loading.check(of(folder, said))


def test_a_model_in_the_cache_of_another_family_is_refused_too(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "c" * 40
    settings_only(tmp_path / "models--org--name" / "snapshots" / commit, "sdxl")
    with pytest.raises(ValueError, match=r"type model\.family=sdxl"):
        loading.check(of("org/name", revision=commit))


@pytest.mark.parametrize(
    "unet, why",
    [
        ({"in_channels": 9}, "its unet takes 9 channels and its vae makes 4, as for inpainting"),
        ({"_class_name": "UNetMotionModel"}, "its unet is of the class UNetMotionModel"),
    ],
)
def test_a_model_that_no_family_draws_is_refused(tmp_path, unet, why):
    folder = settings_only(tmp_path, "sd1", **unet)
    with pytest.raises(ValueError, match=f"{why}.* No family of Vestige draws this Pipeline; there are flux, janus, sd1, sd2"):
        loading.check(of(folder, "sd1"))


def test_a_unet_that_was_trained_as_a_flow_is_refused_as_a_diffusion(tmp_path):
    folder = settings_only(tmp_path, "sd1", scheduler="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match="its own scheduler is a FlowMatchEulerDiscreteScheduler"):
        loading.check(of(folder, "sd1"))


def test_a_width_that_no_published_model_has_tells_nothing(tmp_path):
    folder = settings_only(tmp_path, "sd1", cross_attention_dim=32)
    check_family(folder, "sd1")
    check_family(folder, "sd2")


def test_parts_that_may_be_left_out_are_not_asked_for(tmp_path):
    folder = settings_only(tmp_path, "sd3")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}))
    check_family(folder, "sd3")
    assert not [name for name in files_missing(folder, "sd3") if "_3" in name]


def test_the_command_line_says_what_to_type_for_another_architecture(tmp_path):
    done = vestige("run", "model=tiny", "method=original", f"model.repo={settings_only(tmp_path, 'sdxl')}")
    assert done.returncode == 2 and "type model.family=sdxl" in done.stderr + done.stdout and "Traceback" not in done.stderr
