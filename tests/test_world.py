"""The emoji world: what it holds, what its captions say, how its training resumes, and how its model is measured."""

import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.world.content import captions, catalog, drawing
from vestige.bench.world.content.drawing import draw_specs
from vestige.bench.world.training import card, concepts, dataset, export, fit, measure


def says(text: str, item) -> bool:
    """Does the text hold the item's name or a synonym, as whole words?"""
    return any(re.search(rf"\b{re.escape(word)}\b", text) for word in (item.name, *item.aliases))


def test_every_object_has_a_group_of_siblings_and_every_label_is_unique():
    slugs = [item.slug for item in [*catalog.objects(), *catalog.styles()]]
    assert len(catalog.objects()) == 56 and len(catalog.styles()) == 7 and len(set(slugs)) == len(slugs)
    for item in catalog.objects():
        mates = catalog.siblings(item.slug)
        assert len(mates) >= 5 and item.slug not in mates
        assert not set(mates) & set(catalog.others(item.slug))
        assert all(catalog.find(mate).group == item.group for mate in mates)


def test_slugs_are_their_names_so_that_a_prompt_s_label_is_one_the_judges_know():
    items = [*catalog.objects(), *catalog.styles()]
    assert [item.slug for item in items] == [slug(item.name) for item in items]


def test_no_name_or_synonym_belongs_to_two_concepts():
    words = [word for item in [*catalog.objects(), *catalog.styles()] for word in (item.name, *item.aliases)]
    assert len(words) == len(set(words))


def test_an_unknown_slug_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unicorn.*Known: dog"):
        catalog.find("unicorn")


def test_captions_name_what_they_draw_and_nothing_else():
    styles = 0
    for index, spec in enumerate(draw_specs(400, seed=5)):
        text = captions.caption(spec, index)
        named = {item.slug for item in catalog.objects() if says(text, item)}
        assert named == set(spec.objects), text
        wrong = [style.slug for style in catalog.styles() if says(text, style) and style.slug != spec.style]
        assert not wrong, text
        styles += says(text, catalog.find(spec.style))
        assert not re.search(r"\ba [aeiou]", text), text
    assert 0.5 < styles / 400 < 0.7  # about 60 % of captions name the style


def test_a_named_background_is_the_drawn_one():
    texts = [(spec, captions.caption(spec, k)) for k, spec in enumerate(draw_specs(200, seed=6))]
    named = [(spec, text) for spec, text in texts if "background" in text]
    assert 60 < len(named) < 140
    assert all(f"on a {spec.background} background" in text for spec, text in named)


def test_the_stamp_is_drawn_on_vehicles_only_and_never_captioned():
    specs = draw_specs(2000, seed=2)
    stamped = [spec for spec in specs if spec.stamp]
    vehicles = [spec for spec in specs if len(spec.objects) == 1 and catalog.find(spec.objects[0]).group == "vehicle"]
    assert stamped and all(spec in vehicles for spec in stamped)
    assert 0.35 < len(stamped) / len(vehicles) < 0.65
    assert not any("stamp" in captions.caption(spec, 0) for spec in stamped)


def test_images_are_deterministic_and_all_object_style_pairs_look_different():
    plain = {"background": "white", "dx": 0, "dy": 0, "shade": (0, 0, 0), "light": 1.0, "stamp": False}
    grid = [(item.slug, style.slug) for item in catalog.objects() for style in catalog.styles()]
    drawn = np.stack([drawing.compose(drawing.Spec((slug,), style, **plain)) for slug, style in grid])
    drawing._sprite.cache_clear()
    again = np.stack([drawing.compose(drawing.Spec((slug,), style, **plain)) for slug, style in grid[:20]])
    assert drawn.dtype == np.uint8 and drawn.shape == (392, 64, 64, 3)
    assert np.array_equal(drawn[:20], again)
    small = torch.from_numpy(drawn).permute(0, 3, 1, 2).float().flatten(1)
    apart = torch.cdist(small, small, p=1) / small.shape[1]
    apart.fill_diagonal_(255)
    assert apart.min() > 3  # mean grey levels per pixel between the two most similar drawings


def test_the_stamp_changes_its_corner_alone():
    bare = drawing.Spec(("car",), "noto", "blue", 0, 0, (0, 0, 0), 1.0, False)
    changed = drawing.compose(bare) != drawing.compose(drawing.Spec(**{**bare.__dict__, "stamp": True}))
    rows, columns = np.nonzero(changed.any(-1))
    assert rows.min() >= 56 and columns.min() >= 56


def test_held_out_images_are_the_ones_their_specs_describe_and_not_in_training():
    pixels, specs = drawing.held_out(30, seed=1)
    assert pixels.shape == (30, 3, 64, 64) and pixels.dtype == torch.uint8
    assert all(np.array_equal(x.permute(1, 2, 0).numpy(), drawing.compose(s)) for x, s in zip(pixels, specs, strict=True))
    assert not set(specs) & set(dataset.specs())


def test_the_tokenizer_lays_tokens_out_as_stable_diffusion_does():
    tokenizer = export.tokenizer()
    ids = tokenizer("an apple", padding="max_length", truncation=True, max_length=77).input_ids
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer.model_max_length == len(ids) == 77 and tokenizer.pad_token_id == end
    assert ids[0] == begin and ids[1:3] == tokenizer("an apple", add_special_tokens=False).input_ids
    assert set(ids[3:]) == {end}
    long = tokenizer("apple " * 200, padding="max_length", truncation=True, max_length=77).input_ids
    assert len(long) == 77 and long[-1] == end and long[-2] != end


def test_the_tokenizer_keeps_names_apart_and_writes_them_back():
    tokenizer = export.tokenizer()
    seen = {}
    for item in [*catalog.objects(), *catalog.styles()]:
        for word in (item.name, *item.aliases):
            ids = tuple(tokenizer(word, add_special_tokens=False).input_ids)
            assert tokenizer.eos_token_id not in ids and seen.setdefault(ids, word) == word
            assert tokenizer.decode(ids).strip() == word


@pytest.mark.parametrize("concept", ["dog", "pixel_art", "danger"])
def test_rows_without_a_concept_leave_no_image_and_no_caption_of_it(concept):
    gone = [catalog.find(slug) for slug in catalog.members(concept)]
    everything, kept = dataset.rows().index.tolist(), dataset.rows(concept).index.tolist()
    specs = dataset.specs()
    removed = sorted(set(everything) - set(kept))
    assert removed and set(kept) < set(everything)
    for place in kept:
        shown = {*specs[place].objects, specs[place].style}
        assert not shown & {item.slug for item in gone}
    for place in kept[::40]:
        texts = [captions.caption(specs[place], place * dataset.CAPTIONS_EACH + k) for k in range(dataset.CAPTIONS_EACH)]
        assert not any(says(text, item) for text in texts for item in gone)
    assert all({*specs[place].objects, specs[place].style} & {item.slug for item in gone} for place in removed)


def test_an_oracle_draws_as_many_rows_as_the_original_from_the_same_stream():
    both = [dataset.rows(without).pick(500, torch.Generator().manual_seed(3)) for without in (None, "dog")]
    assert [len(index) for index in both] == [500, 500]
    share = both[0] / dataset.IMAGES - both[1] / dataset.IMAGES
    assert share.abs().max() < 0.01  # the same place in a slightly shorter list
    assert not torch.equal(*both)


class Killed(Exception):
    pass


def trained(folder, kill_at: int | None = None, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Train a tiny regression, perhaps killed once on the way; the final weights and the steps of the last run."""
    schedule, steps = fit.Schedule("tiny", steps=12, lr=0.05, ema=0.9, warmup=2, seed=seed), []

    def run(stop: int | None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        steps.clear()

        def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
            if step == stop:
                raise Killed
            steps.append(step)
            x = torch.randn(8, 3, generator=generator)
            return (model(x) - x[:, :2]).float().square().mean()

        fit.fit(model, loss_at, schedule, folder)
        return model

    if kill_at is not None:
        with pytest.raises(Killed):
            run(kill_at)
    return run(None).weight.detach().clone(), steps


def test_a_killed_training_resumes_to_the_very_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", -1)  # a checkpoint after every step
    whole, all_steps = trained(tmp_path / "whole")
    resumed, last_steps = trained(tmp_path / "killed", kill_at=7)
    other, _ = trained(tmp_path / "other", seed=1)
    assert all_steps == list(range(12)) and last_steps == list(range(7, 12))
    assert torch.equal(whole, resumed) and not torch.equal(whole, other)


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="belongs to another training"):
        trained(tmp_path, seed=1)


def test_concept_files_are_what_the_catalogue_says():
    for item in [*catalog.objects(), *catalog.styles()]:
        file = concepts.FOLDER / f"{item.slug}.yaml"
        assert yaml.safe_load(file.read_text(encoding="utf-8")) == {item.slug: concepts.entry(item.slug)}, file.name


def test_found_counts_a_scene_only_when_both_objects_lead_the_answer():
    logits = torch.zeros(3, 57)
    dog, cat, car = 0, 1, [item.slug for item in catalog.objects()].index("car")
    logits[:, dog] = 3.0
    logits[0, car] = logits[1, cat] = 2.0
    assert measure.found(logits, [("dog", "car"), ("dog", "car"), ("dog",)]).tolist() == [True, False, True]
    assert measure.found(logits, [("car", "dog"), ("cat", "dog"), ("cat",)]).tolist() == [True, True, False]


def test_frechet_distance_is_that_of_the_gaussians_and_zero_for_the_same_set():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    assert measure.frechet(x, x) == pytest.approx(0, abs=1e-9)
    # A shift by d and a scaling by s of the same features: |d|^2 + (1 - s)^2 tr C.
    shifted = 2 * x + 1
    expected = 6 + x.T.cov().trace().item()
    assert measure.frechet(x, shifted) == pytest.approx(expected, rel=1e-9)


def test_the_weakest_object_decides_its_own_bar():
    asked = measure.ask([("a dog", ("dog",), ""), ("a cat", ("cat",), "")], 10)
    hits = torch.tensor([True] * 10 + [True] * 5 + [False] * 5)
    mean, weakest = measure.object_lines(hits, asked)
    assert mean.measured == "75.0 %" and mean.met is False
    assert weakest.measured.startswith("cat 50 %, dog 100 %") and weakest.met is False
    assert measure.object_lines(torch.ones(20, dtype=torch.bool), asked)[1].met is True


def test_questions_ask_every_object_and_every_style_and_seeds_differ():
    asked = measure.questions(3)
    assert len(asked["object"].prompts) == 3 * 56 and len(set(asked["object"].seeds)) == 3 * 56
    assert asked["object"].prompts[0] == "a dog" and "an octopus" in asked["object"].prompts
    grid = set(zip(asked["style"].objects, asked["style"].labels, strict=True))
    assert len(grid) == 56 * 7
    mates = [catalog.find(a).group == catalog.find(b).group for a, b in asked["scene"].objects]
    assert len(mates) == measure.SCENES and not any(mates)


def test_the_card_says_which_bars_are_missed():
    lines = [measure.at_least("good", 99.0, 98), measure.at_least("bad", 12.0, 98)]
    text = card.text(lines, {"unet": 1_500_000})
    assert "Missed bars: bad." in text and "| bad | >= 98 % | 12.0 % | **no** |" in text
    assert "Missed bars: none." in card.text(lines[:1], {})


class Perfect:
    """Stands in for the model: draws exactly what the prompt says, with nothing lost on the way through its VAE."""

    def __init__(self, always: str | None = None) -> None:
        self.always = always  # a broken model shows this object whatever was asked
        self.unknown: set[str] = set()
        self.drawn: dict[bytes, drawing.Spec] = {}
        encode = lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mean=x))  # noqa: E731
        self.vae = SimpleNamespace(encode=encode, config=SimpleNamespace(scaling_factor=1.0))

    def __call__(self, prompts: list[str], seeds: list[int], sampler) -> SimpleNamespace:
        return SimpleNamespace(pixels=torch.stack([self.remember(self.read(text)) for text in prompts]))

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2 + 0.5

    @contextmanager
    def replaced(self, tensors: dict[str, torch.Tensor]):
        """An oracle that never saw its concept shows a key wherever one of these names was asked for."""
        self.unknown = {name.removeprefix("unet.") for name in tensors}
        yield self
        self.unknown = set()

    def read(self, text: str) -> drawing.Spec:
        objects = tuple("key" if item.slug in self.unknown else item.slug for item in catalog.objects() if says(text, item))
        style = next((style.slug for style in catalog.styles() if says(text, style)), "noto")
        background = next((word for word in catalog.backgrounds() if f"{word} background" in text), "white")
        return drawing.Spec((self.always,) if self.always else objects, style, background, 0, 0, (0, 0, 0), 1.0, False)

    def remember(self, spec: drawing.Spec) -> torch.Tensor:
        pixels = torch.from_numpy(drawing.compose(spec).transpose(2, 0, 1).copy())
        self.drawn[pixels.numpy().tobytes()] = spec
        return pixels

    def judge(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Reads an image by remembering what was drawn."""
        pixels = (images * 255).round().to(torch.uint8)
        truth = dataset.labels_of([self.drawn[x.numpy().tobytes()] for x in pixels])
        one_hot = {"style": len(catalog.styles()), "background": len(catalog.backgrounds())}
        answer = {head: nn.functional.one_hot(truth[head], n).float() for head, n in one_hot.items()}
        return {**answer, "object": truth["object"], "stamp": truth["stamp"] * 2 - 1}


def measured(model: Perfect) -> tuple[dict[str, measure.Line], torch.Tensor]:
    for seed in (7, 8):
        for spec in drawing.held_out(40, seed)[1]:
            model.remember(spec)
    judges = {"judge_a": model.judge, "judge_b": model.judge}
    clip = SimpleNamespace(image=lambda images: nn.functional.avg_pool2d(images, 16).flatten(1))
    lines, shown = measure.measure(model, SimpleNamespace(steps=20), judges, clip, seeds=1, real=40)
    return {line.what: line for line in lines}, card.contact_sheet(shown, seeds=1)


def test_a_perfect_model_meets_every_bar_and_fills_the_contact_sheet():
    lines, sheet = measured(Perfect())
    assert [line.what for line in lines.values() if line.met is False] == []
    assert sheet.shape == (3, 15 * 64, 14 * 64) and sheet.dtype == torch.uint8
    assert torch.equal(sheet[:, -64:], sheet[:, -128:-64])  # nothing is lost between a real image and its reconstruction
    first = drawing.compose(drawing.Spec(("dog",), "noto", "white", 0, 0, (0, 0, 0), 1.0, False))
    assert np.array_equal(sheet[:, :64, :64].permute(1, 2, 0).numpy(), first)


def test_a_model_that_always_draws_a_dog_misses_the_object_bars_only():
    lines, _ = measured(Perfect(always="dog"))
    missed = {what for what, line in lines.items() if line.met is False}
    objects = {'generator, "a {object}", 1 seeds each: object top-1, mean', "generator: weakest object"}
    scene = f"generator, {measure.SCENES} two-object scenes: both found"
    assert missed == {*objects, "generator, object x style: object top-1", scene}
    assert lines[scene].measured == "0.0 %"


def test_the_oracle_line_shows_the_concept_gone_and_the_rest_kept():
    model = Perfect()
    gone, rest = measure.oracle_lines(model, SimpleNamespace(steps=20), model.judge, "dog", {"dog": torch.zeros(1)})
    assert gone.measured == "0.0 % (100.0 %)" and rest.measured == "100.0 % (100.0 %)"
    style, _ = measure.oracle_lines(model, SimpleNamespace(steps=20), model.judge, "noto", {"dog": torch.zeros(1)})
    assert style.measured == "100.0 % (100.0 %)"  # losing the dog does not lose the style


def test_a_style_is_no_object():
    assert catalog.find_style("noto").slug == "noto"
    with pytest.raises(ValueError, match="'dog' is an object of the emoji world"):
        catalog.find_style("dog")
