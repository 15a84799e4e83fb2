"""Published numbers: the shipped files are well formed, and a file that is not is refused with its line."""

import csv

import pytest

from vestige.bench.papers import published


def write(folder, *changes, columns=published.COLUMNS):
    """A file of good rows, each with some fields changed."""
    good = dict.fromkeys(columns, "") | {"paper": "P", "table": "T", "model": "SD v1.4", "method": "UCE", "concept_kind": "object"}
    good |= {"concept": "dog", "metric": "acc", "value": "12.5", "unit": "percent", "source": "someone", "trust": "C"}
    with open(folder / "made.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows([good | change for change in changes])
    return folder


def test_every_shipped_file_loads():
    counts = {paper: len(published.load(paper)) for paper in published.papers()}
    assert sum(counts.values()) == 1944 and len(counts) == 30
    assert counts["mace_celebrity"] == 45 and counts["eap"] == 309


def test_values_known_from_their_sources_are_as_printed():
    rows = {(r.method, r.concept, r.metric): r for r in published.load("mace_celebrity")}
    mace = rows["MACE", "100 celebrities", "acc_e_gcd"]
    assert (mace.value, mace.unit, mace.trust) == (0.043, "rate", "B")
    assert mace.sampler == "DDIMScheduler 50 7.5 512" and mace.arxiv == "2403.06135"
    nude = {r.metric: r.value for r in published.load("eap") if r.method == "SD v1.4" and r.table == "I2P nudity"}
    assert nude["nudenet_boxes_8cls@0.6"] == 768


def test_percent_of_eap_agrees_with_its_own_counts():
    """Shares of 4,703 images were rounded once: no share is further than half a unit of its last digit from a count."""
    for row in published.load("eap"):
        if row.table == "I2P nudity" and row.unit == "percent":
            count = row.value / 100 * 4703
            assert abs(count - round(count)) <= 0.005 / 100 * 4703 + 1e-6, row


def test_the_files_hold_facts_only():
    """No field is long enough to hide a prompt."""
    for paper in published.papers():
        for row in published.load(paper):
            assert max(len(row.concept), len(row.metric), len(row.method)) < 80 and len(row.note) < 180, row


@pytest.mark.parametrize(
    "change, said",
    [
        ({"value": "many"}, "made.csv:2: value='many' is not a number"),
        ({"value": "nan"}, "cannot be share of 100"),
        ({"value": "140"}, "cannot be share of 100"),
        ({"unit": "percents"}, "Did you mean percent"),
        ({"trust": "E"}, "trust='E' is not known"),
        ({"concept_kind": "thing"}, "Allowed: object"),
        ({"source": ""}, "source may not be empty"),
        ({"sampler": "DDIM 50"}, "does not look like 'DDIMScheduler 50 7.5 512'"),
        ({"arxiv": "arXiv 2403"}, "arxiv='arXiv 2403'"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, change, said):
    with pytest.raises(ValueError, match=r"made\.csv:2") as refused:
        published.load("made", write(tmp_path, change))
    assert said in str(refused.value)


def test_a_value_given_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"made.csv:3: the same value as in line 2 \(UCE, dog, acc\)"):
        published.load("made", write(tmp_path, {}, {"value": "13"}))
    assert len(published.load("made", write(tmp_path, {}, {"metric": "other"}))) == 2


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the columns must be paper, arxiv"):
        published.load("made", write(tmp_path, {}, columns=(*published.COLUMNS, "extra")))


def test_an_unknown_paper_gets_near_names():
    with pytest.raises(ValueError, match="Did you mean mace_celebrity"):
        published.load("mace_celebrities")


def test_agreement_needs_all_three_and_nothing_unknown():
    row = published.load("mace_celebrity")[0]
    same = {"protocol": row.protocol, "judge": row.judge, "sampler": row.sampler}
    assert published.disagreements(row, **same) == []
    assert published.disagreements(row, **same | {"judge": "resnet50"}) == [f"other judge: theirs {row.judge}, ours resnet50"]
    assert len(published.disagreements(row, "mine", "resnet50", "PNDMScheduler 50 7.5 512")) == 3
    assert published.disagreements(row, **same | {"judge": "celebrity:my/folder"}) == []
    assert published.disagreements(row, **same | {"judge": "celebrity_of_mine"})
    genmu = published.load("genmu_challenge")[0]
    assert "judge: theirs is not known" in published.disagreements(genmu, "", "", "")


def test_samplers_are_written_as_in_the_files():
    sampler = {"scheduler": "DDIMScheduler", "steps": 50, "guidance": 7.5, "height": 512, "width": 512, "arguments": {}}
    assert published.sampler_words(sampler) == "DDIMScheduler 50 7.5 512"
    assert published.sampler_words(sampler | {"guidance": 9.0}) == "DDIMScheduler 50 9 512"
    assert published.sampler_words(sampler | {"width": 640}) == "DDIMScheduler 50 7.5 512x640"


def test_all_values_as_one_frame():
    frame = published.frame()
    assert len(frame) == 1944 and set(frame["trust"]) == set("ABCD")
    assert frame["value"].dtype.kind == "f"
