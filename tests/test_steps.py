"""Concepts erased one step after the other: keys, what a step knows, what is attached, what a record and a plan say of it."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from newcomer import quick_words

from vestige.bench import cli
from vestige.bench.contract.plugin import Method
from vestige.bench.contract.types import Erasure
from vestige.bench.models.diffusion import choose_parameters
from vestige.bench.reports import identity
from vestige.bench.run import composing, concept_sets, contract_checks, record, runner, tree
from vestige.bench.run.contract_checks import build
from vestige.bench.run.stages import Stages
from vestige.bench.run.store import Store

CHOSEN = {1: "concept=[dog]", 2: "concept=[dog,cat]", 3: "concept=[dog,cat,frog]"}


def words_of(place, *words):
    return quick_words(place, "method=uce", *words)


def job(place, *words):
    return composing.build_job(tree.composed(words_of(place, *words)))


def edited(made) -> dict[str, torch.Tensor]:
    """Keys and values of cross-attention after the last step."""
    stages = Stages(made)
    with stages.models.attached(stages.erase()) as pipe:
        return {name: w.detach().clone() for name, w in choose_parameters(pipe.denoiser, r"attn2\.to_[kv]\.weight$").items()}


def distance(one: dict, two: dict) -> float:
    return max((one[name] - two[name]).abs().max().item() for name in one)


# What a job is


def test_a_job_without_steps_has_one_step_and_no_word_of_it_in_its_keys(tmp_path):
    plain, one = job(tmp_path, CHOSEN[2]), job(tmp_path, CHOSEN[2], "steps=[[cat,dog]]")
    assert plain.steps == [plain.concepts] == one.steps
    spec = Stages(plain).erase_spec()
    assert "parent" not in spec and spec == Stages(one).erase_spec()
    assert "steps" not in record.empty(plain, {})["specification"]
    assert record.empty(plain, {})["steps"] == [{"concepts": ["dog", "cat"]}]


def test_steps_are_lists_or_each_and_jobs_that_differ_in_their_order_ask_the_same(tmp_path):
    each, there = job(tmp_path, CHOSEN[2], "steps=each"), job(tmp_path, CHOSEN[2], "steps=[[dog],[cat]]")
    back = job(tmp_path, CHOSEN[2], "steps=[[cat],[dog]]")
    assert each.steps == there.steps and [c.slug for step in back.steps for c in step] == ["cat", "dog"]
    assert back.concepts == there.concepts == job(tmp_path, CHOSEN[2]).concepts
    keys = {record.empty(made, {})["key"] for made in (there, back, job(tmp_path, CHOSEN[2]))}
    assert len(keys) == 3


def test_a_step_knows_those_before_it_and_none_that_comes_later(tmp_path):
    alone, three = job(tmp_path, CHOSEN[1]), job(tmp_path, CHOSEN[3], "steps=[[dog],[cat],[frog]]")
    (dog,), (cat,), (frog,) = three.steps
    assert [dog] == alone.concepts and "cat" in dog.siblings
    assert "dog" not in cat.siblings and "frog" in cat.siblings and not {"dog", "cat"} & set(frog.siblings)
    assert all(not {"dog", "cat", "frog"} & set(c.siblings) for c in three.concepts)


def test_what_is_scored_as_kept_was_given_to_no_step(tmp_path, concept):
    first = concept("dog", siblings=["cat", "fox", "wolf"], others=["car"], held_out=["fox"])
    second = concept("cat", siblings=["wolf", "fox", "lion"], others=["apple"], held_out=["wolf", "lion"])
    steps = concept_sets.in_order([[first], [second]])
    given = {n for (c,) in steps for n in (*c.siblings, *c.others) if n not in c.held_out}
    kept = {n for c in concept_sets.whole(steps, ["dog", "cat"]) for n in c.held_out}
    assert kept == {"fox", "lion"} and "wolf" in given and not kept & given
    made = job(tmp_path, CHOSEN[3], "steps=each", "split=[target,siblings,others]")
    asked = {n.split(";")[0] for s in made.splits.values() if s.name != "target" for n in made.prompts_of(s).table["expect"]}
    assert asked and not asked & {n.replace(" ", "_") for c in made.given for n in (*c.siblings, *c.others)}


@pytest.mark.parametrize(
    "steps, said",
    [
        ("[[dog],[]]", r"steps=\[\[dog\],\[\]\] holds an empty step"),
        ("[]", r"steps=\[\] holds an empty step"),
        ("[[dog],[cat,dog]]", "names dog more than once"),
        ("[[dog],[frog]]", r"orders dog, frog, but concept= chooses dog, cat\. Name the same concepts in both: concept=\[dog,frog\]"),
        ("[[dog]]", "orders dog, but concept= chooses dog, cat"),
        ("[dog,cat]", r"must be null .*, each, or a list of lists"),
        ("all", "must be null"),
    ],
)
def test_steps_that_are_none_are_refused_in_a_sentence(tmp_path, steps, said):
    with pytest.raises(ValueError, match=said):
        job(tmp_path, CHOSEN[2], f"steps={steps}")


def test_steps_alone_choose_their_concepts():
    expand = concept_sets.with_concepts_of_steps
    assert expand(["method=uce", "steps=[[dog],[cat, 'frog']]"])[-1] == "concept=[cat,dog,frog]"
    for kept in (["steps=[[dog],[cat]]", "concept=[dog,cat]"], ["steps=each"], ["method=uce"]):
        assert expand(kept) == kept


# What is erased


def test_two_steps_differ_from_one_joint_step_and_follow_their_order(tmp_path):
    joint, there, back = (edited(job(tmp_path, CHOSEN[2], f"steps={s}")) for s in ("null", "[[dog],[cat]]", "[[cat],[dog]]"))
    assert distance(there, joint) > 1e-3 and distance(there, back) > 1e-3 and distance(back, joint) > 1e-3


def test_a_step_erases_from_the_model_that_the_steps_before_left_and_is_attached_on_top(tmp_path, tiny, context):
    made, method = job(tmp_path, CHOSEN[2], "steps=each"), build("method", "uce")
    (first,), (second,) = made.given_steps
    with method.attach(tiny, method.erase(tiny, [first], context())):
        erasure = method.erase(tiny, [second], context())
        with method.attach(tiny, erasure):
            by_hand = {name: w.detach().clone() for name, w in choose_parameters(tiny.denoiser, r"attn2\.to_[kv]\.weight$").items()}
    ours = edited(made)
    assert distance(ours, by_hand) == 0
    stages = Stages(made)
    parent, last = stages.erase()
    assert all(torch.equal(t, erasure.tensors[name]) for name, t in Erasure.load(last.path).tensors.items())
    assert last.meta["specification"]["parent"] == parent.key and last.meta["inputs"] == {parent.reference: parent.digest}
    before = stages.models.pipe.fingerprint()
    with stages.models.attached([parent, last]):
        pass
    assert stages.models.pipe.fingerprint() == before


def test_the_steps_of_a_shorter_job_are_reused_when_another_is_appended(tmp_path):
    one, two, three = (Stages(job(tmp_path, CHOSEN[n], "steps=each")) for n in (1, 2, 3))
    first, second, third = one.erase(), two.erase(), three.erase()
    assert [s.key for s in third[:2]] == [s.key for s in second] and second[0].key == first[0].key
    assert three.store.computed == [third[2].reference] and two.store.computed == [second[1].reference]


def test_the_original_model_stays_the_original_in_any_number_of_steps(tmp_path):
    runner.run_job(job(tmp_path, CHOSEN[2], "method=original", "until=generate"))
    made = runner.run_job(job(tmp_path, CHOSEN[2], "method=original", "until=generate", "steps=each"))
    assert made["status"] == "done", made["error"]
    assert len([s for s in Store(tmp_path / "store").stages() if s["kind"] == "images"]) == 1, "drawn once"


@pytest.mark.parametrize("method, said", [("negative_prompt", "take the place of the one before"), ("uce", "method.form=hook")])
def test_a_method_that_cannot_be_put_on_top_is_unsupported_with_a_sentence(tmp_path, method, said):
    words = ["steps=each", f"method={method}", *(["method.form=hook"] if method == "uce" else [])]
    made = runner.run_job(job(tmp_path, CHOSEN[2], *words))
    assert made["status"] == "unsupported" and said in made["reason"]
    assert job(tmp_path, CHOSEN[2], *words[1:]).unsupported_reason is None, "in one step it is supported"


@dataclass
class Forgetful(Method):
    """Its values are made from the original model, so a second step loses the first."""

    def erase(self, pipe, concepts, ctx):
        factor = 0.5 if concepts[0].slug == "dog" else 0.7
        return Erasure({"unet.conv_out.weight": ctx.original().parameter("unet.conv_out.weight") * factor})


def test_the_contract_finds_a_method_whose_second_step_loses_the_first(tmp_path):
    checks = dict(contract_checks.method_checks(Forgetful(), tmp_path))
    with pytest.raises(AssertionError, match="the first is lost"):
        checks["it erases on top of itself, or says why not"]()


# What is said of it


def test_record_plan_and_gc_know_the_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "empty"))
    words = words_of(tmp_path, CHOSEN[2], "steps=each", f"hydra.run.dir={tmp_path}/hydra")
    runner.run_job(job(tmp_path, CHOSEN[1], "until=erase"))
    assert cli.main(["plan", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any("step 1" in line and "dog" in line and "erase cached" in line for line in told)
    assert any("step 2" in line and "cat" in line and "erase missing" in line for line in told)
    made = runner.run_job(job(tmp_path, CHOSEN[2], "steps=each"))
    assert made["status"] == "done", made["error"]
    assert [step["concepts"] for step in made["steps"]] == [["dog"], ["cat"]] and made["concepts"] == ["dog", "cat"]
    assert "uce x dog > cat on tiny" in record.line(made)
    assert made["stages"]["erase"]["key"] == made["steps"][1]["key"] != made["steps"][0]["key"]
    assert made["cost"]["erase_seconds"] == pytest.approx(sum(step["seconds"] for step in made["steps"]))
    (tmp_path / "records" / f"{made['key']}.json").rename(tmp_path / "kept.json")
    for file in (tmp_path / "records").glob("*.json"):
        file.unlink()
    (tmp_path / "kept.json").rename(tmp_path / "records" / "kept.json")
    assert cli.main(["gc", "--store", f"{tmp_path}/store", "--records", f"{tmp_path}/records", "--delete"]) == 0
    assert sorted(f.name[:7] for f in (tmp_path / "store" / "erase").glob("UCE*")) == ["UCE-cat", "UCE-dog"]


def test_rows_of_other_orders_are_told_apart_and_those_of_other_concepts_are_one(tmp_path):
    def made(n, steps):
        return json.loads(json.dumps(record.empty(job(tmp_path, CHOSEN[n], f"steps={steps}"), {"family": "sd1"})))

    joint, there, back = made(2, "null"), made(2, "[[dog],[cat]]"), made(2, "[[cat],[dog]]")
    assert [x.method for x in identity.labels([joint, there])] == ["uce (joint)", "uce (in steps)"]
    orders = [x.method for x in identity.labels([joint, there, back])]
    assert len(set(orders)) == 3 and "dog>cat" in orders[1] and "cat>dog" in orders[2]
    assert {x.method for x in identity.labels([there, made(3, "each")])} == {"uce"}, "one row over several sets"
    assert {x.method for x in identity.labels([joint, made(1, "null")])} == {"uce"}


# Places


def test_a_records_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/records cannot be written.*VESTIGE_RESULTS=/path.*runtime\.records=/path"):
        job(tmp_path, f"runtime.records={tmp_path}/file/records")


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_results_that_cannot_be_written_are_one_sentence_and_no_traceback(tmp_path, monkeypatch, capsys, verb):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VESTIGE_RESULTS", str(tmp_path / "file"))
    assert cli.main([verb, "model=tiny", "method=original"]) == 2
    told = capsys.readouterr().err
    assert "cannot be written" in told and "VESTIGE_RESULTS=/path" in told and "Traceback" not in told


def test_a_changed_first_step_dates_the_second(tmp_path):
    made = replace(job(tmp_path, CHOSEN[2], "steps=each"), until="erase")
    first, second = Stages(made).erase()
    again = Stages(made)
    file = first.path / "stage.json"
    from vestige.bench.run.store_folder import sealed

    meta = json.loads(file.read_text())
    meta.pop("seal")
    file.write_text(sealed(meta | {"digest": "0" * 16}))
    again.erase()
    assert second.reference in again.store.kept and "has another result now" in again.store.kept[second.reference]
