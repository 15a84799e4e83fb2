"""Pairs of prompts filtered by what the original model draws: candidates differ in one thing, and the judge decides what is kept."""

import pandas as pd
import pytest

from vestige.bench.cli import main
from vestige.bench.places import CHECKOUT
from vestige.bench.prompts import prompt_sets
from vestige.bench.run import pairgen
from vestige.bench.run.generate import load

PAIRS = CHECKOUT / "prompts" / "pairs" / "emoji"


def test_a_pair_differs_in_the_concept_alone(concept):
    dog = concept("dog", siblings=["cat", "ice cream"])
    pairs = pairgen.candidates(dog, 8, "emoji")
    assert len({pair["target"]["row_id"] for pair in pairs}) == 8
    for pair in pairs:
        thing = pair["replaced"]["expect"].replace("_", " ")
        assert thing in dog.siblings and "dog" not in pair["replaced"]["prompt"]
        assert prompt_sets.with_articles(pair["target"]["prompt"].replace("dog", thing)) == pair["replaced"]["prompt"]


def test_a_concept_whose_siblings_are_erased_too_is_replaced_by_something_unrelated(concept):
    pairs = pairgen.candidates(concept("bomb", siblings=[], others=["tulip"]), 2, "emoji")
    assert all("tulip" in pair["replaced"]["prompt"] for pair in pairs)
    with pytest.raises(ValueError, match="nothing to put in its place"):
        pairgen.candidates(concept("bomb", siblings=[], others=[]), 2, "emoji")


class Told:
    """A judge that sees the concept as often as it was told for each prompt set."""

    def __init__(self, target, replaced):
        self.answers = [target, replaced]

    def about(self, concepts):
        return self

    def present(self, images, expect):
        import torch

        return torch.tensor(self.answers.pop(0))


def test_the_filter_keeps_two_of_three_and_none_of_three(monkeypatch, tmp_path, concept, tiny, sampler):
    from vestige.bench.run import generate, stages

    class Stages:
        def __init__(self, job):
            pass

        def images(self, asked, sampler):
            folder = tmp_path / asked.name
            folder.mkdir()
            generate.draw(tiny, asked, sampler, folder, 12)
            return type("Stage", (), {"path": folder})

    shown = [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1]  # three, two, one, three of three
    elsewhere = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]  # the fourth pair's counterpart shows it once
    monkeypatch.setattr(stages, "Stages", Stages)
    monkeypatch.setattr(pairgen.judges, "load", lambda name: Told([bool(x) for x in shown], [bool(x) for x in elsewhere]))
    model = type("Model", (), {"prompt_style": "emoji", "name": "tiny"})
    job = type("Job", (), {"model": model, "attack_judge": "any", "sampler": sampler, "runtime": type("Runtime", (), {"device": "cpu"})})
    table = pairgen.frozen(job, concept("dog"), 4)
    assert table["row_id"].tolist() == ["dog-000", "dog-000-replaced", "dog-001", "dog-001-replaced"]
    assert table["base_rate"].tolist() == pytest.approx([1, 1, 0.67, 0.67]) and set(table["role"]) == {"target", "sibling"}
    assert load(tmp_path / "pairgen-target-emoji-dog").index["rep"].max() == 2


def test_the_filter_must_not_be_the_judge_that_scores(capsys):
    assert main(["prompts", "pairgen", "concept=dog", "model.attack_judge=emoji_a"]) == 2
    assert "choose another" in capsys.readouterr().err
    assert main(["prompts", "pairgen", "--row=3"]) == 2 and "--rows=24" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(PAIRS.glob("*.csv")), ids=lambda file: file.stem)
def test_the_frozen_sets_are_pairs_and_replacements_never_name_the_concept(file):
    table = pd.read_csv(file)
    assert (table.groupby("group")["role"].apply(sorted).map(tuple) == ("sibling", "target")).all()
    assert (table["base_rate"] >= 0.6).all()
    concept = file.stem.replace("_", " ")
    replaced, target = (table[table["role"] == role] for role in ("sibling", "target"))
    assert target["prompt"].str.contains(rf"\b{concept}\b").all() and not replaced["prompt"].str.contains(rf"\b{concept}\b").any()
    assert len(prompt_sets.build("x", f"{file}?role=sibling", 500, 1, [], "emoji")) == len(replaced)
