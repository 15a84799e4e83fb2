"""LPIPS: equal to torchmetrics' own on a random AlexNet; the emoji world's distance; pairs, sizes and missing weights."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.run import contract_checks
from vestige.bench.vision import features, perceptual
from vestige.metrics.image_change import ImageChange
from vestige.metrics.lpips import Lpips


def write(folder, images) -> ImageSet:
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
    n = len(images)
    return ImageSet(folder, pd.DataFrame({"row_id": [str(k) for k in range(n)], "rep": 0, "file": [f"{k}.png" for k in range(n)]}))


@pytest.fixture(scope="module")
def real():
    from vestige.bench.world.content import drawing

    return drawing.held_out(12, 3)[0]


@pytest.fixture
def alex(monkeypatch, tmp_path):
    """torch's cache with a random AlexNet in torchvision's file."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    with torch.device("meta"):  # without its large classifier
        stages = alexnet().features
    stages = stages.to_empty(device="cpu")
    for weight in stages.parameters():
        torch.nn.init.normal_(weight, 0, 0.05)
    (tmp_path / "checkpoints").mkdir()
    torch.save({f"features.{n}": t for n, t in stages.state_dict().items()}, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    perceptual.load.cache_clear()
    yield stages
    perceptual.load.cache_clear()


def test_lpips_is_that_of_torchmetrics_on_the_same_alexnet(alex, real):
    from torchmetrics.functional.image.lpips import _LPIPS

    theirs = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    slots = theirs.net.state_dict()
    for name in slots:  # sliceN.<place>.weight
        slots[name].copy_(alex.state_dict()[name.partition(".")[2]])
    a, b = perceptual.at_shorter_side(real[:4], 96), perceptual.at_shorter_side(real[4:8], 96)
    ours = perceptual.load("alex")
    with torch.no_grad():
        want = theirs(a, b, normalize=True).flatten()
        theirs.spatial = True
        want_map = theirs(a, b, normalize=True)[:, 0]
    assert torch.allclose(ours.distance(a, b), want, rtol=1e-4) and want.min() > 1e-4
    assert torch.allclose(ours.map(a, b), want_map, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("net", ["emoji", "alex"])
def test_distance_is_zero_for_equal_images_symmetric_and_grows_with_the_change(net, real, alex):
    metric = perceptual.load(net)
    a = real.float() / 255
    assert metric.distance(a, a).abs().max() == 0 and metric.map(a, a).abs().max() == 0
    slightly, more = (a + strength * torch.randn(a.shape, generator=torch.Generator().manual_seed(0)) for strength in (0.02, 0.2))
    assert (metric.distance(a, slightly) < metric.distance(a, more)).all()
    assert torch.allclose(metric.distance(a, more), metric.distance(more, a), rtol=1e-5)
    assert torch.allclose(metric.map(a, more).mean((1, 2)), metric.distance(a, more), rtol=0.1), "a map averages to the distance"


def test_the_map_is_high_where_the_images_differ(real):
    a = real[:4].float() / 255
    b = a.clone()
    b[..., :32] = b[..., :32].flip(1)  # other colours on the left
    where = perceptual.load("emoji").map(a, b)
    assert (where[..., :24].mean((1, 2)) > 3 * where[..., 40:].mean((1, 2))).all()


def test_another_object_is_farther_than_the_same_object_in_another_place(real):
    from vestige.bench.world.content.drawing import Spec, compose

    def draw(thing, dx):
        return torch.from_numpy(compose(Spec((thing,), "noto", "white", dx, 0, (0, 0, 0), 1.0, False)).copy()).permute(2, 0, 1)[None] / 255

    net = perceptual.load("emoji")
    moved = net.distance(draw("dog", 0), draw("dog", 1))
    assert net.distance(draw("dog", 0), draw("rocket", 0)) > 2 * moved > 0


def test_columns_name_network_and_side_and_pairs_are_found_by_row(real, tmp_path):
    ours, original = write(tmp_path / "a", real[:6]), write(tmp_path / "b", torch.cat([real[:3], real[6:9]]))
    shuffled = replace(original, index=original.index.iloc[[5, 2, 0, 1, 4, 3]].reset_index(drop=True))
    scores = Lpips("emoji", 64, 4).score(ours, MetricContext([contract_checks.DOG], lambda: shuffled, None))
    table = scores.per_image.set_index("row_id")["lpips_emoji_64"]
    assert (table[["0", "1", "2"]] == 0).all() and (table[["3", "4", "5"]] > 0.01).all()
    small = Lpips("emoji", 48, 4).score(ours, MetricContext([contract_checks.DOG], lambda: original, None))
    assert list(small.totals) == ["lpips_emoji_48"] and small.totals["lpips_emoji_48"] != scores.totals["lpips_emoji_64"]
    fewer = replace(original, index=original.index.head(4))
    with pytest.raises(ValueError, match="lacks 2 images"):
        Lpips("emoji", 64, 4).score(ours, MetricContext([contract_checks.DOG], lambda: fewer, None))


def test_image_change_names_its_network_and_reaches_every_extractor(real, tmp_path):
    ours, original = write(tmp_path / "a", real[:4]), write(tmp_path / "b", torch.cat([real[:2], real[6:8]]))
    scores = ImageChange("judge_a", 100.0).score(ours, MetricContext([contract_checks.DOG], lambda: original, features.extract))
    cosine = scores.per_image["cosine_judge_a"]
    assert cosine[:2].tolist() == pytest.approx([1, 1], abs=1e-6) and (cosine[2:] < 0.99).all()
    assert scores.per_image["psnr"][:2].tolist() == [100, 100] and scores.per_image["mse"][:2].tolist() == [0, 0]
    assert "is no folder" in ImageChange("dino:./nowhere", 100.0).supports(contract_checks.tiny_of(), [])


def test_what_is_missing_is_said_with_a_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "alexnet-owt-7be5be79.pth" in Lpips("alex", 64, 4).supports(contract_checks.tiny_of(), [])
    assert "Allowed: emoji, alex" in Lpips("vgg", 64, 4).supports(contract_checks.tiny_of(), [])
    with pytest.raises(ValueError, match="at least 32"):
        Lpips("emoji", 16, 4)


def test_shorter_side_keeps_the_shape_and_resizes_as_pil():
    wide = torch.randint(0, 256, (1, 3, 120, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    got = perceptual.at_shorter_side(wide, 60)
    assert got.shape[-2:] == (60, 100)
    pil = Image.fromarray(wide[0].permute(1, 2, 0).numpy()).resize((100, 60), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(pil) / 255 - got[0].permute(1, 2, 0).numpy()).max() < 1 / 255
