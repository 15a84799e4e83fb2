"""What is scored as kept is given to no method: seen by a method that writes down what it is told."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Erasure, plain
from vestige.bench.places import CONF
from vestige.bench.prompts import prompt_sets
from vestige.bench.run import composing, concept_sets, contract_checks, resolvers
from vestige.bench.run.job import Job, Runtime, Split
from vestige.bench.run.runner import run_job
from vestige.bench.run.stages import Stages

FILES = {f.stem: OmegaConf.to_container(OmegaConf.load(f), resolve=True) for f in sorted((CONF / "concept").glob("*.yaml"))}
ASKED = ("siblings", "others", "scenes")
told: list = []


@dataclass
class Spy(Method):
    """Erases nothing and writes down every concept it is handed."""

    def supports(self, model, concepts):
        told.append(concepts)

    def inputs(self, concepts):
        told.append(concepts)
        return {}

    def erase(self, pipe, concepts, ctx):
        told.append(concepts)
        return Erasure({}, {})


def entries(choice: str) -> dict:
    """As Hydra composes them, which takes too long for all."""
    content = {slug: entry for slug, entry in FILES[choice].items() if slug != "defaults"}
    members = {slug: FILES[slug][slug] for slug in FILES[choice].get("defaults", [])}
    return members | {slug: members.get(slug, {}) | entry for slug, entry in content.items()}


def job(choice: str, tmp_path, prompt_style: str = "photo", held_out: bool = True, **splits: str) -> Job:
    runtime = Runtime("cpu", 8, str(tmp_path / "store"), str(tmp_path / "records"), "skip", [], None)
    asked = {name: Split(name, source, 2, 1, False) for name, source in (splits or {name: name for name in ASKED}).items()}
    model = dataclasses.replace(contract_checks.tiny_of(), prompt_style=prompt_style)
    concepts = concept_sets.chosen_concepts(entries(choice), held_out)
    return Job(model, concepts, "spy", Spy(), {}, asked, contract_checks.sampler_of(), "emoji_b", 0, "erase", runtime, held_out=held_out)


def names(concepts) -> set[str]:
    return {name for concept in concepts for name in (*concept.siblings, *concept.others)}


@pytest.mark.parametrize("choice", sorted(FILES))
def test_no_shipped_concept_is_handed_over_with_a_name_that_is_scored_as_kept(choice, tmp_path):
    made = job(choice, tmp_path)
    held_out = {name for concept in made.concepts for name in concept.held_out}
    assert len(held_out) >= 8 and held_out < names(made.concepts)
    assert not held_out & names(made.given) and names(made.given)
    for word in held_out:
        assert f'"{word}"' not in json.dumps(plain(made.given))
    for concept, given in zip(made.concepts, made.given, strict=True):
        assert not concept.siblings or given.siblings, f"{concept.slug}: methods that need a sibling get none"
    if len(made.concepts) < 20:
        asked = set()
        for split in made.splits.values():
            try:
                asked |= prompt_sets.kept_names(made.prompts_of(dataclasses.replace(split, rows=8)))
            except prompt_sets.NothingToAsk:
                continue
        assert asked and asked <= {prompt_sets.slug(name) for name in held_out}


@pytest.mark.parametrize("choice", ["dog", "pixel_art", "danger", "van_gogh", "nudity", "emoji_10"])
def test_the_method_sees_the_given_half_only_and_its_key_is_of_that(choice, tmp_path):
    told.clear()
    made = job(choice, tmp_path)
    record = run_job(made)
    assert record["status"] == "done", record["error"]
    assert len(told) >= 3 and all(concepts == made.given for concepts in told)
    assert Stages(made).erase_spec()["concepts"] == plain(made.given)
    held_out = {name for concept in made.concepts for name in concept.held_out}
    assert held_out and all(not held_out & names(concepts) for concepts in told)


def test_a_file_may_choose_its_own_names_and_a_wrong_one_is_refused(concept):
    own = concept_sets.with_held_out(concept(siblings=["cat", "frog"], others=["car"], held_out=["cat"]))
    assert own.held_out == ["cat"] and own.asked_of(own.siblings) == ["cat"]
    every_second = concept_sets.with_held_out(concept(siblings=["a", "b", "c", "d"], others=["e", "f", "g"]))
    assert every_second.held_out == ["b", "d", "f"]
    with pytest.raises(ValueError, match=r"concept\.dog\.held_out names 'cow'.*cat, frog, car, apple"):
        concept_sets.with_held_out(concept(held_out=["cow"]))


def test_a_name_held_out_by_one_is_handed_to_nobody_in_the_set(concept):
    dog = concept("dog", siblings=["cow", "frog"], others=["car", "pizza"], held_out=["frog", "pizza"])
    cat = concept("cat", siblings=["frog", "owl"], others=["pizza", "clock"], held_out=["owl"])
    dog, cat = concept_sets.as_one_set([dog, cat])
    assert set(dog.held_out) == {"frog", "pizza"} and set(cat.held_out) == {"frog", "pizza", "owl"}


def test_one_name_alone_is_given_and_not_asked_for(concept):
    alone = concept_sets.with_held_out(concept(siblings=["cat"], others=["car"]))
    assert alone.held_out == [] and not alone.asked_of(alone.siblings)
    with pytest.raises(prompt_sets.NothingToAsk, match="do not hold out"):
        prompt_sets.build("siblings", "siblings", 2, 1, [alone], "photo")


def test_held_out_false_is_the_papers_setup(tmp_path):
    whole, split = job("dog", tmp_path, held_out=False), job("dog", tmp_path)
    assert whole.given == whole.concepts and names(whole.given) == names(split.concepts) > names(split.given)
    asked = [prompt_sets.kept_names(made.prompts_of(Split("siblings", "siblings", 10, 1, False))) for made in (whole, split)]
    assert asked == [{"cat", "frog", "octopus", "penguin", "elephant"}, {"frog", "penguin"}]


def test_names_that_a_probe_lists_itself_are_handed_to_no_method(tmp_path):
    paper = job("celebrities_5", tmp_path, others="mace_celebrity_others")
    listed = dataclasses.replace(paper.splits["others"], rows=500)
    paper = dataclasses.replace(paper, splits={"others": listed})
    asked = prompt_sets.kept_names(paper.prompts_of(listed))
    assert len(asked) == 100 and not asked & {prompt_sets.slug(name) for name in names(paper.given)}
    (tmp_path / "own.csv").write_text("row_id,prompt,role,expect\n1,a cat,sibling,cat\n")
    own = job("dog", tmp_path, "emoji", own=str(tmp_path / "own.csv"))
    assert "cat" in names(job("dog", tmp_path, "emoji").given) and "cat" not in names(own.given)


def test_both_are_in_the_record_and_printed(tmp_path, capsys):
    from vestige.bench.cli import main

    resolvers.register_resolvers()
    places = [f"runtime.store={tmp_path}", f"runtime.records={tmp_path / 'records'}", "until=erase", "model=tiny", "method=original"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        trees = [compose("run", [*places, f"held_out={value}"]) for value in ("true", "false")]
    kept, whole = (run_job(composing.build_job(tree))["specification"] for tree in trees)
    assert kept["held_out"] and not whole["held_out"]
    assert "frog" in kept["concepts"][0]["held_out"] and whole["concepts"][0]["held_out"] is None
    assert main(["ls", "concepts", "dog"]) == 0
    said = capsys.readouterr().out
    assert "given to methods (9): cat, octopus" in said and "held out for evaluation (8): frog, penguin" in said
