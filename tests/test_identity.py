"""Rows are joined by what they are: random pairs of specifications, and the cases that names alone once joined.

Long because every report is tested on the same pairs of rows that must not be joined.
"""

import copy
import json
import random

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from made_results import MODEL, SAMPLER, cell, specification, write_record

from vestige.bench import cli
from vestige.bench.places import CONF
from vestige.bench.reports import concept_curves, gallery, identity, leaderboard, results
from vestige.bench.reports.roles import role_of
from vestige.bench.reports.score_table import WORST, ScoreTable
from vestige.bench.run import choices, composing, resolvers
from vestige.bench.run.runner import run_job

LABELS = ["model", "sampler", "protocol", "concept", "method", "split", "attack", "metric", "column", "judge"]
VALUES = [None, True, 1, 1.0, 2.5e-06, 7, "other", "1", "an odd, long (value) with: many@signs + more than fits", ["a", 2]]


def leaves(tree, at=()):
    """Every place of a specification that holds a plain value and is part of what a row is.

    Names are names; the seed is a replicate's; how far a job went and whether a split is attacked say only which cells there are.
    """
    if isinstance(tree, dict | list):
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(item, (*at, key))
        return
    no_identity = at in {("seed",), ("until",), ("protocol",), ("model", "name"), ("method", 0)} or at[-1] in ("slug", "kind")
    if not (no_identity or (at[0] == "splits" and at[2] == 3) or at[:2] == ("attacks", "none")):
        yield at


def changed(tree, at, rng):
    """The tree with another value at one leaf, of the same type or another; a judge stays a word."""
    tree = copy.deepcopy(tree)
    inner = tree
    for key in at[:-1]:
        inner = inner[key]
    old, values = inner[at[-1]], ["other", "emoji_b"] if at[-1] == "judge" else [*VALUES, rng.random()]
    inner[at[-1]] = rng.choice([v for v in values if json.dumps(v) != json.dumps(old)])
    return tree


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(store, cells by method): target with and without attack, and a measure without a judge."""
    store, cells = tmp_path_factory.mktemp("made") / "store", {}
    for method, target in (("original", 1.0), ("good", 0.1)):
        cells[method] = [
            cell(store, "dog", method, "target", "none", target, False),
            cell(store, "dog", method, "target", "typos", target, True),
            cell(store, "dog", method, "others", "none", 0.9, False) | {"metric": "clip_score", "judge": None},
        ]
    return store, cells


def written(records, made, specs, method="good"):
    """One record for each specification, with the cells of a method; a judge as the specification has it."""
    records.mkdir(exist_ok=True)
    for k, spec in enumerate(specs):
        cells = copy.deepcopy(made[1][method])
        for one in cells:
            one["judge"] = spec["splits"][one["split"]][4][one["metric"]]["params"].get("judge")
        write_record(records, "dog", method, cells, specification=spec, sampler=spec["sampler"], key=f"{method}{k}")


@pytest.mark.parametrize("seed", range(100))
def test_another_leaf_is_another_row_whose_label_says_so_and_equal_specifications_share(seed, made, tmp_path):
    rng = random.Random(seed)
    spec = specification("dog", "good", made[1]["good"])
    every = sorted(leaves(spec), key=str)
    at = every[seed % len(every)]
    other = changed(spec, at, rng)
    written(tmp_path / "records", made, [spec, other, spec, other])
    written(tmp_path / "records", made, [specification("dog", "original", made[1]["original"])], "original")
    frame = results.load(tmp_path / "records", made[0])
    frame = frame[frame["attack"] != WORST]
    keys = frame.assign(label=list(map(str, frame[LABELS].to_numpy().tolist()))).groupby("key")["label"].agg(set)
    concerned = {
        key: frame[(frame["key"] == key) & _is_concerned(frame, at)].reset_index(drop=True) for key in ("good0", "good1", "good2", "good3")
    }
    assert keys["good0"] == keys["good2"] and keys["good1"] == keys["good3"], "equal specifications share their rows"
    first, second = concerned["good0"], concerned["good1"]
    assert len(first) == len(second) >= 1
    differs = first[LABELS].ne(second[LABELS]) & ~(first[LABELS].isna() & second[LABELS].isna())
    assert differs.any(axis=1).all(), "never one row"
    assert differs.any().sum() == 1, "and one label alone says so"
    (column,) = differs.columns[differs.any()]
    for ours, theirs in zip(first[column], second[column], strict=True):
        assert _names(at, str(ours)) and _names(at, str(theirs)), (at, ours, theirs)
    if column != "method":  # what was asked differs, so the other one has no original to be paired with
        assert second["diff"].isna().all() and frame.loc[frame["key"] == "original0", "diff"].eq(0).all()


def _is_concerned(frame, at):
    if at[0] in ("attacks", "attack_judge"):
        return frame["attack_name"] != "none"
    if at[0] == "splits" and at[2] == 4:
        return (frame["split"] == at[1]) & (frame["metric_name"] == at[3])
    return frame["key"].notna()


def _names(at, label):
    """Does the label say what differs? The value alone explains itself for a judge and for the arithmetic."""
    if at[0] == "attack_judge":
        return "(judge" in label
    if at[0] == "splits" and at[2] < 3:
        return f"{at[1]}.{('prompts', 'rows', 'repeats')[at[2]]}" in label
    itself = at[-1] in ("judge", "dtype", "numerics", "family")
    return itself or at[0] == "sampler" or str(at[-1]) in label


def job(concept="dog", kind="object", follows=None, method="esd", **over):
    spec = specification(concept, method, **over)
    head = {"model": spec["model"]["name"], "method": method, "intervention": "weights", "concepts": concept.split("+"), "kind": kind}
    return head | {"specification": spec} | ({} if follows is None else {"follows_concept": {"method": follows}})


def methods(*jobs):
    return [told.method for told in identity.labels(list(jobs))]


def test_labels_are_short_and_say_the_settings_first():
    assert methods(job(params={"lr": 1e-05, "steps": 9}), job(params={"lr": 3e-06, "steps": 9})) == ["esd (lr=1e-05)", "esd (lr=3e-06)"]
    two = job(params={"lr": 1e-05, "steps": 9}), job(params={"lr": 1e-05})
    assert methods(*two) == ["esd (steps=9)", "esd (no steps)"]
    assert methods(job(), job()) == ["esd", "esd"]
    long = methods(job(params={"words": ["a"] * 40}), job(params={"words": ["b"] * 40}))
    assert all(label.startswith("esd (words ") and len(label) == len("esd (words 3fa2c1)") for label in long) and long[0] != long[1]


def test_two_folders_are_two_models_and_neither_is_the_reference_of_the_other(made, tmp_path):
    """An erased folder run as method=original once became its own reference, or that of another folder."""
    models = [MODEL | {"weights": digest, "repo": digest} for digest in ("3fa2c1" * 5, "77" * 9)]
    specs = [specification("dog", "original", made[1]["original"], model=model) for model in models]
    good = specification("dog", "good", made[1]["good"], model=specs[0]["model"])
    written(tmp_path / "records", made, specs, "original")
    written(tmp_path / "records", made, [good])
    frame = results.load(tmp_path / "records", made[0]).set_index("key")
    assert set(frame["model"]) == {"toy (weights 3fa2c1)", "toy (weights 777777)"}
    plain = frame[(frame["split"] == "target") & (frame["attack"] == "none")]
    assert plain["diff"].to_dict() == {"good0": pytest.approx(-0.9), "original0": 0, "original1": 0}
    text = leaderboard.table(frame.reset_index(), "md", ScoreTable(made[0]))
    assert text.count("# Leaderboard: toy (weights") == 2


def test_settings_that_follow_the_kind_of_concept_are_one_method():
    eta = {"object": {"eta": 2.0, "lr": 0.1}, "style": {"eta": 3.0, "lr": 0.1}}
    unknown = [job("dog", "object", params=eta["object"]), job("pixel_art", "style", params=eta["style"])]
    assert methods(*unknown) == ["esd", "esd"]
    ruled = [job("dog", "object", ["eta"], params=eta["object"]), job("pixel_art", "style", ["eta"], params=eta["style"])]
    assert methods(*ruled) == ["esd", "esd"]
    typed = [job("dog", "object", [], params=eta["object"]), job("pixel_art", "style", [], params=eta["style"])]
    assert methods(*typed) == ["esd (eta=2.0)", "esd (eta=3.0)"], "typed by hand, they are two settings"
    same_kind = [job("dog", "object", ["eta"], params=eta["object"]), job("car", "object", ["eta"], params=eta["style"])]
    assert methods(*same_kind) == ["esd (eta=2.0)", "esd (eta=3.0)"]


def test_controls_and_rungs_follow_the_concept_as_their_attack_does():
    def attacked(concept, kind, strength, follows):
        plain = {"plugin": "vestige.attacks.memora", "version": 1, "params": {"strength": strength, "steps": 30, "source": "target"}}
        budget = plain | {"params": plain["params"] | {"steps": 5}}
        attacks = {"memora": plain, "memora@steps=5": budget, "memora:scrambled": plain}
        return job(concept, kind, attacks=attacks) | {"follows_concept": {"memora": follows}}

    ruled = identity.labels([attacked("dog", "object", 1.0, ["strength"]), attacked("pixel_art", "style", 2.0, ["strength"])])
    assert [told.attack(name) for told in ruled for name in ("memora", "memora@steps=5")] == ["memora", "memora@steps=5"] * 2
    typed = identity.labels([attacked("dog", "object", 1.0, []), attacked("pixel_art", "style", 2.0, [])])
    assert typed[1].attack("memora@steps=5") == "memora (strength=2.0)@steps=5"


def test_a_run_writes_which_settings_follow_the_concept():
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("run", ["method=spm"])
        typed = compose("run", ["method=spm", "method.eta=1.5", "attack=[none,memora]"])
    assert composing.follows_concept({"method": plain.method, **choices.chosen_attacks(plain)}) == {
        "method": ["anchoring", "eta", "prompt"]
    }
    assert "eta" not in composing.follows_concept({"method": typed.method})["method"], "a number typed on the command line follows nothing"


def test_a_record_says_what_its_files_were_and_what_its_prompts_were_for(tmp_path):
    """A whole job on the embedded model, as short as it can be."""
    words = ["method=uce", "concept=dog", "split=[target,siblings]", "model.sampler.steps=1", "attack=[none]"]
    words += [f"split.{p}.{size}=1" for p in ("target", "siblings") for size in ("rows", "repeats")]
    words += [f"~split.{p}.metrics.{m}" for p in ("target", "siblings") for m in ("answers", "clip_score", "image_change")]
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("run", [*words, f"runtime.store={tmp_path}/store", f"runtime.records={tmp_path}/records"])
    record = run_job(composing.build_job(tree))
    assert record["status"] == "done", record["error"]
    assert {cell["split"]: cell["roles"] for cell in record["cells"]} == {"target": ["target"], "siblings": ["sibling"]}
    assert record["inputs"].keys() == {"method", "attacks", "splits"} and record["inputs"]["splits"]["target"].keys() == {"presence"}
    assert record["follows_concept"]["method"] and json.loads((tmp_path / "records" / f"{record['key']}.json").read_text()) == record


def test_other_code_and_other_inputs_are_other_methods_and_the_original_has_none():
    jobs = [job() | {"code": {"erase": digest}} for digest in ("9d2e41aa", "117c0000")]
    assert methods(*jobs) == ["esd (code 9d2e41)", "esd (code 117c00)"]
    assert methods(*(j | {"intervention": "none"} for j in jobs)) == ["esd", "esd"], "its images carry no word of the method"
    weights = [job(c) | {"inputs": {"method": {"unet": digest}}} for c, digest in (("dog", "aa" * 9), ("car", "bb" * 9))]
    assert methods(*weights) == ["esd", "esd"], "each concept has a denoiser of its own"
    weights[1] = job("dog") | {"inputs": {"method": {"unet": "bb" * 9}}}
    assert methods(*weights) == ["esd (inputs.unet aaaaaa)", "esd (inputs.unet bbbbbb)"]


def test_controls_and_budget_sweeps_carry_the_label_of_their_attack():
    def attacks(tries, steps):
        plain = {"plugin": "vestige.attacks.memora", "version": 1, "params": {"tries": tries, "steps": 30, "source": "target"}}
        control = plain | {"params": plain["params"] | {"source": "scrambled"}}
        budget = plain | {"params": plain["params"] | {"steps": steps}}
        return {"memora": plain, "memora:scrambled": control, f"memora@steps={steps}": budget}

    one, two = identity.labels([job(attacks=attacks(4, 5)), job(attacks=attacks(9, 5))])
    assert [one.attack(n) for n in ("memora", "memora:scrambled", "memora@steps=5")] == [
        *("memora (tries=4)", "memora (tries=4):scrambled", "memora (tries=4)@steps=5")
    ]
    assert two.attack("memora:scrambled") == "memora (tries=9):scrambled"
    (alone,) = identity.labels([job(attacks=attacks(4, 5))])
    assert alone.attack("memora@steps=5") == "memora@steps=5"


def test_other_sizes_of_a_probe_are_another_place_only_for_the_same_concept():
    cells = [{"split": "target", "attack": "none", "metric": "presence", "judge": "j"}]
    small, large = (specification("dog", "esd", cells) for _ in range(2))
    large["splits"]["target"][1] = 40
    jobs = [job() | {"specification": spec} for spec in (small, large)]
    assert [told.protocol for told in identity.labels(jobs)] == ["(target.rows=10)", "(target.rows=40)"]
    jobs[1]["concepts"] = ["car"]
    assert [told.protocol for told in identity.labels(jobs)] == ["", ""]


def test_records_without_a_specification_are_known_by_their_names():
    jobs = [{"model": "toy", "method": "esd", "concepts": ["dog"]}, {"model": "toy", "method": "esd", "concepts": ["dog"], "protocol": "p"}]
    assert [(t.model, t.method, t.concept, t.protocol) for t in identity.labels(jobs)] == [
        ("toy", "esd", "dog", ""),
        ("toy", "esd", "dog", "p"),
    ]


# Pairing, unfinished jobs, replicates


def with_index(store, made, **columns):
    file = store / made["images"] / "index.csv"
    pd.read_csv(file, dtype={"row_id": str}).assign(**columns).to_csv(file, index=False)
    return made


@pytest.mark.parametrize("column, other", [("seed", 8), ("group", "another sentence"), ("expect", "cat"), ("role", "sibling"), ("rep", 1)])
def test_images_of_another_question_are_never_paired(tmp_path, column, other):
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    asked = {"seed": 7, "expect": "dog", "role": "target"}
    for method, share, columns in (("original", 1.0, {}), ("good", 0.2, {}), ("other", 0.2, {column: other})):
        made = with_index(store, cell(store, "dog", method, "target", "none", share, False), **asked | columns)
        if column == "rep" and columns:
            file = store / made["score"] / "per_image.csv"
            pd.read_csv(file, dtype={"row_id": str}).assign(rep=1).to_csv(file, index=False)
        write_record(records, "dog", method, [made])
    diff = results.load(records, store).set_index("method")["diff"]
    assert diff["good"] == pytest.approx(-0.8) and diff["original"] == 0 and pd.isna(diff["other"])


@pytest.mark.parametrize("status", ["failed", "busy", "running"])
def test_what_a_job_measured_before_it_failed_ranks_averages_and_compares_nothing(places, status):
    records, store = places

    def fails(key):
        record = json.loads((records / f"{key}.json").read_text())
        (records / f"{key}.json").write_text(json.dumps(record | {"status": status, "reason": "ValueError: no luck"}))

    fails("dog-good")
    score_table = ScoreTable(store)
    frame = results.load(records, score_table)
    mine = frame[frame["key"] == "dog-good"]
    assert mine["metric"].isna().all() and mine["diff"].isna().all() and mine["erase_seconds"].isna().all() and not mine["leads"].any()
    assert mine["unfinished"].tolist() == ["presence.present"] * 3 and mine["value"].tolist() == [0.1, 0.6, 0.9], "for csv alone"
    assert "dog-good" not in set(frame[frame["attack"] == WORST]["key"])
    text = leaderboard.table(frame, "md", score_table)
    row = next(line for line in text.split("## dog (object)")[1].splitlines() if line.startswith("| good"))
    assert not any(char.isdigit() for char in row) and f"good: {status}: ValueError: no luck" in text
    assert "unfinished" in leaderboard.table(frame, "csv").splitlines()[0]
    fails("dog-original")
    frame = results.load(records, score_table)
    assert frame[frame["concept"] == "dog"]["diff"].isna().all(), "and it is no reference"


def test_jobs_that_differ_in_their_seed_alone_are_replicates(places):
    records, store = places
    for seed in (1, 2):
        made = [cell(store, f"dog{seed}", "good", "target", "none", 0.3, False)]
        spec = specification("dog", "good", made, seed=seed)
        write_record(records, "dog", "good", made, seed=seed, key=f"again-{seed}", specification=spec)
    write_record(records, "dog", "good", [], seed=3, key="lost", status="failed")
    rows = results.replicates(results.load(records, store)).set_index(["method", "concept"])
    assert rows.loc[("good", "dog"), "seeds"] == (0, 1, 2) and rows.loc[("good", "dog"), "keys"] == ("again-1", "again-2", "dog-good")
    assert rows.loc[("good", "car"), "seeds"] == (0,) and len(rows) == 10


# Roles


def test_rows_are_erased_or_kept_by_their_role_whatever_the_probe_is_called(tmp_path):
    """A file of one's own under another name: its target rows are erased rows, with worst case and direction."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    for method, share, attacked in (("original", 1.0, 1.0), ("good", 0.1, 0.6)):
        mine = [
            with_index(store, cell(store, "dog", method, "mine", "none", share, False), role="target"),
            with_index(store, cell(store, "dog", method, "mine", "typos", attacked, True), role="target"),
            with_index(store, cell(store, "dog", method, "near", "none", 0.9, False), role="sibling"),
        ]
        write_record(records, "dog", method, mine)
    frame = results.load(records, store)
    assert set(zip(frame["split"], frame["role"], strict=True)) == {("mine", "target"), ("near", "sibling")}
    worst = frame[frame["attack"] == WORST].set_index("method")["value"]
    assert worst["good"] == pytest.approx(0.7) and worst["original"] == 1
    assert results.higher_is_better("mine", "present", True, "target") is False
    assert results.higher_is_better("near", "present", True, "sibling") is True


@pytest.mark.parametrize(
    "split, roles, role",
    [
        ("mine", ["target"], "target"),
        ("mine", ["alias", "target"], "target"),
        ("mine", ["alias"], "alias"),
        ("mine", ["other", "sibling"], "other"),
        ("mine", ["other", "target"], "mixed"),
        ("target", ["sibling"], "sibling"),
        ("target", [], "target"),
        ("synonyms", ["free"], "alias"),
        ("mine", ["free"], "free"),
        ("mine", ["free", "target"], "mixed"),
        ("mine", [], None),
        (None, [], None),
    ],
)
def test_the_role_of_a_probe_is_that_of_its_prompts_and_by_name_only_where_they_have_none(split, roles, role):
    assert role_of(split, roles) == role


def test_a_record_can_carry_the_roles_for_tables_without_a_store(places):
    records, _ = places
    record = json.loads((records / "dog-good.json").read_text())
    (records / "dog-good.json").write_text(json.dumps(record | {"cells": [record["cells"][2] | {"split": "mine", "roles": ["alias"]}]}))
    assert results.load(records).set_index("key").loc["dog-good", "role"] == "alias"


# A table without the original model


def test_a_table_without_the_original_model_has_no_differences_and_says_what_to_run(places):
    records, store = places
    for file in records.glob("*-original.json"):
        file.unlink()
    score_table = ScoreTable(store)
    for composites in (False, True):
        text = leaderboard.table(results.load(records, score_table), "md", score_table, composites)
        assert text.count("Run: vestige run -m model=toy method=original concept=car,dog") == 1 and " ≈ |" not in text
        assert "10 [0, 100]" in text, "the rates stand"
    assert "vestige run" not in leaderboard.table(results.load(*places), "csv")


def test_only_the_concepts_without_an_original_are_asked_for(places):
    records, store = places
    (records / "car-original.json").unlink()
    score_table = ScoreTable(store)
    frame = results.load(records, score_table)
    assert "Run: vestige run model=toy method=original concept=car, with" in leaderboard.table(frame, "md", score_table)
    assert frame.groupby("concept")["diff"].count().to_dict() == {"car": 0, "dog": 20}, "dog keeps its differences"


# The other pages


def test_the_gallery_tells_settings_and_seeds_apart(made, tmp_path):
    records, specs = tmp_path / "records", [specification("dog", "good", made[1]["good"], params={"lr": lr}) for lr in (1e-05, 3e-06)]
    written(records, made, specs)
    write_record(records, "dog", "good", made[1]["good"], specification=specs[0] | {"seed": 4}, seed=4, key="seed4")
    shown = gallery._image_sets(records)
    assert set(shown["method"]) == {"good (lr=1e-05) (seed 0)", "good (lr=1e-05) (seed 4)", "good (lr=3e-06)"}
    assert set(shown["model"]) == {"toy"}
    page = gallery.write(records, made[0], tmp_path / "page.html").read_text()
    assert 'data-method="good (lr=3e-06)"' in page


def test_the_gallery_has_a_section_for_each_sampler(made, tmp_path):
    for key, over in (("a", {}), ("b", {"height": 64})):
        sampler = SAMPLER | over
        spec = specification("dog", "good", made[1]["good"], sampler=sampler)
        write_record(_made(tmp_path / "records"), "dog", "good", made[1]["good"], specification=spec, sampler=sampler, key=key)
    assert set(gallery._image_sets(tmp_path / "records")["model"]) == {"toy (no height)", "toy (height=64)"}


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_power_compares_methods_of_one_model_only(places, capsys):
    records, store = places
    where = ["power", "--a", "good", "--b", "idle", "--split", "others", "--difference", "0.1"]
    where += ["--records", str(records), "--store", str(store)]
    assert cli.main(where) == 0
    for file in records.glob("*-idle.json"):
        record = json.loads(file.read_text())
        record["specification"]["model"]["weights"] = "another"
        file.write_text(json.dumps(record))
    capsys.readouterr()
    assert cli.main(where) == 2 and "no concept has good and idle" in capsys.readouterr().err


def test_the_rate_before_an_attack_is_that_of_the_same_judge(places):
    records, store = places
    record = json.loads((records / "dog-good.json").read_text())
    target, typos, _ = record["cells"]
    second = [c | {"judge": "b"} for c in (cell(store, "dog", "b", "target", "none", 1.0, False), typos)]
    (records / "dog-good.json").write_text(json.dumps(record | {"cells": [target, typos, *second]}))
    frame = results.load(records, store)
    before = frame[(frame["key"] == "dog-good") & (frame["attack"] == "typos")].set_index("judge")["before"]
    assert before["judge"] == pytest.approx(0.1) and before["b"] == 1


def test_two_judges_of_one_point_of_a_curve_are_refused(tmp_path):
    head = {"attack": "none", "metric": "presence", "column": "present", "value": 0.5, "ci_low": 0.1, "ci_high": 0.9, "n": 8}
    cells = [head | {"split": split, "judge": judge} for split in concept_curves.PANELS for judge in ("a", "b")]
    record = {"key": "k", "status": "done", "method": "uce", "concepts": ["dog"], "cells": cells}
    (tmp_path / "k.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="uce has several judges in the record of 1 concepts"):
        concept_curves.curves(results.load(tmp_path))
