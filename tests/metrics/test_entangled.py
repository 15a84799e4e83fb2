"""Entangled, our form: identity, perfect edit, edit of the wrong region, noise; masks, references and what is refused."""

import dataclasses

import pandas as pd
import pytest
import torch
from PIL import Image

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.run import contract_checks
from vestige.bench.vision.masks import background_difference
from vestige.bench.vision.perceptual import Perceptual
from vestige.bench.world.content.drawing import Spec, compose
from vestige.metrics.entangled import EntangledD, EntangledS, grown, harmonic, similarity

THINGS = ("dog", "cat", "car", "rocket")


def drawn(**over) -> torch.Tensor:
    specs = [dataclasses.replace(Spec((thing,), "noto", "white", 0, 0, (0, 0, 0), 1.0, False), **over) for thing in THINGS]
    return torch.stack([torch.from_numpy(compose(spec).copy()).permute(2, 0, 1) for spec in specs])


def blank() -> torch.Tensor:
    """The same grounds without a drawing."""
    return drawn()[:, :, :1, :1].expand(-1, -1, 64, 64).contiguous()


@pytest.fixture
def score(tmp_path, concept):
    def write(name, images):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for k, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}-0.png")
        index = pd.DataFrame({"row_id": [str(k) for k in range(len(images))], "rep": 0, "expect": "dog"})
        return ImageSet(folder, index.assign(file=[f"{k}-0.png" for k in range(len(images))]))

    def make(ours, original=None, kind=EntangledS, mask="background_difference", **more):
        context = MetricContext([concept()], lambda: write("original", drawn() if original is None else original), None)
        metric = kind("emoji", mask, 0.15, "", "", 1, 3, **more)
        return metric.score(write("ours", ours), context)

    return make


def test_a_model_that_changed_nothing_forgot_nothing(score):
    totals = score(drawn()).totals
    assert totals == {"entangled_ours_s": 0, "entangled_s_target": 0, "entangled_s_background": 1, "empty_mask": 0}


def test_a_perfect_edit_leads_and_changes_elsewhere_cost(score):
    noise = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    perfect = score(blank()).totals
    assert perfect["entangled_s_background"] > 0.999 and perfect["entangled_s_target"] > 0.8 and perfect["entangled_ours_s"] > 0.9
    everything = score(noise).totals
    assert everything["entangled_s_background"] < 0.2 and everything["entangled_ours_s"] < 0.35 and everything["entangled_s_target"] > 0.6
    ground = score(drawn(background="blue")).totals
    assert ground["entangled_s_background"] < 0.85 and ground["entangled_ours_s"] < 0.1
    other = score(drawn().flip(0)).totals  # another thing in the same place: forgotten, and nearly all around it kept
    assert everything["entangled_ours_s"] < other["entangled_ours_s"] < perfect["entangled_ours_s"]
    moved = score(drawn(dx=1)).totals
    assert moved["entangled_ours_s"] < 0.2


def test_a_swap_of_region_and_background_turns_a_perfect_edit_into_a_useless_one(score):
    inside = grown(background_difference(drawn(), 0.15), 1)
    noise = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    local, swapped = torch.where(inside[:, None], blank(), drawn()), torch.where(inside[:, None], drawn(), noise)
    assert score(local).totals["entangled_ours_s"] > 0.9
    assert score(swapped).totals["entangled_ours_s"] == 0


def test_against_a_clean_image_a_perfect_edit_has_the_full_score(score, tmp_path):
    perfect = score(blank(), kind=EntangledD, clean="background").totals
    assert perfect["entangled_d_target"] > 0.99 and perfect["entangled_d_background"] > 0.99
    nothing = score(drawn(), kind=EntangledD, clean="background").totals
    assert nothing["entangled_d_target"] < 0.3 and nothing["entangled_d_background"] > 0.99
    folder = tmp_path / "inpainted"
    folder.mkdir()
    for k, image in enumerate(blank()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}-0.png")
    same = score(blank(), kind=EntangledD, clean=str(folder))
    assert same.totals["entangled_ours_d"] == 1
    (folder / "2-0.png").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 images, first 2-0\.png"):
        score(blank(), kind=EntangledD, clean=str(folder))


def test_pairs_without_a_mask_have_no_value_and_are_counted(score):
    original = drawn()
    original[1] = original[1, :, :1, :1]
    scores = score(drawn(), original)
    assert scores.per_image["empty_mask"].tolist() == [0, 1, 0, 0] and scores.totals["empty_mask"] == 0.25
    assert scores.per_image["entangled_ours_s"].isna().tolist() == [False, True, False, False]
    assert score(drawn(), blank()).totals == {"empty_mask": 1}
    assert score(drawn(), mask="whole").totals == {"empty_mask": 1}


def test_pieces_against_numbers_by_hand():
    colours = Perceptual(None, None)
    colours.map = lambda a, b: (a - b).abs().mean(1)
    a, b = torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    a[:, :, 0, 0], a[:, :, 1, 1] = 51, 255
    region = torch.tensor([[[True, True], [False, False]], [[True, True], [True, True]]])
    assert similarity(colours, a, b, region).tolist() == pytest.approx([0.9, float("nan")], nan_ok=True)
    assert similarity(colours, a, b, ~region)[0].item() == 0.5
    assert harmonic(torch.tensor([0.5, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])).tolist() == pytest.approx([2 / 3, 0, 1])
    t, b = torch.rand(2, 100, generator=torch.Generator().manual_seed(0))
    assert (harmonic(t, b) <= 2 * torch.minimum(t, b)).all()
    dot = torch.zeros(1, 7, 7, dtype=torch.bool)
    dot[0, 3, 3] = True
    assert grown(dot, 2).sum() == 25 and torch.equal(grown(dot, 0), dot)


def test_what_cannot_work_is_refused(concept):
    with pytest.raises(ValueError, match="Allowed: whole"):
        EntangledS("emoji", "outline", 0.1, "", "", 1, 3)
    with pytest.raises(ValueError, match="neither background nor a folder"):
        EntangledD("emoji", "whole", 0.1, "", "", 1, 3, "./nowhere")
    metric = EntangledS("emoji", "whole", 0.1, "", "", 1, 3)
    assert "has none" in metric.supports(contract_checks.tiny_of(), [concept("van_gogh", "style")])
