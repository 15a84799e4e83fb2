"""FID, KID, CMMD, precision and recall against closed forms, torchmetrics and simulations; references and their names."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.run import contract_checks
from vestige.bench.statistics.jackknife import jackknife_interval
from vestige.bench.vision import features
from vestige.bench.vision.set_distances import cmmd, frechet, frechet_infinite, kid, kid_of_subsets, mmd2, precision_recall
from vestige.metrics.distances import Cmmd, Fid, FidInfinite, Kid
from vestige.metrics.precision_recall import PrecisionRecall


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def two():
    generator = seeded()
    return torch.randn(60, 8, generator=generator), torch.randn(60, 8, generator=generator) * 2 + 1


def with_moments(n: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """[n, d] whose sample mean and covariance are exactly these."""
    x = torch.randn(n, len(mean), generator=seeded(seed), dtype=torch.float64)
    white = torch.linalg.qr(x - x.mean(0)).Q
    white = torch.linalg.qr(white - white.mean(0)).Q * (n - 1) ** 0.5
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_fid_of_a_set_with_itself_is_zero(two):
    assert abs(frechet(two[0], two[0])) < 1e-9
    assert abs(frechet(two[0][:5], two[0][:5])) < 1e-9


@pytest.mark.parametrize("n", [40, 400])
def test_fid_of_gaussians_with_known_moments_is_the_closed_form(n):
    d = torch.linspace(1, 3, 6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seeded(3), dtype=torch.float64)).Q
    other = torch.randn(6, 6, generator=seeded(4), dtype=torch.float64)
    m, s = torch.full((6,), 0.5).double(), other @ other.T + torch.eye(6)
    # One covariance is a multiple of one: (C_a C_b)^(1/2) = 2 C_b^(1/2); commuting ones: the roots of the products of eigenvalues
    a, b = with_moments(n, torch.zeros(6).double(), 4 * torch.eye(6).double(), 5), with_moments(n, m, s, 6)
    want = float(m.square().sum() + 24 + s.trace() - 4 * torch.linalg.eigvalsh(s).sqrt().sum())
    assert frechet(a, b) == pytest.approx(want, rel=1e-9)
    a, b = (with_moments(n, m, turn @ torch.diag(x) @ turn.T, seed) for x, seed in ((d, 7), (d.flip(0), 8)))
    assert frechet(a, b) == pytest.approx(float((d.sqrt() - d.flip(0).sqrt()).square().sum()), rel=1e-9)


def test_fid_agrees_with_the_eigenvalue_formula_when_images_are_few(two):
    a, b = (x[:5].double() for x in two)
    values = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp_min(0).sqrt().sum()
    want = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * values
    assert frechet(a, b) == pytest.approx(float(want), abs=1e-4)


class Columns(torch.nn.Module):
    """Takes features for images, so that torchmetrics computes its distances on given features."""

    num_features = 8

    def forward(self, x):
        return x.flatten(1)


def by_torchmetrics(metric, a, b) -> torch.Tensor:
    metric.update(b, real=True)
    metric.update(a, real=False)
    return metric.compute()


def test_fid_and_kid_equal_those_of_torchmetrics_on_the_same_features(two):
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    for a, b in (two, (two[0], two[0] + 0.1), (two[0], two[1][:40])):
        assert frechet(a, b) == pytest.approx(float(by_torchmetrics(FrechetInceptionDistance(feature=Columns()), a, b)), rel=1e-4)
    whole = KernelInceptionDistance(feature=Columns(), subsets=1, subset_size=60)
    assert kid(*two) == pytest.approx(float(by_torchmetrics(whole, *two)[0]), rel=1e-4)
    parts = KernelInceptionDistance(feature=Columns(), subsets=300, subset_size=20)
    torch.manual_seed(0)
    theirs, spread = by_torchmetrics(parts, *two)
    error = float(spread) * (2 / 300) ** 0.5
    assert abs(kid_of_subsets(*two, 300, 20, seeded()) - float(theirs)) < 4 * error, "random subsets, the same expectation"


def test_fid_of_one_distribution_falls_as_one_over_n_and_its_extrapolation_does_not():
    def average(distance, n: int, times: int) -> float:
        generator = seeded(n)
        return float(np.mean([distance(*torch.randn(2, n, 6, generator=generator)) for _ in range(times)]))

    sizes = (150, 300, 600, 1200)
    scaled = [n * average(frechet, n, 12) for n in sizes]
    assert max(scaled) < 1.25 * min(scaled), f"n x FID must not depend on n, it is {scaled}"
    extrapolated = average(lambda a, b: frechet_infinite(a, b, [0.5, 0.6, 0.7, 0.85, 1.0], 4, seeded()), 300, 12)
    assert abs(extrapolated) < 0.15 * average(frechet, 300, 12)


def test_extrapolated_fid_of_different_distributions_is_that_of_far_larger_sets():
    generator = seeded(9)
    a, b = torch.randn(400, 6, generator=generator), torch.randn(400, 6, generator=generator) * 1.2 + 0.2
    truth = 6 * 0.2**2 + 6 * 0.2**2
    many = frechet(torch.randn(40000, 6, generator=generator), torch.randn(40000, 6, generator=generator) * 1.2 + 0.2)
    assert many == pytest.approx(truth, rel=0.03)
    gaps = [abs(f - truth) for f in (frechet(a, b), frechet_infinite(a, b, [0.5, 0.6, 0.7, 0.85, 1.0], 8, seeded()))]
    assert gaps[1] < gaps[0]


def test_paired_sets_shrink_together():
    a = torch.randn(50, 6, generator=seeded())
    assert abs(frechet_infinite(a, a, [0.5, 1.0], 2, seeded())) < 1e-9


@pytest.mark.parametrize("distance", [frechet, kid, lambda a, b: cmmd(a, b, 10.0), lambda a, b: cmmd(a, b, 10.0, unbiased=False)])
def test_distances_ignore_order_are_symmetric_and_grow_with_difference(distance, two):
    a, b = two
    shuffled = b[torch.randperm(60, generator=seeded(1))]
    assert distance(a, b) == pytest.approx(distance(a, shuffled), rel=1e-8)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-8)
    assert distance(a, b) > distance(a[:30], a[30:])


@pytest.mark.parametrize("distance", [kid, lambda a, b: cmmd(a, b, 1.0)])
def test_kid_and_unbiased_cmmd_are_unbiased_around_zero_for_one_distribution(distance):
    generator = seeded(2)
    values = torch.tensor([distance(*torch.randn(2, 20, 4, generator=generator)) for _ in range(300)])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert values.min() < 0


def test_biased_cmmd_is_zero_for_equal_sets_and_too_high_by_the_diagonal(two):
    a, b = two
    assert abs(cmmd(a, a, 10.0, unbiased=False)) < 1e-9
    unit = [torch.nn.functional.normalize(x.double(), dim=-1) for x in two]
    extra = 0.0
    for x in unit:
        k = torch.exp(-torch.cdist(x, x).square() / 200)
        off = (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
        extra += 1000 * float(1 - off) / len(x)
    assert cmmd(a, b, 10.0, unbiased=False) - cmmd(a, b, 10.0) == pytest.approx(extra, rel=1e-6)
    within, across = sum(torch.exp(-torch.cdist(x, x).square() / 200).mean() for x in unit), torch.exp(-torch.cdist(*unit).square() / 200)
    direct = 1000 * (within - 2 * across.mean())
    assert cmmd(a, b, 10.0, unbiased=False) == pytest.approx(float(direct), rel=1e-6)


def test_sums_in_blocks_are_the_sums_of_the_whole(monkeypatch, two):
    whole = kid(*two), cmmd(*two, 10.0), *precision_recall(*two, 3)
    monkeypatch.setattr("vestige.bench.vision.set_distances.ROWS", 7)
    assert (kid(*two), cmmd(*two, 10.0), *precision_recall(*two, 3)) == pytest.approx(whole, rel=1e-12)
    linear = mmd2(*two, lambda x, y: x @ y.T, unbiased=False)
    assert linear == pytest.approx(float((two[0].double().mean(0) - two[1].double().mean(0)).square().sum()), rel=1e-9)


def test_precision_and_recall_of_sets_on_a_line_can_be_counted_by_hand():
    line = torch.tensor([0.0, 1, 2, 3, 10])[:, None]  # with k=1 the balls reach 1, 1, 1, 1 and 7
    assert precision_recall(line, line, 1) == (1.0, 1.0)
    near = torch.tensor([0.5, 1.5, -1.5, 18.0])[:, None]  # radii 1, 1, 2, 16.5
    assert precision_recall(near, line, 1) == (0.5, 1.0)
    two_modes = torch.cat([torch.randn(50, 2, generator=seeded()), torch.randn(50, 2, generator=seeded(1)) + 100])
    one_mode = torch.randn(100, 2, generator=seeded(2))
    precision, recall = precision_recall(one_mode, two_modes, 3)
    assert precision > 0.8 and recall < 0.55, "a model that lost a mode keeps precision and loses recall"
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(one_mode[:3], two_modes, 3)


# References and names


@pytest.fixture
def sets(tmp_path):
    """(scored set, original's set, material): images of one colour each."""

    def write(name: str, n: int, size=(64, 64)) -> ImageSet:
        (tmp_path / name).mkdir()
        for k in range(n):
            Image.new("RGB", size, (9 * k, 255 - 9 * k, len(name))).save(tmp_path / name / f"{k:02d}.png")
        index = pd.DataFrame({"row_id": [f"{k:02d}" for k in range(n)], "rep": 0, "file": [f"{k:02d}.png" for k in range(n)]})
        return ImageSet(tmp_path / name, index)

    ours, original = write("ours", 8), write("original_set", 8)
    return ours, original, MetricContext([contract_checks.DOG], lambda: original, features.extract)


def test_columns_say_extractor_reference_and_unequal_counts(sets, tmp_path):
    ours, _, context = sets
    assert list(Fid("judge_a", "original").score(ours, context).totals) == ["fid_judge_a_original"]
    assert list(Cmmd("clip_emoji", "real", 10.0, False).score(ours, context).totals) == ["cmmd_biased_clip_emoji_real"]
    assert list(Kid("judge_a", "original", 5, 4, 0).score(ours, context).totals) == ["kid_5x4_judge_a_original"]
    shares = [0.5, 1.0]
    assert list(FidInfinite("judge_a", "original", shares, 1, 0).score(ours, context).totals) == ["fid_inf_judge_a_original"]
    folder = tmp_path / "val2014"
    folder.mkdir()
    for k, size in enumerate([(80, 60), (80, 60), (60, 90)]):
        Image.new("RGB", size, (40 * k, 0, 0)).save(folder / f"{k}.jpg")
    scores = Fid("clip_emoji", str(folder)).score(ours, context)
    assert list(scores.totals) == ["fid_clip_emoji_val2014_n3"] and scores.meta["n_reference"] == 3
    assert set(PrecisionRecall("judge_a", "original", 3).score(ours, context).totals) == {
        "precision_k3_judge_a_original",
        "recall_k3_judge_a_original",
    }


def test_distances_bring_an_interval_by_leaving_prompts_out(sets):
    ours, original, context = sets
    by_prompt = [dataclasses.replace(each, index=each.index.assign(group=[f"p{k // 2}" for k in range(8)])) for each in (ours, original)]
    asked = dataclasses.replace(context, original=lambda: by_prompt[1])
    a, b = (features.extract(each, "judge_a") for each in by_prompt)
    for metric, distance in ((Fid("judge_a", "original"), frechet), (Kid("judge_a", "original", 0, 4, 0), kid)):
        scores = metric.score(by_prompt[0], asked)
        kept = [[k for k in range(8) if k // 2 != prompt] for prompt in range(4)]
        want = jackknife_interval(distance(a, b), [distance(a[rows], b[rows]) for rows in kept])
        [(name, value)] = scores.totals.items()
        assert scores.meta["intervals"][name] == pytest.approx(want) and want[0] < value < want[1]
        assert metric.score(ours, context).meta["intervals"] == {}, "images without prompts"
    assert Kid("judge_a", "original", 5, 4, 0).score(by_prompt[0], asked).meta["intervals"] == {}
    assert PrecisionRecall("judge_a", "original", 3).score(by_prompt[0], asked).meta["intervals"] == {}


def test_the_interval_of_paired_distances_covers_what_such_sets_have_on_average():
    def pair(seed):
        z = (0.7 * torch.randn(16, 1, 8, generator=seeded(seed)) + 0.7 * torch.randn(16, 2, 8, generator=seeded(seed + 1))).flatten(0, 1)
        return 1.3 * z + 0.3 + 0.4 * torch.randn(32, 8, generator=seeded(seed + 2)), z

    for distance in (frechet, kid):
        truth, hits = np.mean([distance(*pair(10_000 + 3 * k)) for k in range(400)]), 0
        for trial in range(150):
            a, b = pair(3 * trial)
            rows = [[k for k in range(32) if k // 2 != prompt] for prompt in range(16)]
            low, high = jackknife_interval(distance(a, b), [distance(a[r], b[r]) for r in rows])
            hits += low <= truth <= high
        assert 0.9 <= hits / 150 <= 0.99, distance.__name__


def test_a_reference_folder_enters_the_key_by_its_bytes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = Fid("clip_emoji", str(tmp_path)).inputs()
    Image.new("RGB", (8, 8), (1, 0, 0)).save(tmp_path / "a.png", compress_level=0)
    assert before["reference"] != Fid("clip_emoji", str(tmp_path)).inputs()["reference"]
    assert "reference" not in Fid("clip_emoji", "original").inputs()


def test_what_cannot_work_is_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="original, real or a folder"):
        Fid("clip_emoji", "genuine")
    with pytest.raises(ValueError, match="holds no image"):
        Fid("clip_emoji", str(tmp_path)).inputs()
    with pytest.raises(ValueError, match="two different shares"):
        FidInfinite("clip_emoji", "original", [1.0], 1, 0)
    photo = dataclasses.replace(contract_checks.tiny_of(), domain="photo")
    assert "emoji world only" in Fid("clip_emoji", "real").supports(photo, [])
    assert "Allowed: clip_emoji" in Fid("clip_emojo", "original").supports(photo, [])
    assert "torch-fidelity" in Fid("inception_tf", "original").supports(photo, [])
    assert "is no folder" in Fid("dino:./nowhere", "original").supports(photo, [])
    assert "pickled weights are refused" in Fid(f"dino:{pickled(tmp_path)}", "original").supports(photo, [])


def pickled(folder):
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    return folder


# Extractors


def test_dino_reads_the_class_token_of_the_middle_square(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    Dinov2Model(config).eval().save_pretrained(tmp_path / "tiny-dino")
    name = f"dino:{tmp_path / 'tiny-dino'}"
    assert features.check(name) is None and features.short_name(name) == "dino_tiny-dino"
    pixels = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8, generator=seeded())
    got = features.of_pixels(pixels, name)
    wide = torch.cat([torch.zeros(2, 3, 256, 30, dtype=torch.uint8), pixels, torch.zeros(2, 3, 256, 30, dtype=torch.uint8)], -1)
    assert torch.allclose(got, features.of_pixels(wide, name), atol=1e-6)
    net = Dinov2Model.from_pretrained(tmp_path / "tiny-dino").eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    direct = net(pixel_values=(pixels[..., 16:240, 16:240] / 255 - mean) / std)
    assert torch.allclose(got, direct.pooler_output, atol=1e-5)
    assert features.inputs(name)["weights"] not in ("", features.inputs("clip_emoji")["weights"])


def test_short_names_keep_what_changes_a_value_and_leave_places_out():
    names = ("clip_emoji", "clip:ViT-L-14-336/openai", "clip:ViT-B-32//some/where/mine.safetensors", "dino:facebook/dinov2-base")
    assert [features.short_name(n) for n in names] == [
        "clip_emoji",
        "clip_ViT-L-14-336_openai",
        "clip_ViT-B-32_mine",
        "dino_dinov2-base",
    ]


def test_the_networks_of_published_fid_values_name_their_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "inception_v3_google" in features.check("inception")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    assert "weights-inception-2015-12-05" in features.check("inception_tf")


def test_a_reference_folder_that_is_gone_is_a_sentence_and_not_other_images():
    lost = Fid("clip_emoji", "./nowhere/at/all")
    with pytest.raises(ValueError, match=r"is no folder here\. Unpack the reference images"):
        lost.compared_with(4, None)
