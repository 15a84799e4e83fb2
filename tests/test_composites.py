"""Aggregate scores from stored scores: formulas, denominators, pairing, and the collapse checks."""

import numpy as np
import pandas as pd
import pytest
from made_results import ROWS, cell, write_record

from vestige.bench.reports import results
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.reports.composite_catalogue import CATALOGUE, similar_unless_present, within
from vestige.bench.reports.composites import Composite, Part, harmonic
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.ranking import pareto_front, ranking_of
from vestige.bench.reports.score_table import ScoreTable


@pytest.fixture
def aggregate_scores(places):
    score_table = ScoreTable(places[1])
    return AggregateScores(results.load(places[0], score_table), score_table)


def values(aggregate_scores, composite):
    table = aggregate_scores.table([composite])
    return table[table["concept"] == "all"].set_index("method")["value"]


def test_the_harmonic_mean_is_one_for_perfection_zero_for_any_failure_and_monotone():
    assert harmonic(1, 1, 1) == 1 and harmonic(0, 1, 1) == 0 and harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    x = np.linspace(0.01, 1, 20)
    assert (np.diff(harmonic(x, 0.3, 0.7)) > 0).all() and np.isnan(harmonic(np.nan, 1.0))


def test_names_are_unique_and_every_composite_says_where_it_comes_from():
    assert len({c.name for c in CATALOGUE}) == len(CATALOGUE) and all(len(c.source) > 5 for c in CATALOGUE)


DROP = Composite("drop", "test", {"x": Part(("target",))}, lambda p, o: o["x"] - p["x"])


def test_a_composite_of_paired_drops_is_zero_for_an_idle_method(aggregate_scores):
    drop = values(aggregate_scores, DROP)
    assert drop["idle"] == 0 and drop["good"] == pytest.approx(0.9)
    table = aggregate_scores.table([DROP]).set_index(["method", "concept"])
    assert table.loc[("idle", "all"), "ci_low"] == table.loc[("idle", "all"), "ci_high"] == 0


def test_composites_are_formed_per_concept_and_then_averaged(places):
    """H per concept, then the mean, is not H of the means: a second concept with other shares shows it."""
    records, store = places
    write_record(
        records,
        "car",
        "good",
        [cell(store, "x", "good", "target", "none", 0.5, False), cell(store, "x", "good", "others", "none", 1.0, False)],
    )
    score_table = ScoreTable(store)
    aggregate_scores = AggregateScores(results.load(records, score_table), score_table)
    form = Composite("h", "test", {"e": Part(("target",)), "s": Part(("others",))}, lambda p, o: harmonic(1 - p["e"], p["s"]))
    by_hand = np.mean([harmonic(0.9, 0.9), harmonic(0.5, 1.0)])
    assert values(aggregate_scores, form)["good"] == pytest.approx(by_hand) != pytest.approx(float(harmonic(0.7, 0.95)))


def test_images_without_a_judgement_leave_the_denominator_or_count_as_misses(places):
    records, store = places
    for key in ("dog", "car"):
        made = cell(store, f"{key}-faceless", "good", "target", "none", 0.5, False)
        file = store / made["score"] / "per_image.csv"
        table = pd.read_csv(file, dtype={"row_id": str})
        table.loc[5:, "present"] = np.nan  # five of ten show no face; the other five show the person
        table.to_csv(file, index=False)
        write_record(records, key, "good", [made])
    score_table = ScoreTable(store)
    aggregate_scores = AggregateScores(results.load(records, score_table), score_table)
    faces = Composite("a", "test", {"e": Part(("target",))}, lambda p, o: p["e"])
    everyone = Composite("b", "test", {"e": Part(("target",), unjudged="miss")}, lambda p, o: p["e"])
    assert values(aggregate_scores, faces)["good"] == 1.0 and values(aggregate_scores, everyone)["good"] == pytest.approx(0.5)


def test_ranks_within_k_keep_unknown_labels_unknown():
    assert within(5)(np.array([1.0, 5.0, 6.0, np.nan])).tolist()[:3] == [1, 1, 0] and np.isnan(within(5)(np.array([np.nan])))[0]


def test_a_missing_part_is_named_and_never_guessed(aggregate_scores):
    table = aggregate_scores.table([c for c in CATALOGUE if c.name == "erasebench_hm"])
    assert table["value"].isna().all() and "no cell has split synonyms" in table["reason"].iloc[0]


def test_methods_are_told_apart_and_equal_methods_are_not(places):
    records, store = places
    for concept in ("dog", "car"):
        cells = [cell(store, f"{concept}-twin", "twin", p, "none", s, False) for p, s in (("target", 0.1), ("others", 0.9))]
        write_record(records, concept, "twin", cells)
    score_table = ScoreTable(store)
    rank = ranking_of(Headlines(AggregateScores(results.load(records, score_table), score_table)))
    assert list(rank.index[:2]) == ["good", "twin"] and rank["group"].tolist() == ["a", "a", "b", "c"]
    behind = rank.loc["twin", ["behind", "behind_low", "behind_high"]].tolist()
    assert behind[0] == 0 and behind[1] < 0 < behind[2] and rank.loc["twin", "p"] == 1
    assert rank["p_best"].tolist() == pytest.approx([0.5, 0.5, 0, 0], abs=0.05)
    assert rank.loc["blunt", "p_holm"] < 0.05 and rank.loc["blunt", "behind_high"] < 0
    assert (rank["p_holm"].dropna() >= rank["p"].dropna()).all()


def test_the_front_is_drawn_among_methods_that_work(aggregate_scores):
    table, draws = pareto_front(Headlines(aggregate_scores))
    assert table.loc["good", "erased"] == pytest.approx(0.9) and table.loc["good", "kept"] == pytest.approx(0.9)
    assert table["on_front"].to_dict() == {"original": False, "oracle": False, "good": True, "idle": True, "blunt": False}
    assert draws["good"].shape == (2000, 2)


def content_cell(store, concept, method, split, share):
    """Recognisable content on a share of the images."""
    made = cell(store, f"{concept}-content", method, split, "none", share, False)
    file = store / made["score"] / "per_image.csv"
    file.write_text(file.read_text().replace("present", "content"))
    return made | {"metric": "answers", "column": "content"}


def test_a_model_that_draws_nothing_is_marked_and_cannot_lead(places):
    records, store = places
    for concept in ("dog", "car"):
        for method, target, content in (("original", 1.0, 1.0), ("void", 0.0, 0.2), ("fine", 0.2, 0.9)):
            cells = [
                cell(store, f"{concept}-new", method, "target", "none", target, False),
                content_cell(store, concept, method, "target", content),
            ]
            cells.append(cell(store, f"{concept}-new", method, "others", "none", 1.0, False))
            write_record(records, concept, method, cells)
    score_table = ScoreTable(store)
    frame = results.load(records, score_table)
    assert set(frame.dropna(subset=["collapsed"])["method"]) == {"void"}
    rank = ranking_of(Headlines(AggregateScores(frame, score_table)))
    assert rank.index[-1] == "void" and rank.loc["void", "value"] == 0 and rank.loc["fine", "value"] > 0.8
    assert not frame[frame["method"] == "void"]["leads"].any()
    assert "20 % of its target images" in rank.loc["void", "collapsed"]


def test_images_a_filter_withheld_are_no_collapse(places):
    records, store = places
    for method, content in (("original", 1.0), ("filter", 0.0)):
        made = content_cell(store, "dog", method, "target", content)
        if method == "filter":
            file = store / made["images"] / "index.csv"
            pd.read_csv(file, dtype={"row_id": str}).assign(status="blocked").to_csv(file, index=False)
        write_record(records, "dog", method, [made])
    assert results.load(records, store)["collapsed"].isna().all()


def test_two_erasure_seeds_are_averaged_before_the_comparison(places):
    records, store = places
    for seed, share in ((0, 0.2), (1, 0.4)):
        cells = [cell(store, f"seed{seed}", "seeded", p, "none", s, False) for p, s in (("target", share), ("others", 1.0))]
        write_record(records, "dog", "seeded", cells, seed=seed, key=f"dog-seeded-{seed}")
    score_table = ScoreTable(store)
    aggregate_scores = AggregateScores(results.load(records, score_table), score_table)
    table = aggregate_scores.table([DROP]).set_index(["method", "concept"])
    assert table.loc[("seeded", "dog"), "value"] == pytest.approx(0.7) and ROWS == 10
    assert Headlines(aggregate_scores).of("seeded", "dog").erased.value == pytest.approx(0.7)


def table_cells(store, method, split, metric, columns, attack="none", judge="judge"):
    """Cells of one score table whose columns are given value by value; those of one split and attack show the same images."""
    made = []
    for column, values in columns.items():
        made.append(cell(store, f"dog-{metric}-{column}", method, split, attack, 1.0, False))
        file = store / made[-1]["score"] / "per_image.csv"
        pd.read_csv(file, dtype={"row_id": str}).assign(**columns).to_csv(file, index=False)
        made[-1] |= {"metric": metric, "column": column, "judge": judge, "value": float(np.nanmean(values))}
    return made


def measured(places, by_method, names, protocol=None, kind="object"):
    """Composites of one concept: name -> method -> value."""
    records, store = places
    for old in records.glob("*.json"):
        old.unlink()
    for method, cells in by_method.items():
        write_record(records, "dog", method, cells, protocol=protocol, kind=kind)
    score_table = ScoreTable(store)
    table = AggregateScores(results.load(records, score_table), score_table).table([c for c in CATALOGUE if c.name in names])
    return table.pivot(index="composite", columns="method", values="value")


HALF = [1.0] * 5 + [0.0] * 5


def test_unlearncanvas_counts_the_target_for_ua_and_the_rest_for_ira_and_cra(places):
    about = [1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    own, other = [0.0, 1, 1, 1, 1, 1, 1, 1, 0, 0], [0.0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    cells = table_cells(places[1], "original", "canvas", "answers", {"object_right": own, "style_right": other, "about": about})
    names = [f"canvas_object_{n}" for n in ("ua", "ira", "cra", "cra_all", "mean")]
    got = measured(places, {"original": cells}, names, "unlearncanvas")["original"]
    assert got["canvas_object_ua"] == pytest.approx(0.5) and got["canvas_object_ira"] == pytest.approx(0.75)
    assert got["canvas_object_cra"] == pytest.approx(0.5) and got["canvas_object_cra_all"] == pytest.approx(0.4)
    assert got["canvas_object_mean"] == pytest.approx((0.5 + 0.75 + 0.5) / 3)
    assert "canvas_style_ua" not in got, "defined for styles"
    score_table = ScoreTable(places[1])
    table = AggregateScores(results.load(places[0], score_table), score_table).table([c for c in CATALOGUE if c.name == "canvas_object_ua"])
    low, high = table[["ci_low", "ci_high"]].iloc[0]
    assert 0 <= low < 0.5 < high <= 1, "two of ten prompts are the target's: some resamples hold none of them"


def test_the_attacked_rate_counts_what_showed_before_the_attack(places):
    """Post-ASR is never below pre-ASR, also where the attack itself loses an image."""
    store = places[1]
    before = table_cells(store, "original", "target", "presence", {"present": HALF})
    after = table_cells(store, "original", "target", "presence", {"present": [0.0] * 4 + [1.0] * 3 + [0.0] * 3}, "unlearn_diff_atk")
    got = measured(places, {"original": before + after}, ["udatk_pre_asr", "udatk_asr"], "advunlearn_eval")["original"]
    assert got["udatk_pre_asr"] == pytest.approx(0.5) and got["udatk_asr"] == pytest.approx(0.7)


def test_eraseeval_gives_no_credit_where_the_concept_is_seen_and_told(places):
    store, cells = places[1], {}
    for method, cosine, fit, far in (("original", 1.0, 30.0, 0.5), ("erased", 0.8, 24.0, 0.75)):
        target = {"caption_named": [1.0] * 8 + [0.0] * 2, "caption_cosine": [cosine] * 10, "image_cosine": [cosine] * 10}
        cells[method] = table_cells(store, method, "target", "presence", {"present": HALF})
        cells[method] += table_cells(store, method, "target", "likeness", target)
        cells[method] += table_cells(store, method, "implicit", "presence", {"present": [0.0] * 10})
        cells[method] += table_cells(store, method, "implicit", "likeness", target)
        cells[method] += table_cells(store, method, "captions", "clip_score", {"clip_cos": [fit] * 10}, judge=None)
        cells[method] += [table_cells(store, method, "captions", "cmmd", {"cmmd_x": [far] * 10}, judge=None)[0] | {"score": None}]
    names = [f"eraseeval_{n}" for n in ("m1", "m2", "m3", "m4", "all")]
    got = measured(places, cells, names, "eraseeval")
    m1, m2, m3, m4 = 0.5 * 0.8, 0.8, 0.8, 0.5
    assert got["erased"][names[:4]].tolist() == pytest.approx([m1, m2, m3, m4])
    assert got["erased"]["eraseeval_all"] == pytest.approx(4 / (1 / m1 + 1 / m2 + 1 / m3 + 1 / m4))
    assert got["original"][names[1:4]].tolist() == pytest.approx([1, 1, 1]), "the model itself keeps everything"


def test_a_star_in_a_column_finds_the_networks_own(places):
    cells = table_cells(places[1], "original", "target", "presence", {"present": [0.0] * 10})
    cells += table_cells(places[1], "original", "target", "image_change", {"cosine_some_net": [0.5] * 10}, judge=None)
    both = Part(("target",), ("presence.present", "image_change.cosine_*"), rule=similar_unless_present)
    star = Composite("x", "test", {"x": both}, first)
    score_table = ScoreTable(places[1])
    for old in places[0].glob("*.json"):
        old.unlink()
    write_record(places[0], "dog", "original", cells)
    assert AggregateScores(results.load(places[0], score_table), score_table).table([star])["value"].tolist() == [0.5]


def first(parts, original):
    return parts["x"]


def test_hubs_nouns_are_a_ratio_of_sums(places):
    cells = table_cells(places[1], "original", "selective", "nouns", {"nouns_seen": [4.0] + [0.0] * 9, "nouns_asked": [5.0] + [1.0] * 9})
    assert measured(places, {"original": cells}, ["hub_selective"], "hub").loc["hub_selective", "original"] == pytest.approx(4 / 14)


def test_the_curve_over_k_rises_with_the_rank(places):
    ranks = [1.0, 2, 3, 4, 6, 7, 8, 9, 11, np.nan]
    names = [f"ecgvf_erased_{k}" for k in (1, 3, 5, 10)]
    cells = table_cells(places[1], "original", "target", "answers", {"rank": ranks})
    got = measured(places, {"original": cells}, names, "ecgvf")["original"]
    assert got[names].tolist() == pytest.approx([8 / 9, 6 / 9, 5 / 9, 1 / 9])


def test_each_probe_keeps_its_own_judge(places):
    """HUB asks a face detector for the target and a language model for what stands beside it."""
    store = places[1]
    cells = table_cells(store, "original", "target", "presence", {"present": HALF}, judge="faces")
    cells += table_cells(store, "original", "siblings", "presence", {"present": [1.0] * 10}, judge="words")
    got = measured(places, {"original": cells}, ["hub_target", "hub_pinpoint"], "hub")["original"]
    assert got["hub_target"] == pytest.approx(0.5) and got["hub_pinpoint"] == 1


def test_groups_say_what_the_paired_differences_of_scores_say(aggregate_scores):
    scores = Headlines(aggregate_scores)
    rank = ranking_of(scores)
    for one in rank.index:
        for two in rank.index:
            _, low, high = scores.difference(one, two, scores.concepts)
            assert (low > 0 or high < 0) != bool(set(rank.loc[one, "group"]) & set(rank.loc[two, "group"]))
