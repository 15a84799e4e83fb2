"""Composites as views on stored scores: formulas, denominators, pairing, and the guard against broken models."""

import numpy as np
import pandas as pd
import pytest
from made_results import ROWS, cell, write_record

from bench import results
from bench.composites import CATALOGUE, NET, Composite, Part, harmonic, retained, within
from bench.pictures import Pictures
from bench.standing import plane, standing
from bench.views import Views


@pytest.fixture
def views(places):
    pictures = Pictures(places[1])
    return Views(results.load(places[0], pictures), pictures)


def values(views, composite):
    table = views.table([composite])
    return table[table["concept"] == "all"].set_index("method")["value"]


def test_the_harmonic_mean_is_one_for_perfection_zero_for_any_failure_and_monotone():
    assert harmonic(1, 1, 1) == 1 and harmonic(0, 1, 1) == 0 and harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    x = np.linspace(0.01, 1, 20)
    assert (np.diff(harmonic(x, 0.3, 0.7)) > 0).all() and np.isnan(harmonic(np.nan, 1.0))


def test_names_are_unique_and_every_composite_says_where_it_comes_from():
    assert len({c.name for c in CATALOGUE}) == len(CATALOGUE) and all(len(c.source) > 5 for c in CATALOGUE)


def test_net_is_the_paired_drop_on_erased_minus_the_drop_on_kept(views):
    net = values(views, NET)
    assert net["idle"] == 0 and net["good"] == pytest.approx(0.8) and net["blunt"] == pytest.approx(0.2)
    table = views.table([NET]).set_index(["method", "concept"])
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
    pictures = Pictures(store)
    views = Views(results.load(records, pictures), pictures)
    form = Composite("h", "test", {"e": Part(("target",)), "s": Part(("others",))}, lambda p, o: harmonic(1 - p["e"], p["s"]))
    by_hand = np.mean([harmonic(0.9, 0.9), harmonic(0.5, 1.0)])
    assert values(views, form)["good"] == pytest.approx(by_hand) != pytest.approx(float(harmonic(0.7, 0.95)))


def test_pictures_without_a_judgement_leave_the_denominator_or_count_as_misses(places):
    records, store = places
    for key in ("dog", "car"):
        made = cell(store, f"{key}-faceless", "good", "target", "none", 0.5, False)
        file = store / made["score"] / "per_image.csv"
        table = pd.read_csv(file, dtype={"row_id": str})
        table.loc[5:, "present"] = np.nan  # five of ten show no face; the other five show the person
        table.to_csv(file, index=False)
        write_record(records, key, "good", [made])
    pictures = Pictures(store)
    views = Views(results.load(records, pictures), pictures)
    faces = Composite("a", "test", {"e": Part(("target",))}, lambda p, o: p["e"])
    everyone = Composite("b", "test", {"e": Part(("target",), unjudged="miss")}, lambda p, o: p["e"])
    assert values(views, faces)["good"] == 1.0 and values(views, everyone)["good"] == pytest.approx(0.5)


def test_ranks_within_k_keep_unknown_labels_unknown():
    assert within(5)(np.array([1.0, 5.0, 6.0, np.nan])).tolist()[:3] == [1, 1, 0] and np.isnan(within(5)(np.array([np.nan])))[0]
    assert retained(np.array(0.9), np.array(0.8)) == 1 and retained(np.array(0.4), np.array(0.8)) == 0.5


def test_a_missing_part_is_named_and_never_guessed(views):
    table = views.table([c for c in CATALOGUE if c.name == "erasebench_hm"])
    assert table["value"].isna().all() and "no cell has probe synonyms" in table["reason"].iloc[0]


def test_methods_are_told_apart_and_equal_methods_are_not(places):
    records, store = places
    for concept in ("dog", "car"):
        cells = [cell(store, f"{concept}-twin", "twin", p, "none", s, False) for p, s in (("target", 0.1), ("others", 0.9))]
        write_record(records, concept, "twin", cells)
    pictures = Pictures(store)
    rank = standing(Views(results.load(records, pictures), pictures))
    assert list(rank.index[:2]) == ["good", "twin"] and rank["group"].tolist() == ["a", "a", "b", "b"]
    assert rank.loc["twin", ["behind", "behind_low", "behind_high"]].tolist() == [0, 0, 0] and rank.loc["twin", "p"] == 1
    assert rank["p_best"].tolist() == [0.5, 0.5, 0, 0]
    assert rank.loc["blunt", "p_holm"] < 0.05 and rank.loc["blunt", "behind_high"] < 0
    assert (rank["p_holm"].dropna() >= rank["p"].dropna()).all()


def test_the_front_is_drawn_among_methods_that_work(views):
    table, draws = plane(views)
    assert table.loc["good", "erasure"] == pytest.approx(0.9) and table.loc["good", "preservation"] == pytest.approx(0.9)
    assert table["on_front"].to_dict() == {"original": False, "oracle": False, "good": True, "idle": True, "blunt": False}
    assert draws["good"].shape == (2000, 2)


def content_cell(store, concept, method, probe, share):
    """Recognisable content on a share of the pictures."""
    made = cell(store, f"{concept}-content", method, probe, "none", share, False)
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
    pictures = Pictures(store)
    frame = results.load(records, pictures)
    assert set(frame.dropna(subset=["collapsed"])["method"]) == {"void"}
    rank = standing(Views(frame, pictures))
    assert rank.index[-1] == "void" and rank["value"].idxmax() == "void", "the highest net, and still last"
    assert not frame[frame["method"] == "void"]["leads"].any()
    assert "20 % of its target pictures" in rank.loc["void", "collapsed"]


def test_pictures_a_filter_withheld_are_no_collapse(places):
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
    pictures = Pictures(store)
    table = Views(results.load(records, pictures), pictures).table([NET]).set_index(["method", "concept"])
    assert table.loc[("seeded", "dog"), "value"] == pytest.approx(0.7) and ROWS == 10
