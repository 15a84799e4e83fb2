"""CKA and concept probes: closed forms, what hooks must see, and the emoji model beside the one that never saw a dog."""

import itertools
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_spec
from PIL import Image

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet, ModelSpec
from vestige.bench.models import loading
from vestige.bench.statistics.jackknife import UP_TO_ONE, jackknife_interval
from vestige.bench.vision.representations import (
    activations,
    fitted_probe,
    folds_of,
    linear_cka,
    linear_cka_left_out,
    modules,
    shared_noise,
    sites,
    text_states,
)
from vestige.metrics.cka import Cka
from vestige.metrics.concept_probe import ConceptProbe, balanced, exchanged


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_is_one_for_equal_turned_and_scaled_activations(unbiased):
    x = gaussian(20, 6)
    turn = torch.linalg.qr(gaussian(6, 6, 1)).Q
    for other in (x, x @ turn, 3 * x + 5):
        assert linear_cka(x, other, unbiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, gaussian(20, 6, 2), unbiased) < 0.6
    assert np.isnan(linear_cka(torch.ones(20, 6), x, unbiased))
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka(x[:3], x[:3], unbiased)


def test_biased_cka_is_kornblith_s_formula_and_unbiased_hsic_is_the_sum_over_distinct_rows():
    x, y = gaussian(9, 4), gaussian(9, 5, 1) + gaussian(9, 4) @ gaussian(4, 5, 2)
    a, b = x - x.mean(0), y - y.mean(0)
    want = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y, False) == pytest.approx(float(want), rel=1e-9)

    def hsic(k, m):  # Song et al. 2012: mean over all ways to draw four distinct rows
        rows = itertools.permutations(range(len(k)), 4)
        return np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in rows])

    k, m = (a @ a.T).numpy(), (b @ b.T).numpy()
    assert linear_cka(x, y, True) == pytest.approx(hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_without_a_prompt_is_cka_of_the_other_rows(unbiased):
    x, y, groups = gaussian(12, 5), gaussian(12, 5) + gaussian(12, 5, 1), [f"g{k // 2}" for k in range(12)]
    kept = [[k for k, group in enumerate(groups) if group != other] for other in sorted(set(groups))]
    want = [linear_cka(x[rows], y[rows], unbiased) for rows in kept]
    assert linear_cka_left_out(x, y, groups, unbiased) == pytest.approx(want, rel=1e-9)
    assert np.isnan(linear_cka_left_out(x[:4], y[:4], groups[:4], unbiased)).all(), "two rows are left: too few"


def test_the_interval_of_cka_covers_it():
    """Resampling with replacement would hold it in two of three cases: copies of one image look alike."""
    mix = torch.linspace(2, 0.3, 8, dtype=torch.float64)

    def drawn(prompts, seed):
        return mix * (0.8 * gaussian(prompts, 8, seed)[:, None] + 0.6 * gaussian(2 * prompts, 8, seed + 1).view(prompts, 2, 8)).flatten(
            0, 1
        )

    def pair(prompts, seed):
        x, other = drawn(prompts, 4 * seed), drawn(prompts, 4 * seed + 2)
        return x, 0.6 * x + 0.4 * other

    truth = np.mean([linear_cka(*pair(600, 10_000 + k), True) for k in range(3)])
    groups, hits = [f"{k:02d}" for k in range(16) for _ in range(2)], 0
    for trial in range(200):
        x, y = pair(16, trial)
        low, high = jackknife_interval(linear_cka(x, y, True), linear_cka_left_out(x, y, groups, True), UP_TO_ONE)
        hits += low <= truth <= high
    assert 0.92 <= hits / 200 <= 0.99


def test_unrelated_activations_look_alike_to_the_biased_form_only():
    wide = [linear_cka(gaussian(24, 300, k), gaussian(24, 300, 100 + k), False) for k in range(10)]
    narrow = [linear_cka(gaussian(240, 30, k), gaussian(240, 30, 100 + k), False) for k in range(10)]
    unbiased = [linear_cka(gaussian(24, 300, k), gaussian(24, 300, 100 + k), True) for k in range(10)]
    assert np.mean(wide) > 0.8 > 0.3 > np.mean(narrow)
    assert abs(np.mean(unbiased)) < 0.05


def test_activations_pass_through_hooks_and_leave_none_behind(tiny):
    prompts, latents = ["a dog", "a cat", "a car", "a cup"], torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = shared_noise(latents, [(k,) for k in "abcd"], 0)
    before = tiny.fingerprint()
    plain = activations(tiny, prompts, latents, noise, 500, ["mid", "up", "cross_attention"], 3)
    assert plain["mid"].shape == (4, 64) and {len(x) for x in plain.values()} == {4}
    with tiny.hooked({"unet.mid_block": lambda module, args, kwargs, output: output * 2}):
        doubled = activations(tiny, prompts, latents, noise, 500, ["mid", "up"], 4)
    assert torch.allclose(doubled["mid"], 2 * plain["mid"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(doubled["up"], plain["up"], rtol=1e-3)
    assert tiny.fingerprint() == before
    assert torch.equal(shared_noise(latents[[2, 0]], [("c",), ("a",)], 0), noise[[2, 0]]), "a row's noise depends on its name alone"
    assert text_states(tiny, prompts, 2).shape == (4, 32)


def test_a_probe_learns_what_is_linear_in_the_features_and_nothing_else():
    labels = torch.arange(80) % 2 == 0
    x = gaussian(80, 200) + 3 * labels[:, None] * gaussian(1, 200, 3).abs()
    groups = [str(k // 2) for k in range(80)]
    fold = folds_of(groups, 4, 0)
    assert all(len(set(fold[2 * k : 2 * k + 2].tolist())) == 1 for k in range(40)) and set(fold.tolist()) == {0, 1, 2, 3}
    train, test = torch.arange(80) < 60, torch.arange(80) >= 60
    probe = fitted_probe(x[train], labels[train], 0.1)
    assert ((probe(x[test]) > 0) == labels[test]).double().mean() == 1
    noise = fitted_probe(gaussian(60, 200, 5), labels[train], 0.1)
    assert abs(((noise(gaussian(400, 200, 6)) > 0).double().mean()) - 0.5) < 0.15
    few = torch.arange(80) < 8  # one class in ten: both weigh the same
    skewed = fitted_probe(gaussian(80, 5) + 2 * few[:, None], few, 0.1)
    fresh = gaussian(80, 5, 7) + 2 * few[:, None]
    assert balanced((skewed(fresh) > 0) == few, few) > 0.9
    mixed = exchanged(train, groups, 1)
    assert mixed.sum() == 60 and not torch.equal(mixed, train) and torch.equal(mixed[::2], mixed[1::2])


# The emoji model and the one that was retrained without dogs, on real images of the world

STYLES = ("fluent", "noto", "twemoji", "emojione", "lineart", "pixel_art")


def shown(folder, things) -> ImageSet:
    from vestige.bench.world.content.drawing import Spec, compose

    folder.mkdir()
    rows = []
    for k, thing in enumerate(things):
        style, ground = STYLES[k % len(STYLES)], ("white", "yellow", "blue", "pink")[k // 2 % 4]
        Image.fromarray(compose(Spec((thing,), style, ground, k % 3 - 1, 0, (0, 0, 0), 1.0, False))).save(folder / f"{k}.png")
        prompt = f"a {style.replace('_', ' ')} {thing} on a {ground} background"
        rows.append({"row_id": str(k), "rep": 0, "file": f"{k}.png", "prompt": prompt, "expect": thing, "group": prompt})
    return ImageSet(folder, pd.DataFrame(rows))


@pytest.fixture(scope="module")
def emoji():
    spec = ModelSpec("emoji", "sd1", "bench/world/weights/generator", None, "float32", "reference", "emoji", "emoji")
    return loading.load(spec)


@pytest.fixture
def context(emoji, tmp_path, concept):
    def make(erased=None):
        from safetensors.torch import load_file

        from vestige.bench.world.content import paths

        dogs = shown(tmp_path / "dogs", ["dog"] * 24)
        mates = shown(tmp_path / "mates", ["cat", "frog", "penguin", "octopus"] * 6)
        if erased is None:
            weights = {f"unet.{n}": t.float() for n, t in load_file(paths.oracle("dog")).items()}
            erased = lambda: emoji.replaced(weights)  # noqa: E731
        pick = lambda asked: dogs if asked.name.startswith("target") else mates  # noqa: E731
        return dogs, MetricContext([concept()], lambda: dogs, None, lambda: emoji, erased, pick)

    return make


def test_the_concept_is_told_apart_before_erasure_and_by_no_old_code_in_a_model_that_never_saw_it(context):
    dogs, oracle = context()
    metric = ConceptProbe(["text", "mid"], 300, "empty", "emoji", 24, 24, 1, 4, 0.1, 16, 0)
    scores = metric.score(dogs, oracle)
    found = scores.totals
    assert found["probe_mid_original"] > 0.9 and found["probe_text_original"] > 0.9
    assert found["probe_mid_transfer"] < found["probe_mid_original"] - 0.3
    assert found["probe_text_transfer"] == found["probe_text_original"], "the oracle kept the text encoder"
    assert scores.meta["intervals"].keys() == found.keys()
    assert all(low <= found[name] <= high and low < high for name, (low, high) in scores.meta["intervals"].items())
    assert scores.meta["intervals"]["probe_mid_transfer"][1] < scores.meta["intervals"]["probe_mid_original"][0] and all(
        value < 0.65 for value in scores.meta["shuffled"].values()
    )


def test_a_model_that_changed_nothing_keeps_every_code_and_a_cka_of_one(context, emoji):
    dogs, same = context(erased=lambda: nullcontext(emoji))
    found = ConceptProbe(["mid"], 300, "prompt", "emoji", 24, 24, 1, 4, 0.1, 16, 0).score(dogs, same).totals
    assert found["probe_mid_original"] == found["probe_mid_transfer"] == found["probe_mid_refit"] > 0.9
    alike = Cka(["text", "cross_attention", "mid", "up"], [700, 200], True, 16, 0).score(dogs, same).totals
    assert list(alike.values()) == pytest.approx([1] * 4, abs=1e-9)


def test_cka_falls_where_a_method_acts(context, emoji):
    noise = torch.Generator().manual_seed(0)
    shaken = {n: p + 2 * p.std() * torch.randn(p.shape, generator=noise) for n, p in emoji.named_parameters() if "attn2.to_v" in n}
    dogs, changed = context(erased=lambda: emoji.replaced(shaken))
    scores = Cka(["text", "cross_attention"], [500], True, 16, 0).score(dogs, changed)
    alike, (low, high) = scores.totals, scores.meta["intervals"]["cka_cross_attention"]
    assert alike["cka_text"] == pytest.approx(1, abs=1e-9) and low < alike["cka_cross_attention"] < high < 0.95
    assert scores.meta["intervals"]["cka_text"] == pytest.approx((1, 1), abs=1e-9), "no prompt changes what is equal"
    assert list(Cka(["mid"], [500], False, 16, 0).score(dogs, changed).totals) == ["cka_biased_mid"]


def test_what_cannot_work_is_refused(concept):
    for wrong in (Cka(["bottom"], [500], True, 16, 0), ConceptProbe(["bottom"], 300, "empty", "emoji", 4, 4, 1, 2, 0.1, 16, 0)):
        sentence = wrong.supports(tiny_spec(), [concept()])
        assert "no site bottom" in sentence and "text, cross_attention, mid, up" in sentence
    with pytest.raises(ValueError, match="at least one"):
        Cka([], [500], True, 16, 0)
    with pytest.raises(ValueError, match="0 to 999"):
        Cka(["mid"], [1000], True, 16, 0)
    with pytest.raises(ValueError, match="Allowed: empty, prompt"):
        ConceptProbe(["mid"], 300, "none", "emoji", 4, 4, 1, 2, 0.1, 16, 0)
    with pytest.raises(ValueError, match="folds=5"):
        ConceptProbe(["mid"], 300, "empty", "emoji", 4, 4, 1, 5, 0.1, 16, 0)
    assert "list none" in ConceptProbe(["mid"], 300, "empty", "emoji", 4, 4, 1, 2, 0.1, 16, 0).supports(tiny_spec(), [concept(siblings=[])])
    with pytest.raises(ValueError, match="given images only"):
        MetricContext([], None, None).original_pipe()


def test_rows_of_one_sentence_are_learnt_or_asked_together():
    from types import SimpleNamespace

    from vestige.metrics import concept_probe

    pipe = SimpleNamespace(encode_images=lambda part: torch.zeros(len(part), 4, 2, 2))
    rows = {"row_id": ["0", "1", "2"], "rep": [0, 0, 0], "prompt": ["a dog", "a dog", "a puppy"], "group": ["s1", "s1", "s2"]}
    one = SimpleNamespace(index=pd.DataFrame(rows), batches=lambda size: [torch.zeros(3, 3, 16, 16)])
    metric = ConceptProbe(["mid"], 300, "empty", "emoji", 4, 4, 1, 2, 0.1, 16, 0)
    seen = concept_probe.Images.of([one, one], pipe, metric)
    assert seen.groups == ["0/s1", "0/s1", "0/s2", "1/s1", "1/s1", "1/s2"]
    fold = metric.folds_per_class(seen.labels, seen.groups).tolist()
    assert fold[0] == fold[1] != fold[2] and fold[3] == fold[4] != fold[5]


def test_a_metric_that_needs_what_a_family_lacks_is_refused_in_the_words_of_the_capability(monkeypatch):
    from vestige.bench.models.capabilities import unsupported
    from vestige.bench.models.families.sd1 import SD1

    metric = Cka(["text"], [500], True, 16, 0)
    assert unsupported(metric, tiny_spec(), []) is None
    monkeypatch.setattr(SD1, "offers", ("draw", "states"))
    assert unsupported(metric, tiny_spec(), []).startswith("Cka needs 'levels'")


def test_sites_are_read_from_the_family_whatever_its_layers_are_called(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny.family), "sites", {"joint": r"attentions\.0$"})
    assert sites(tiny.family) == ("text", "joint")
    assert modules(tiny, "joint") and all(name.startswith("unet.") and name.endswith("attentions.0") for name in modules(tiny, "joint"))
