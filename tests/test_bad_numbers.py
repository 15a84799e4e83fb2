"""Numbers and schedulers that draw nothing: a sentence with what to type, and exit code 2, before a model is loaded."""

from dataclasses import replace

import pytest

import vestige as face
from vestige.bench.cli import main
from vestige.bench.contract.types import Sampler
from vestige.bench.models import loading
from vestige.bench.models.families import family as family_of
from vestige.bench.models.families import names
from vestige.bench.run.checks import check_sampler, whole_number

FLOW, DIFFUSION = "FlowMatchEulerDiscreteScheduler", "DDIMScheduler"


@pytest.mark.parametrize(
    "word, said",
    [
        ("model.sampler.steps=0", "Type a whole number such as model.sampler.steps=50"),
        ("model.sampler.steps=-3", "model.sampler.steps=-3: an image takes at least one step"),
        ("model.sampler.steps=2.5", "could not be converted to Integer. Type a whole number"),
        ("model.sampler.guidance=nan", "model.sampler.guidance=nan is not finite. Type a number such as model.sampler.guidance=7.5"),
        ("model.sampler.guidance=-inf", "model.sampler.guidance=-inf is not finite"),
        ("model.sampler.height=20", "multiples of 8 pixels. Type model.sampler.height=16"),
        ("model.sampler.width=0", "Type model.sampler.width=8"),
        ("model.sampler.width=16.5", "could not be converted to Integer. Type a whole number"),
        ("seed=1.5", "seed=1.5 is not a whole number from 0 on. Type one such as seed=0"),
        ("seed=-1", "seed=-1 is not a whole number"),
        ("seed=true", "seed=True is not a whole number"),
        (f"model.sampler.scheduler={FLOW}", "which is a diffusion. Type model.sampler.scheduler=DDIMScheduler"),
    ],
)
def test_a_number_that_draws_nothing_gets_a_sentence(word, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path))
    monkeypatch.setattr(loading, "load", None)  # a call would be a TypeError
    assert main(["run", "model=tiny", "method=original", word]) == 2
    told = capsys.readouterr()
    assert said in told.err + told.out and "Traceback" not in told.err
    assert not list(tmp_path.glob("records/*")) and not list(tmp_path.glob("store/*/*"))


@pytest.mark.parametrize("family", [name for name in names() if not family_of(name).own_sampler])
def test_each_family_takes_schedulers_of_its_own_process_and_sizes_of_its_own_grid(family):
    layout = family_of(family)
    right, wrong = (DIFFUSION, FLOW) if layout.diffusion else (FLOW, DIFFUSION)
    sampler = Sampler(right, {}, 4, 3.0, 512, 768)
    check_sampler(sampler, family)
    with pytest.raises(ValueError, match=rf"{wrong} does not fit model\.family={family}.* Type model\.sampler\.scheduler={right}\."):
        check_sampler(replace(sampler, scheduler=wrong), family)
    if layout.cell == 16:
        with pytest.raises(ValueError, match=r"multiples of 16 pixels. Type model\.sampler\.height=512"):
            check_sampler(replace(sampler, height=520), family)
    else:
        check_sampler(replace(sampler, height=520), family)


@pytest.mark.parametrize("value", [1.5, -1, True, None, "abc", float("nan")])
def test_only_whole_numbers_from_0_on_are_seeds(value):
    assert whole_number("seed", 0) == 0 and whole_number("seed", 2**40) == 2**40
    with pytest.raises(ValueError, match=r"seed=.* Type one such as seed=0"):
        whole_number("seed", value)


def test_the_import_face_refuses_the_same():
    pipe = face.load("tiny")
    with pytest.raises(ValueError, match=r"seeds=1\.5 is not a whole number"):
        face.draw(pipe, ["a dog"], [1.5])
    with pytest.raises(ValueError, match="an image takes at least one step"):
        face.draw(pipe, ["a dog"], [1], ["model.sampler.steps=0"])
