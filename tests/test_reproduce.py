"""Published tables as plans, and ours beside theirs: what agrees, what is grey and why, what is missing.

Long because plans and comparisons are tested on the same made-up papers.
"""

import argparse
import csv
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from made_results import DDIM, celebrities, celebrity_record, cell
from newcomer import vestige

from vestige.bench.papers import comparison, mapping, planning, published, reproduce
from vestige.bench.papers.mapping import Absent, PaperTable, Reading
from vestige.bench.places import CHECKOUT
from vestige.bench.reports import composite_catalogue
from vestige.bench.reports.render import Cell, Code, Table, latex, markdown, page

ASKED = [
    *("mace_celebrity", "mace_style_tables", "unlearndiffatk_leaderboard", "speed", "eap", "hub"),
    *("unlearncanvas", "esd", "trce", "genmu_challenge", "sld_safeclip", "i2p_readme"),
]


@pytest.fixture
def records(tmp_path):
    return tmp_path / "records"


def compared(records, key, paper="mace_celebrity", model=None):
    """The published value of (method, concept, metric) beside ours."""
    words = mapping.load(paper)
    (row,) = [row for row in published.load(paper) if (row.method, row.concept, row.metric) == key]
    plan = planning.TablePlan(words.tables[row.table], [row])
    return comparison.compare(words, plan, comparison.Measured(records, records.parent / "store"), model, None)[0]


# The rule


def test_a_number_measured_the_same_way_stands_beside_the_published_one(records):
    celebrity_record(records, "uce", 0.05)
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert (one.row.value, one.ours, one.reasons) == (0.0042, 0.05, ())
    assert (one.low, one.high) == (pytest.approx(0.04), pytest.approx(0.07))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"judge": "resnet50"}, "other judge: theirs celebrity, ours resnet50"),
        ({"sampler": DDIM | {"steps": 20}}, "other sampler: theirs DDIMScheduler 50 7.5 512, ours DDIMScheduler 20 7.5 512"),
        (
            {"rows": 12},
            "other protocol: theirs mace_celebrity, ours mace_celebrity with target mace_celebrity_target 12 x 5 in place of "
            "mace_celebrity_target 5 x 5",
        ),
    ],
)
def test_a_number_measured_otherwise_makes_the_published_one_grey(records, change, reason):
    celebrity_record(records, "uce", 0.05, **change)
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert one.ours == 0.05 and one.reasons == (reason,)


def test_of_several_records_the_one_that_agrees_is_shown(records):
    celebrity_record(records, "uce", 0.5, judge="resnet50")
    celebrity_record(records, "uce", 0.05)
    celebrity_record(records, "uce", 0.7, sampler=DDIM | {"steps": 20})
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert one.ours == 0.05 and not one.reasons


def edited(at, value):
    """A change of one setting in the record's specification."""

    def edit(spec):
        *way, last = at
        for key in way:
            spec = spec[key]
        spec[last] = value

    return edit


@pytest.mark.parametrize(
    "edit, said",
    [
        (edited(("method", 1, "params", "erase_scale"), 0.3), "erase_scale 0.3 for 1.0"),
        (edited(("model", "dtype"), "float16"), "dtype float16 for float32"),
        (edited(("model", "numerics"), "fast"), "numerics fast for reference"),
        (edited(("model", "repo"), "/home/me/erased"), "repo a folder of your own for CompVis/stable-diffusion-v1-4"),
        (edited(("method", 1, "version"), 0), "version 0 for 1"),
        (edited(("sampler", "arguments"), {"eta": 1.0}), "sampler.arguments.eta 1.0 for null"),
        (lambda spec: spec.pop("method"), "the record does not say its own"),
    ],
)
def test_a_record_with_other_settings_is_named_and_gets_no_verdict(records, edit, said):
    """Another strength, precision or other weights are another experiment, whatever the name of the method."""
    celebrity_record(records, "uce", 0.05)
    (file,) = records.glob("*.json")
    record = json.loads(file.read_text())
    edit(record["specification"])
    file.write_text(json.dumps(record))
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert one.ours == 0.05 and one.reasons == (f"other settings: {said}",)
    (row,) = csv.DictReader(io.StringIO(comparison.as_csv([one])))
    assert row["agrees"] == "" and row["reason"] == f"other settings: {said}"


def test_a_pinned_revision_is_still_the_published_model(records):
    celebrity_record(records, "uce", 0.05)
    (file,) = records.glob("*.json")
    record = json.loads(file.read_text())
    record["specification"]["model"]["revision"] = "133a221b8aa7292a167afc5127cb63fb5005638b"
    file.write_text(json.dumps(record))
    assert not compared(records, ("UCE", "10 celebrities", "acc_e_gcd")).reasons


def test_beside_a_record_with_other_settings_the_one_with_the_planned_ones_is_shown(records):
    celebrity_record(records, "uce", 0.5)
    (file,) = records.glob("*.json")
    record = json.loads(file.read_text())
    record["specification"]["method"][1]["params"]["erase_scale"] = 0.3
    file.write_text(json.dumps(record))
    celebrity_record(records, "uce", 0.05)
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert one.ours == 0.05 and not one.reasons


def test_a_job_that_failed_has_no_number(records):
    celebrity_record(records, "uce", 0.05, status="failed")
    one = compared(records, ("UCE", "10 celebrities", "acc_e_gcd"))
    assert one.ours is None and one.lacks == comparison.NOT_RUN


def test_another_model_is_always_grey(records):
    celebrity_record(records, "uce", 0.05, model="emoji", concepts=["dog"])
    one = compared(records, ("UCE", "1 celebrity", "acc_e_gcd"), model="emoji")
    assert one.ours == 0.05 and "other model: theirs SD v1.4, ours emoji" in one.reasons


def test_a_cost_is_never_the_same_machine(records):
    celebrity_record(records, "speed", 0.05, concepts=celebrities(100))
    one = compared(records, ("SPEED", "100 celebrities", "runtime"), "speed")
    assert (one.ours, one.reasons) == (90.0, ("other machine",))


def test_a_composite_of_ours_stands_beside_a_published_composite(records):
    """H_c of Acc_e 0.1 and Acc_s 0.9 is 0.9, in percent as SPEED prints it; its sampler is not MACE's."""
    cells = [cell(records.parent / "store", "c", "uce", split, "none", share, False) for split, share in (("target", 0.1), ("others", 0.9))]
    celebrity_record(records, "uce", 0.1, cells=cells)
    one = compared(records, ("UCE", "10 celebrities", "h_harmonic"), "speed")
    assert one.ours == pytest.approx(90.0) and one.row.value == 83.10
    assert one.low <= 90 <= one.high
    protocol, sampler = one.reasons
    assert protocol.startswith("other protocol: theirs speed_celebrity, ours speed_celebrity with others mace_celebrity_others 500 x 5 in")
    assert sampler == "other sampler: theirs DPMSolverMultistepScheduler 20 7.5 512, ours DDIMScheduler 50 7.5 512"


def test_ours_comes_in_the_published_unit():
    assert comparison.scaled(0.25, "percent", Reading(split="target", column="presence.present")) == 25
    assert comparison.scaled(0.25, "percent", Reading(split="target", column="presence.present", complement=True)) == 75
    assert comparison.scaled(31.0, "cosine", Reading(split="others", column="clip_score.clip_cos")) == 0.31
    assert comparison.scaled(90.0, "minutes", Reading(cost="erase_seconds")) == 1.5


def test_judges_are_told_apart_by_what_changes_their_numbers():
    metrics = {
        "presence": {"params": {"judge": "celebrity:/weights"}},
        "clip_score": {"params": {"clip": "ViT-B-32/openai"}},
        "fid": {"params": {"extractor": "inception", "reference": "real"}},
        "nudity": {"params": {"detector": "nudenet", "model_file": None}},
    }
    specification = {"splits": {"target": ["target", 3, 2, True, metrics]}}
    found = {name: comparison.judge_of(specification, "target", name, "speed") for name in metrics}
    assert found == {
        "presence": "celebrity:/weights",
        "clip_score": "clip:ViT-B-32/openai",
        "fid": "fid:inception/real",
        "nudity": "nudenet:speed",
    }
    assert comparison.judge_of({}, "target", "presence", "present") == ""


# The plan


def planned(model=None):
    words = mapping.load("mace_celebrity")
    return planning.plan(words, words.tables["celebrity erasure"], published.load("mace_celebrity"), model, None, ask=False)


def test_a_plan_names_commands_gaps_and_cost():
    plan = planned()
    (work,) = plan.work
    assert work.methods == ("original", "uce", "concept_ablation", "esd_u", "esd_x", "sld", "mace")
    assert work.command(None).startswith("vestige run -m model=sd14 protocol=mace_celebrity method=original,uce,")
    assert "celebrities_10,celebrities_100 held_out=false runtime=gpu" in work.command(None)
    assert any("CompVis/stable-diffusion-v1-4" in sentence for sentence in plan.missing)
    assert plan.uncovered["FMN"] and plan.uncovered["SD v2.0"] == "another model, nothing erased"
    # 7 methods, 250 + 2,500 images for 1, 5 and 10 names, 2,500 + 2,500 for 100 names, 50 steps each
    images = 7 * (3 * 2750 + 5000)
    assert (plan.jobs, plan.images) == (28, images)
    assert plan.seconds == pytest.approx(images * 50 * planning.SECONDS["sd1"])


def test_without_the_protocol_the_paper_s_own_sizes_are_planned(monkeypatch):
    def no_protocol(group, name, extra=None):
        return f"protocol {name} is not in Vestige" if group == "protocol" else None

    monkeypatch.setattr(planning, "lacks", no_protocol)
    plan = planned()
    assert "protocol mace_celebrity is not in Vestige" in plan.missing
    assert (plan.jobs, plan.images) == (32, 32 * 2750), "with FMN, whose method now counts as there"
    assert any("as in the paper's code" in text for text in plan.assumed)


def test_concepts_erased_together_and_attacks_are_written_as_hydra_reads_them():
    work = planning.Work("sd14", None, ("uce",), ("dog+cat",), ("unlearn_diff_atk",))
    chosen = ["model=sd14", "method=uce", "concept=[dog,cat]", "attack=[none,unlearn_diff_atk]"]
    assert work.words() == [*chosen, "held_out=false", "runtime=gpu"]
    tree, why = planning.composed(work, None)
    assert why is None and list(tree.concept) == ["dog", "cat"] and list(tree.attack) == ["none", "unlearn_diff_atk"]


def test_on_the_emoji_model_only_methods_with_numbers_for_it_are_planned():
    plan = planned("emoji")
    (work,) = plan.work
    assert work.methods == ("original", "uce", "concept_ablation", "sld", "mace")
    assert work.concepts == ("dog", "emoji_5", "emoji_10", "emoji_40")
    assert plan.uncovered["ESD-x"] == "method esd_x has no numbers tuned for the emoji model"
    assert not any("HF_HOME" in sentence for sentence in plan.missing)


def test_running_leaves_out_what_has_no_config(monkeypatch):
    typed = []
    monkeypatch.setattr("vestige.bench.run.sweep.main", lambda verb, words: typed.append((verb, words)) or len(typed))
    some = planning.Work("sd14", "mace_celebrity", ("original", "uce"), ("celebrities_1", "celebrities_7", "celebrities_10"))
    none = planning.Work("sd14", "no_such_protocol", ("uce",), ("dog",))
    plans = [planning.TablePlan(None, [], [some, none]), planning.TablePlan(None, [], [some])]
    assert reproduce._run(plans, None) == 2, "the worst exit code of the commands"
    assert [verb for verb, _ in typed] == ["run", "run"]
    assert "concept=celebrities_1,celebrities_10" in typed[0][1] and "method=original,uce" in typed[0][1]
    with pytest.raises(ValueError, match="no job of these tables can be run"):
        reproduce._run([planning.TablePlan(None, [], [none])], None)


def test_planning_imports_no_torch_and_lists_missing_weights():
    code = "import sys; from vestige.bench.cli import main; main(['reproduce', 'unlearndiffatk_leaderboard', '--table', 'church']); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "CompVis/stable-diffusion-v1-4" in done.stdout and "GPU-hours" in done.stdout
    assert "protocol=advunlearn_eval method=original,esd,spm concept=church held_out=false runtime=gpu" in done.stdout


def test_the_list_starts_up_quickly_and_names_every_paper():
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = vestige("reproduce")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun
    assert done.returncode == 0 and all(paper in done.stdout for paper in published.papers())
    assert spent < 0.8, f"{spent:.2f} s of CPU"


@pytest.mark.parametrize(
    "words, said",
    [
        (["mace_celebritys"], "Did you mean mace_celebrity"),
        (["casg"], "no mapping to our grid"),
        (["mace_celebrity", "--table", "objects"], "Tables: celebrity erasure"),
        (["speed", "--table", "ablation"], "cannot be run: the source does not say"),
        (["mace_celebrity", "--model", "sd41"], "sd14"),
        (["mace_celebrity", "--run", "model.dtype=float16"], "model.dtype=float16 changes settings of the published table"),
    ],
)
def test_a_bad_name_gets_near_ones(words, said):
    with pytest.raises(ValueError) as refused:
        reproduce.main(words)
    assert said in str(refused.value)


# The mappings


@pytest.mark.parametrize("paper", mapping.mapped())
def test_a_mapping_speaks_of_every_printed_word(paper):
    words, rows = mapping.load(paper), published.load(paper)
    assert set(words.tables) == {row.table for row in rows}
    for row in rows:
        table = words.tables[row.table]
        if isinstance(table, PaperTable):
            for found in (words.methods.get(row.method), mapping.of_kind(table.concepts, row, row.concept), table.reading(row)):
                assert found is not None, row


@pytest.mark.parametrize("paper", mapping.mapped())
def test_a_mapping_names_no_method_or_metric_that_no_row_prints(paper):
    words, rows = mapping.load(paper), published.load(paper)
    assert set(words.methods) <= {row.method for row in rows}
    printed = {word for row in rows for word in (row.metric, f"{row.concept_kind} {row.metric}")}
    for table in words.tables.values():
        assert isinstance(table, Absent) or set(table.metrics) <= printed


def names_that_exist_or_are_reported(paper):
    """(what, name, reported) for each name of ours that a mapping uses."""
    words = mapping.load(paper)
    for method in words.methods.values():
        if isinstance(method, str):
            yield "method", method
    for table in words.tables.values():
        if isinstance(table, Absent):
            continue
        if table.protocol:
            yield "protocol", table.protocol
        for attack in table.attacks:
            yield "attack", attack
        for jobs in (*table.concepts.values(), *table.emoji.values()):
            for job in jobs if isinstance(jobs, list) else ():
                yield from (("concept", name) for name in job.split("+"))


PLANNED = {  # names that a mapping may use before they are there; everything else must exist
    "method": {"forget_me_not", "advunlearn", "salun", "saeuron", "receler", "eap"},
    "protocol": set(),
    "concept": set(),
    "attack": set(),
}


@pytest.mark.parametrize("paper", mapping.mapped())
def test_names_of_ours_exist_or_are_planned_and_then_reported(paper):
    listed = reproduce.listing()
    for group, name in names_that_exist_or_are_reported(paper):
        why = mapping.lacks(group, name)
        if why:
            assert name in PLANNED[group], f"{paper}: {why}"
            if group == "protocol":
                assert f"({name}, not in Vestige" in listed


@pytest.mark.parametrize("paper", mapping.mapped())
def test_readings_are_of_known_metrics_composites_and_costs(paper):
    from vestige.bench.reports.results import COST

    known = {file.stem for file in (mapping.CONF / "metric").glob("*.yaml")}
    formulas = {c.name for c in composite_catalogue.CATALOGUE}
    for table in mapping.load(paper).tables.values():
        for reading in table.metrics.values() if isinstance(table, PaperTable) else ():
            if isinstance(reading, Reading):
                assert not reading.cost or reading.cost in COST
                assert not reading.column or reading.column.split(".")[0] in known
                assert not reading.composite or reading.composite in formulas, reading.composite


def test_every_paper_that_was_asked_for_is_mapped():
    assert set(ASKED) <= set(mapping.mapped())


@pytest.mark.parametrize(
    "text, said",
    [
        ("title: T\nmodels: {}\nmethodes: {}\ntables: {}", "Did you mean methods"),
        ("title: T\nmodels: {}\nmethods: {A: {nott: x}}\ntables: {}", "Did you mean not"),
        ("title: T\nmodels: {}\nmethods: {}\ntables: {t: {concepts: {}, metrics: {m: {split: target}}}}", "either split and column"),
        ("title: T\nmodels: {}\nmethods: {}\ntables: {t: {concepts: {}, metrics: {}, protocols: x}}", "Did you mean protocol"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_place(tmp_path, text, said):
    (tmp_path / "made.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"made\.yaml") as refused:
        mapping.load("made", tmp_path)
    assert said in str(refused.value)


# Shown


def test_grey_is_grey_in_every_format():
    table = Table(["a", "theirs"], [["x", Cell("0.5 ¹", 0.5, grey=True)], ["y", Cell("0.6", 0.6)]], ["¹ other judge"])
    assert "| x | (0.5 ¹) |" in markdown([table]) and "| y | 0.6 |" in markdown([table])
    assert '<td class="grey" data-v="0.5">0.5 ¹</td>' in page([table]) and ".grey{" in page([table])
    assert r"\textcolor{gray}{0.5 \textsuperscript{1}}" in latex([table])
    assert "```\nvestige run\n```" in markdown([Code("vestige run")])
    assert "<pre><code>vestige run</code></pre>" in page([Code("vestige run")])


def test_the_page_shows_ours_theirs_and_the_reason(records, capsys):
    celebrity_record(records, "uce", 0.05)
    celebrity_record(records, "mace", 0.04, judge="resnet50")
    places = ["--records", str(records), "--store", str(records.parent / "store")]
    assert reproduce.main(["mace_celebrity", *places]) == 0
    text = capsys.readouterr().out
    assert "| UCE: uce | 10 celebrities | acc_e_gcd | rate | 0.05 [0.04, 0.07] | 0.0042 | B |" in text
    assert "| MACE: mace | 10 celebrities | acc_e_gcd | rate | 0.04 [0.03, 0.06] | (0.0285 ¹) | B |" in text
    assert "¹ other judge: theirs celebrity, ours resnet50." in text
    assert "| ESD-u: esd_u | 10 celebrities | acc_e_gcd | rate | not run | 0.0458 | B |" in text


def test_csv_has_every_value_of_the_table_and_says_whether_it_agrees(records, tmp_path):
    celebrity_record(records, "uce", 0.05)
    celebrity_record(records, "mace", 0.04, judge="resnet50")
    places = ["--records", str(records), "--store", str(records.parent / "store")]
    out = tmp_path / "out" / "table.csv"
    reproduce.main(["mace_celebrity", *places, "--format", "csv", "--out", str(out)])
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 45
    found = {(r["method"], r["concept"], r["metric"]): r for r in rows}
    assert found["UCE", "10 celebrities", "acc_e_gcd"]["agrees"] == "yes"
    assert found["MACE", "10 celebrities", "acc_e_gcd"]["agrees"] == "no"
    assert found["ESD-u", "10 celebrities", "acc_e_gcd"]["reason"] == "not run"
    assert found["FMN", "1 celebrity", "acc_e_gcd"]["reason"].startswith("FMN: ")


def test_the_examples_of_the_documentation_are_commands_of_the_parser():
    text = Path(CHECKOUT / "docs" / "reproduce.md").read_text()
    examples = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("vestige reproduce")]
    assert len(examples) >= 5
    for words in examples:
        asked = reproduce._parser().parse_args(words[2:])
        assert isinstance(asked, argparse.Namespace) and (asked.paper is None or asked.paper in mapping.mapped())
        if asked.table:
            assert reproduce._chosen(mapping.load(asked.paper), asked.table)
