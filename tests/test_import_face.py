"""What a notebook gets from `import vestige`."""

import shutil
import subprocess
import sys

import pytest
import torch

import vestige
from vestige.bench.places import CHECKOUT


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "results"))


def python(code: str, cwd, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, env=environment or None)


def test_importing_vestige_imports_nothing_heavy():
    heavy = ("torch", "pandas", "numpy", "hydra", "diffusers")
    done = python(f"import sys, vestige; print([name for name in {heavy} if name in sys.modules])", CHECKOUT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_name_of_the_face_is_there():
    assert all(callable(getattr(vestige, name)) for name in vestige.__all__)


@pytest.mark.slow
def test_a_notebook_and_the_command_line_share_one_erasure(tmp_path):
    (record,) = vestige.run(["model=tiny", "method=uce", "concept=dog", "until=erase"])
    pipe = vestige.load("tiny")
    erased = vestige.erase(pipe, "dog", method="uce")
    stages = list((tmp_path / "results/store/erase").glob("UCE-*"))
    assert len(stages) == 1 and record["stages"]["erase"]["key"] in stages[0].name
    assert pipe.counts["forward_rows"] == 0, "the store had it"
    clean = vestige.draw(pipe, ["a photo of a dog"])
    with erased.attached(pipe) as model:
        assert not torch.equal(vestige.draw(model, ["a photo of a dog"]), clean)
    assert torch.equal(vestige.draw(pipe, ["a photo of a dog"]), clean)


def test_images_of_ones_own_are_scored_alike_as_tensor_and_as_folder(tmp_path):
    from PIL import Image

    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for number, pixels in enumerate(images):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    of_tensor, of_folder = vestige.score(images, "dog"), vestige.score(tmp_path, "dog")
    assert of_tensor.totals == of_folder.totals and list(of_folder.per_image["row_id"]) == ["0", "1", "2"]
    same = vestige.score(images, "dog", metric="lpips_emoji", originals=images)
    assert all(value == 0 for name, value in same.totals.items() if name.startswith("lpips"))


def test_results_are_the_frame_that_tables_are_made_of(places, tmp_path):
    frame = vestige.results(tmp_path)
    assert set(frame["method"]) >= {"original", "good", "blunt"}
    good = frame[(frame["method"] == "good") & (frame["split"] == "target") & (frame["attack"] == "none")]
    assert list(good["value"]) == [0.1, 0.1] and (good["diff"] < 0).all(), "paired with the original's images"


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda tmp: vestige.score(tmp, "dog"), "no PNG or JPEG"),
        (lambda tmp: vestige.score(tmp / "none", "dog"), "is no folder"),
        (lambda tmp: vestige.score(torch.zeros(3, 8, 8), "dog"), "uint8"),
        (lambda tmp: vestige.score(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "dog", prompts=["a"]), "1 prompts but 2 images"),
        (lambda tmp: vestige.score(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "dog", "lpips_emoji"), "originals="),
        (lambda tmp: vestige.load("emojy"), "Did you mean emoji"),
        (lambda tmp: vestige.load("tiny", ["model.colour=1"]), "colour"),
        (lambda tmp: vestige.run(["model=tiny", "method=original", "seed=many"]), "many"),
        (lambda tmp: vestige.run(["metod=uce"]), "metod"),
        (lambda tmp: vestige.results(tmp), "there are no records"),
    ],
)
def test_a_mistake_is_a_value_error_with_a_sentence(call, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        call(tmp_path)


def test_a_checkout_without_links_imports(tmp_path):
    """Where git cannot make links it writes text files in their place."""
    for name in ("bench", "conf"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("weights", "sprites", "__pycache__"))
    (tmp_path / "vestige").mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(CHECKOUT / "vestige" / name, tmp_path / "vestige" / name)
    (tmp_path / "vestige/bench").write_text("../bench")
    done = python("import vestige.bench.places as p; print(p.CONF)", tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == str(tmp_path / "conf"), done.stderr
