"""Which judge a job asks, and whether it knows every label, before anything runs and without the judges' weights."""

import dataclasses
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from newcomer import vestige
from omegaconf import OmegaConf

from vestige.bench import judges
from vestige.bench.contract.types import KINDS, Concept, plain
from vestige.bench.places import CONF
from vestige.bench.run import checks, composing, concept_sets, resolvers
from vestige.bench.run.job import Job
from vestige.bench.run.plan import judged, plan_job
from vestige.bench.run.runner import run_job
from vestige.bench.world.content import catalog

FILES = sorted((CONF / "concept").glob("*.yaml"))
PHOTO = ["sd14", "sd15", "sd21", "sdxl"]


def composed(*overrides: str):
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", ["method=original", *overrides])


def planned(*overrides: str) -> Job:
    return composing.build_job(composed(*overrides), planned=True)


def concepts_of(stem: str) -> list[Concept]:
    entries = OmegaConf.to_container(OmegaConf.load(CONF / "concept" / f"{stem}.yaml"), resolve=True)
    names = entries.pop("defaults", [])
    known = {concept.slug: plain(concept) for name in names for concept in concepts_of(name)}
    written = {slug: {**known.get(slug, {}), **entry} for slug, entry in (known | entries).items()}  # a set may change a member's entries
    return concept_sets.as_one_set([concept_sets._concept(slug, entry) for slug, entry in written.items()])


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    """One job of each kind on Stable Diffusion 1.4: composing all would take minutes, and only the concepts differ."""
    return {
        kind: planned("model=sd14", f"concept={concept}", "attack=[none,random_seeds]")
        for kind, concept in {"object": "dog", "style": "van_gogh", "celebrity": "brad_pitt", "explicit": "nudity"}.items()
    }


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_every_concept_finishes_on_stable_diffusion_as_far_as_labels_go(file, jobs):
    concepts = concepts_of(file.stem)
    job = dataclasses.replace(jobs[concepts[0].kind], concepts=concepts)
    assert checks.unknown_labels(job) == []
    asked = {where.rpartition(".metrics.")[2] for where, _, labels in job.judged() if labels}
    assert {"presence", "answers", "model.attack_judge"} <= asked


def test_the_default_judges_are_such_that_anyone_may_have(jobs):
    clip = "clip:ViT-H-14/laion2b_s32b_b79k"
    of = {kind: job.splits["target"].metrics["presence"].judge for kind, job in jobs.items()}
    assert of == {"object": f"resnet50+{clip}", "style": clip, "celebrity": clip, "explicit": f"nudenet:core+{clip}"}
    for model in PHOTO:
        told = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{model}.yaml"))
        scoring = " ".join(told["judge"].values()).replace("${model.clip}", told["clip"])
        assert set(told["judge"]) == set(KINDS) and told["attack_judge"] not in scoring, "the judge that stops an attack does not score it"


def test_a_judge_of_ones_own_choice_serves_every_kind():
    for concept in ("van_gogh", "[dog,van_gogh]"):
        job = planned("model=sd14", f"concept={concept}", "judge=clip:ViT-B-32/openai", "split=[target]")
        assert job.splits["target"].metrics["presence"].judge == "clip:ViT-B-32/openai"
    with pytest.raises(Exception, match=r"mix the kinds \['object', 'style'\].*judge=clip:"):
        planned("model=sd14", "concept=[dog,van_gogh]", "split=[target]")


@pytest.mark.parametrize(
    "words, lost",
    [
        (["model=sd14", "concept=van_gogh", "judge=resnet50"], "'van_gogh'"),
        (["model=sd14", "concept=van_gogh", "judge=emoji_a", "split=[siblings]"], "'paul_cezanne'"),
        (["model=sd14", "concept=van_gogh", "judge=canvas:/nowhere", "split=[others]"], "'car', 'bowl_of_fruit'"),
        (["model=sd14", "concept=violence", "judge=nudenet:core", "split=[target]"], "'violence'"),
        (["model=sd14", "concept=nudity", "judge=nudenet:core", "split=[others]"], "'car', 'bowl_of_fruit'"),
        (["model=sd14", "concept=snoopy", "judge=clip_cifar10:ViT-B-32/openai", "split=[target]"], "'snoopy'"),
        (["model=emoji", "concept=octopus", "judge=resnet50", "split=[target]"], "'octopus'"),
        (["model=emoji", "concept=octopus", "attack=[random_seeds]", "model.attack_judge=resnet50", "split=[target]"], "'octopus'"),
    ],
)
def test_labels_that_a_judge_does_not_know_are_named_without_its_weights(words, lost, capsys):
    job = planned(*words)
    sentence = job.missing[0]
    assert "has no label for" in sentence and lost in sentence and "judge=" in sentence.partition("Let a zero-shot")[2]
    where = "model.attack_judge" if "attack_judge" in " ".join(words) else "split."
    assert f"(asked by {where}" in sentence
    plan_job(job)
    assert f"does not know {lost.replace(chr(39), '')}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=re.escape(sentence)):
        composing.build_job(composed(*words))


def test_the_command_line_refuses_a_judge_without_the_labels_before_a_model_is_loaded(tmp_path):
    done = vestige("run", "concept=octopus", "judge=resnet50", "split=[target]", "method=uce", f"runtime.store={tmp_path}")
    assert done.returncode == 2 and "has no label for 'octopus'" in done.stderr and "judge=resnet50+clip:emoji" in done.stderr
    assert not list(tmp_path.rglob("stage.json"))


def test_a_plan_says_what_is_asked_of_whom(jobs):
    said = "\n".join(judged(jobs["object"]))
    assert "siblings.presence: resnet50 for frog" in said
    assert "scenes.presence: clip:ViT-H-14/laion2b_s32b_b79k for doughnut, sunflower among 62 candidates" in said
    assert re.search(r"target.presence, target.answers, .*: resnet50 for dog\n", said)
    assert "model.attack_judge: clip:ViT-B-32/laion2b_s34b_b79k for dog among 62 candidates" in said
    nudity = "\n".join(judged(jobs["explicit"]))
    assert re.search(r"target\.presence, synonyms\.presence: nudenet:core for nudity\n", nudity)
    assert re.search(r"target\.answers.*: clip:ViT-H-14/laion2b_s32b_b79k for nudity among", nudity), "a detector ranks nothing"
    lost = "artist:/nowhere for van_gogh; its labels lie beside its weights, which are not here"
    assert any(lost in line for line in judged(planned("model=sd14", "concept=van_gogh", "judge=artist:/nowhere", "split=[target]")))


def test_what_zero_shot_judges_chose_among_stands_in_the_record(tmp_path):
    places = [f"runtime.store={tmp_path / 'store'}", f"runtime.records={tmp_path / 'records'}"]
    few = ["split.target.rows=2", "split.target.repeats=1", "model.sampler.steps=2", "attack.random_seeds.tries=2"]
    words = ["model=emoji", "concept=dog", "split=[target]", "attack=[none,random_seeds]", "judge=emoji_a+clip:emoji"]
    tree = composed(*words, "model.attack_judge=clip:emoji", "split.target.metrics.answers.judge=clip:emoji", *few, *places)
    record = run_job(composing.build_job(tree))
    assert record["status"] == "done", record["error"]
    (listed,) = record["judges"]["clip:emoji"].values()
    assert listed["object"][0] == "a picture of a dog" and "a picture of a cat" in listed["object"]
    assert len(listed["object"]) == len(catalog.objects()) + 1
    named = {cell["metric"]: cell["candidates"] for cell in record["cells"]}
    assert named["answers"] == next(iter(record["judges"]["clip:emoji"])) and named["clip_score"] is None


def test_a_chain_ranks_by_the_first_member_that_can(jobs):
    clip = "clip:ViT-B-32/openai"
    assert judges.ranking_part(f"nudenet:core+{clip}", jobs["explicit"].concepts, ["nudity"]) == clip
    assert judges.ranking_part(f"resnet50+{clip}", jobs["object"].concepts, ["dog"]) == "resnet50"
    assert judges.ranking_part(f"resnet50+{clip}", jobs["style"].concepts, ["van_gogh"]) == clip


def test_a_model_with_answers_for_nothing_is_not_needed_to_know_labels(monkeypatch):
    """No weights are opened: loading any would fail here."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setattr(judges, "load", lambda *_: pytest.fail("a judge was loaded"))
    assert checks.unknown_labels(planned("model=sd14", "concept=church", "attack=[none,random_seeds]")) == []
