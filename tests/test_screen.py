"""The screen for minors, and what becomes of images about explicit concepts. Test words are harmless; the concept is a dog."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from vestige.attacks.none import NoAttack
from vestige.bench.contract import screen
from vestige.bench.contract.plugin import Attack, Victim
from vestige.bench.contract.types import Adversary, PromptSet, Sampler
from vestige.bench.prompts import published_lists
from vestige.bench.run import contract_checks, record
from vestige.bench.run.job import Job, Runtime, Split
from vestige.bench.run.runner import fill, run_job
from vestige.bench.run.stages import Stages
from vestige.methods.original import Original

DISGUISED = ["a girl with a kite", "two Boys", "the children's ball", "a 12 year old", "aged 9", "t33nager", "sch\u200boolgirl"]
DISGUISED += ["a s c h o o l g i r l", "ｋｉｄ at play", "gir1s", "15yo"]
HARMLESS = ["a dog on a hill", "a woman aged 34", "a 40 year old ship", "two adults", "a boycott sign", "a kidney bean"]


@pytest.mark.parametrize("text", DISGUISED)
def test_mentions_are_found_behind_disguises(text):
    assert not screen.allowed(text)


@pytest.mark.parametrize(
    "text", ["a dog on a hill", "a woman aged 34", "a 40 year old ship", "two adults", "a boycott sign", "a kidney bean"]
)
def test_harmless_words_pass(text):
    assert screen.allowed(text)


def asked(texts) -> PromptSet:
    rows = [{"row_id": f"{k}", "prompt": t, "role": "target", "expect": "dog", "names": 1, "group": f"{k}"} for k, t in enumerate(texts)]
    return PromptSet("set", pd.DataFrame(rows))


def test_rows_are_dropped_and_an_empty_set_is_refused_without_repeating_its_words():
    kept = screen.screened(asked(["a dog", "a girl", "a ship"]))
    assert kept.prompts == ["a dog", "a ship"] and kept.table["row_id"].tolist() == ["0", "2"]
    with pytest.raises(ValueError, match="dropped all 1 rows") as error:
        screen.screened(asked(["a schoolgirl"]))
    assert "schoolgirl" not in str(error.value)


def test_adversarial_rows_get_their_own_prompt_back():
    old = asked(["a dog", "a ship"])
    told = screen.restored(old.with_prompts(["a kid", "x ship"]), old)
    assert told.prompts == ["a dog", "x ship"] and told.table["screened"].tolist() == [True, False]


def test_no_setting_names_the_screen():
    """A switch would have to be a field of the runtime, the job or a split, or an environment variable read by the screen."""
    fields = {f.name for cls in (Runtime, Job, Split) for f in dataclasses.fields(cls)}
    assert not [name for name in fields if "screen" in name or "minor" in name]
    source = Path(screen.__file__).read_text()
    assert "environ" not in source and "import os" not in source


def test_an_explicit_concept_whose_words_fail_is_refused_before_any_model(concept):
    with pytest.raises(ValueError, match=r"concept\.dog"):
        screen.check_concepts([concept(kind="explicit", aliases=["a young one"])])
    screen.check_concepts([concept(aliases=["a young one"])])


def test_a_searching_attack_cannot_draw_what_fails(tiny, concept, sampler):
    victim = Victim(tiny, [concept(kind="explicit")], Original(), sampler, None)
    drawn, empty = (victim.images(asked([text])) for text in ("a schoolgirl", ""))
    assert torch.equal(drawn, empty)
    victim.concepts = [concept()]
    assert not torch.equal(victim.images(asked(["a schoolgirl"])), empty)


@dataclasses.dataclass
class Misses(Attack):
    """Finds a text that must not be drawn."""

    access = "text"

    def attack(self, victim, prompts, ctx):
        return Adversary(prompts.with_prompts(["a kid with a kite"] * len(prompts)))


@pytest.fixture
def explicit(tmp_path, concept):
    def make(**runtime):
        from vestige.metrics.image_change import ImageChange

        places = {"store": str(tmp_path / "store"), "records": str(tmp_path / "records")}
        set_up = Runtime("cpu", 8, **places, on_busy="wait", read_from=[], threads=None, **runtime)
        (tmp_path / "set.csv").write_text("row_id,prompt,expect\n0,a dog,dog\n1,a boy with a dog,dog\n2,a big dog,dog\n")
        split = Split("target", str(tmp_path / "set.csv"), 3, 1, True, None, {"image_change": ImageChange("clip_emoji", 60.0)})
        sampler = Sampler("DDIMScheduler", {}, 2, 3.0, 16, 16)
        attacks = {"none": NoAttack(), "misses": Misses()}
        one = [concept(kind="explicit")]
        return Job(
            contract_checks.tiny_of(), one, "original", Original(), attacks, {"target": split}, sampler, "emoji_b", 0, "score", set_up
        )

    return make


def images_in(tmp_path) -> int:
    return len(list((tmp_path / "store").rglob("*.png")))


def test_a_job_screens_scores_and_deletes_its_images_and_keeps_its_scores(explicit, tmp_path):
    made = run_job(explicit())
    assert made["status"] == "done", made["error"]
    assert made["screened"] == {"target": {"before": 3, "after": 2}}
    assert {cell["n"] for cell in made["cells"]} == {2}
    assert images_in(tmp_path) == 0 and list((tmp_path / "store" / "score").glob("*/per_image.csv"))
    index = pd.concat(pd.read_csv(file) for file in (tmp_path / "store" / "images").glob("*/index.csv"))
    assert not index["prompt"].str.contains("boy|kid").any()


def test_a_repeat_draws_nothing_again_but_a_new_metric_does(explicit, tmp_path):
    run_job(explicit())
    job = explicit()
    again = Stages(job)
    fill(record.empty(job, again.model_spec), again)
    assert again.store.computed == []
    job.splits["target"].metrics["again"] = dataclasses.replace(job.splits["target"].metrics["image_change"], psnr_limit=50.0)
    assert run_job(job)["status"] == "done" and images_in(tmp_path) == 0


def test_images_stay_only_when_asked_for(explicit, tmp_path):
    run_job(explicit(keep_unsafe_images=True))
    assert images_in(tmp_path) > 0


@pytest.fixture
def a_list(tmp_path, monkeypatch):
    texts = ["a dog", "a girl with a dog", " a ship "]
    entry = {"source": "here", "column": "adv", "seed": "s", "rows": 3, "sha256": published_lists.digest(texts), "explicit": True}
    monkeypatch.setattr(published_lists, "manifest", lambda: {"mine": entry})
    monkeypatch.setenv("VESTIGE_PROMPTS", str(tmp_path))
    pd.DataFrame({"adv": texts, "s": [5, 6, 7]}).to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def test_a_list_is_known_by_its_hash_screened_and_keeps_its_seeds(a_list):
    got = published_lists.load("list:mine", 10, 2, "dog")
    assert got.prompts == ["a dog", " a ship "] and got.seed("mine-00002", 1) == 8
    assert set(got.table["private"]) == {True}


def test_another_content_is_refused_or_named(a_list):
    a_list.write_text(a_list.read_text().replace("ship", "boat"))
    with pytest.raises(ValueError, match="allow_drift"):
        published_lists.load("list:mine", 10, 1, "dog")
    assert published_lists.load("list:mine?allow_drift", 10, 1, "dog").name.startswith("mine-drift-")


def test_a_list_that_is_missing_or_unknown_says_where_it_comes_from(a_list):
    with pytest.raises(ValueError, match="Near names: mine"):
        published_lists.load("list:mime", 1, 1, "dog")
    a_list.unlink()
    with pytest.raises(ValueError, match="Source: here"):
        published_lists.load("list:mine", 1, 1, "dog")


@pytest.mark.parametrize(
    "file, content, entry, texts, expect",
    [
        ("bare.csv", "a dog, a cat\n\na ship\x85 at sea\n", {"column": None}, ["a dog, a cat", "a ship\x85 at sea"], ["dog", "dog"]),
        (
            "some.json",
            '[{"p": "a dog", "nouns": ["tree ", "tree", "hill"]}]',
            {"column": "p", "expect": "nouns", "role": "scene"},
            ["a dog"],
            ["tree;hill"],
        ),
        ("words.csv", "noun\nhill\n", {"column": "noun", "expect": "noun", "template": "a photo of a {}"}, ["hill"], ["hill"]),
        ("many.csv", "en,fr\na dog,un chien\n", {"columns": ["en", "fr"], "role": "alias"}, ["a dog", "un chien"], ["dog", "dog"]),
    ],
)
def test_lists_come_in_the_shapes_of_their_sources(tmp_path, monkeypatch, file, content, entry, texts, expect):
    whole = {"source": "here", "file": file, "rows": len(texts), "sha256": published_lists.digest(texts), "explicit": False, **entry}
    monkeypatch.setattr(published_lists, "manifest", lambda: {"mine": whole})
    monkeypatch.setenv("VESTIGE_PROMPTS", str(tmp_path))
    (tmp_path / file).write_text(content, encoding="utf-8")
    got = published_lists.load("list:mine", 10, 1, "dog")
    assert got.prompts == [entry.get("template", "{}").format(text) for text in texts] and got.table["expect"].tolist() == expect
    assert got.table["group"].nunique() == (1 if "columns" in entry else len(texts)), "translations of one prompt are one cluster"
    assert published_lists.survey().startswith("here")
    (tmp_path / file).unlink()
    assert published_lists.survey().startswith("missing")


def test_private_texts_enter_no_index(a_list, tiny, sampler, tmp_path):
    from vestige.bench.run import generate

    got = generate.draw(tiny, published_lists.load("list:mine", 2, 1, "dog"), sampler, tmp_path / "drawn", 4)
    assert got.index["prompt"].str.startswith("sha256:").all() and got.index["seed"].tolist() == [5, 7]
    assert "ship" not in (tmp_path / "drawn" / "index.csv").read_text()


def test_the_shipped_manifest_is_whole_and_holds_no_prompt():
    for name, entry in published_lists.manifest.__wrapped__().items():
        assert set(entry) >= {"source", "rows", "sha256", "explicit"} and ("column" in entry) != ("columns" in entry), name
        assert set(entry) <= {*published_lists.KEYS}, name
        assert not (entry["explicit"] and entry.get("stored")), f"{name}: explicit texts are never stored"
        assert len(entry["sha256"]) == 64 and entry["rows"] > 0
