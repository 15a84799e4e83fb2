"""The null of attacks that are given images: a made-up thing that comes back is seen, and one that does not is not."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from made_images import in_memory

from vestige.attacks.noise_probes import cropped
from vestige.attacks.none import NoAttack
from vestige.bench.contract.plugin import MetricContext
from vestige.bench.places import CONF
from vestige.bench.reports import results, robustness
from vestige.bench.reports.score_table import ScoreTable
from vestige.bench.run import attack_cells, composing, resolvers
from vestige.bench.run.contract_checks import DOG, build
from vestige.bench.run.runner import run_job
from vestige.bench.vision.made_up import made_up as drawings
from vestige.bench.world.content import drawing as world
from vestige.metrics import made_up
from vestige.metrics._recogniser import fitted


def sprites(slugs):
    specs = [world.Spec((slug,), style, "white", 0, 0, (0, 0, 0), 1.0, False) for slug in slugs for style in ("noto", "twemoji")]
    return torch.stack([torch.from_numpy(world.compose(spec).copy()).permute(2, 0, 1) for spec in specs]).float() / 255


def test_the_recogniser_knows_the_thing_by_its_form():
    thing = drawings(96, 64, 64, torch.Generator().manual_seed(3)).float() / 255
    others = sprites(["dog", "cat", "car", "pizza", "frog", "tulip", "guitar", "umbrella"])
    recognises = fitted(thing[:48], others[::2])
    assert recognises(thing[48:]).double().mean() >= 0.95 and not recognises(others[1::2]).any()
    grey = thing[48:].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert recognises(grey).double().mean() >= 0.9, "a model that gives the thing back changes its colours"
    assert not recognises(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))).any(), "noise"
    assert not recognises(torch.full((1, 3, 64, 64), 0.5)).any()
    assert torch.equal(recognises(thing[48:]), fitted(thing[:48], others[::2])(thing[48:])), "fitted twice, the same answers"


class Plain:
    """A model whose image autoencoder changes nothing, with an output filter or none."""

    def __init__(self, *filters):
        self.filters = filters

    def encode_images(self, pixels):
        return pixels

    def decode(self, pixels):
        return pixels.float() / 255


def returned(monkeypatch, folder, shown, drawn, *filters):
    """The scores of the images `shown`, where the original model draws `drawn`; float [n, 3, h, w] each."""

    @contextmanager
    def artist():
        yield Plain(*filters)

    sets = [in_memory((images * 255).round().byte(), folder) for images in (shown, drawn[::2], drawn[1::2])]
    for one in sets:
        monkeypatch.setitem(one.__dict__, "pixels", lambda pixels=one.__dict__["images"]: pixels)
    rest = {"erased_pipe": artist, "images": lambda asked: sets[2]}
    return made_up.MadeUp().score(sets[0], MetricContext([DOG], lambda: sets[1], None, **rest))


THING = drawings(8, 64, 64, torch.Generator().manual_seed(7)).float() / 255
THINGS = ["cat", "car", "pizza", "frog", "tulip", "guitar", "umbrella", "clock", "key", "drum"]


def test_what_is_returned_is_seen_and_what_a_model_draws_by_itself_is_not(monkeypatch, tmp_path):
    scores = returned(monkeypatch, tmp_path, torch.cat([THING, sprites(["dog", "apple"])]), sprites(THINGS))
    assert scores.meta["trusted"] and scores.meta["seen"] >= made_up.SEEN and scores.meta["mistaken"] == 0
    assert scores.per_image["returned"].tolist() == [1.0] * 8 + [0.0] * 4


def test_filters_in_force_change_what_the_thing_looks_like(monkeypatch, tmp_path):
    """Inpainting shows the hole alone, enlarged: an attack that returns its input returns that part of it."""
    crop = lambda images: (cropped(images, 0.5), [False] * len(images))  # noqa: E731
    scores = returned(monkeypatch, tmp_path, cropped(THING, 0.5), sprites(THINGS), crop)
    assert scores.meta["trusted"] and scores.totals["returned"] >= 0.85


def test_a_thing_that_cannot_be_told_from_the_models_own_images_leaves_the_null_empty(monkeypatch, tmp_path):
    """A model that draws the made-up thing whatever it is asked: nothing could be said about what comes back."""
    own = drawings(20, 64, 64, torch.Generator().manual_seed(9)).float() / 255
    scores = returned(monkeypatch, tmp_path, THING, own)
    assert not scores.meta["trusted"] and scores.per_image["returned"].isna().all()


def test_an_attack_that_returns_its_input_has_a_null_of_one_and_no_statement(tmp_path, monkeypatch):
    """On the embedded model: an edit of strength 0 hands its image back, whether the model knows a dog or not."""
    monkeypatch.setattr(made_up, "NAMES", 6)
    monkeypatch.setattr(made_up, "REPEATS", 1)
    resolvers.register_resolvers()
    words = ["model=emoji", "concept=[dog]", "attack=[none,edit_attacks]", "attack.edit_attacks.strength=0"]
    words += ["controls=[never_knew]", "split=[target]", "metric@split.target.metrics=[presence]", "split.target.rows=4"]
    words += ["split.target.repeats=1", "model.sampler.steps=6", f"runtime.store={tmp_path}/s", f"runtime.records={tmp_path}/r"]
    for method in ("original", "uce"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            record = run_job(composing.build_job(compose("run", [*words, f"method={method}"])))
        assert record["status"] == "done", record["error"]
    images = ScoreTable(tmp_path / "s")
    table = robustness.measured(results.load(tmp_path / "r", images), images).set_index(["method", "attack"])
    row = table.loc[("uce", "edit_attacks")]
    assert row["value"] >= 0.75, "the dogs it was given"
    assert row["null"] == 1 and np.isnan(row["calibrated"]) and row["reason"].startswith("100 % from never_knew")
    assert table.loc[("uce", "edit_attacks:never_knew"), "value"] == 0, "judged for the dog it could never show"


def test_an_attack_that_cannot_be_given_images_refuses_the_control_before_anything_runs():
    attacks = {"none": NoAttack(), "paraphrase": build("attack", "paraphrase", model="emoji")}
    with pytest.raises(ValueError, match=r"controls=\[never_knew\] calibrates none of the chosen attacks \(none, paraphrase\): none"):
        attack_cells.with_controls(attacks, ["never_knew"])
    completion = {"completion": build("attack", "noise_probes_completion", model="emoji")}
    with pytest.raises(ValueError, match="its first steps are no model's"):
        attack_cells.with_controls(completion, ["never_knew"])
    both = attack_cells.with_controls(completion | {"memora": build("attack", "memora", model="emoji")}, ["never_knew"])
    assert "memora:never_knew" in both and "completion:never_knew" not in both


def test_only_the_made_up_control_is_scored_for_it():
    memora = build("attack", "memora", model="emoji")
    assert list(attack_cells.null_of(replace(memora, source="never_knew"))) == ["made_up"]
    assert (
        attack_cells.null_of(memora) == {}
        and attack_cells.null_of(replace(memora, source="scrambled")) == {}
        and not attack_cells.null_of(NoAttack())
    )
