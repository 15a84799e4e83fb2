"""The headline score through made-up stores: right values, what can raise it and what never can."""

import numpy as np
import pandas as pd
import pytest
from made_results import write_record

from vestige.bench.places import CONF
from vestige.bench.reports import leaderboard, results
from vestige.bench.reports.aggregates import AggregateScores, Missing
from vestige.bench.reports.headlines import Headlines
from vestige.bench.reports.ranking import ranking_of
from vestige.bench.reports.score_table import ScoreTable

PROMPTS = 50
ROLE = {"target": "target", "synonyms": "alias", "scenes": "scene", "others": "other"}


def write_cell(store, method, split, rate, column="presence.present", attack="none", things=10, seed=0, role=None):
    """A cell whose first images say yes, one image per prompt, the things asked for in turn."""
    metric, column = column.split(".")
    name = f"{method}-{seed}-{split}-{attack}"
    images, score = store / "images" / name, store / "score" / f"{name}-{metric}-{column}"
    index = pd.DataFrame({"row_id": [f"{k:03d}" for k in range(PROMPTS)], "rep": 0, "group": [f"{split}{k:03d}" for k in range(PROMPTS)]})
    expect = [f"thing{k % things}" for k in range(PROMPTS)]
    images.mkdir(parents=True, exist_ok=True)
    index.assign(expect=expect, role=role or ROLE[split], prompt="", file="", seed=7).to_csv(images / "index.csv", index=False)
    values = (np.arange(PROMPTS) < round(rate * PROMPTS)).astype(float)
    score.mkdir(parents=True, exist_ok=True)
    index[["row_id", "rep"]].assign(**{column: values}).to_csv(score / "per_image.csv", index=False)
    head = {"split": split, "attack": attack, "access": "none", "metric": metric, "column": column, "judge": "judge", "reason": None}
    head |= {"value": float(values.mean()), "ci_low": 0.0, "ci_high": 1.0, "n": PROMPTS, "groups": PROMPTS, "higher_is_better": True}
    return head | {"images": f"images/{name}", "score": f"score/{score.name}", "budget": {}}


def cells_of(store, method, target=1.0, synonyms=1.0, leak=1.0, kept=1.0, attacked=None, seed=0):
    cells = [write_cell(store, method, "target", target, seed=seed), write_cell(store, method, "synonyms", synonyms, seed=seed)]
    cells += [write_cell(store, method, "scenes", kept, seed=seed), write_cell(store, method, "others", kept, seed=seed)]
    cells += [write_cell(store, method, "scenes", leak, "answers.seen", seed=seed)]
    return cells + ([] if attacked is None else [write_cell(store, method, "target", attacked, attack="typos", seed=seed)])


def loaded(tmp_path, methods, more=None):
    """(frame, scores) of one concept; the original shows everything unless `methods` says otherwise; more: cells of some methods."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir(exist_ok=True)
    for method, rates in ({"original": {}} | methods).items():
        write_record(records, "dog", method, cells_of(store, method, **rates) + (more or {}).get(method, []))
    score_table = ScoreTable(store)
    frame = results.load(records, score_table)
    return frame, Headlines(AggregateScores(frame, score_table))


def score_of(scores, method="method", what="score"):
    return getattr(scores.of(method, "dog"), what).value


GONE = {"target": 0.0, "synonyms": 0.0, "leak": 0.0}


def test_the_corners(tmp_path):
    """Nothing changed: 0. Everything blank: 0. Perfect: 1. Half gone, all kept: harmonic mean of 0.5 and 1."""
    half = {"target": 0.5, "synonyms": 0.5, "leak": 0.5}
    methods = {"identity": {}, "blank": GONE | {"kept": 0.0}, "perfect": GONE, "half": half, "damaged": GONE | {"kept": 0.5}}
    _, scores = loaded(tmp_path, methods)
    found = [score_of(scores, m) for m in ("original", "identity", "blank", "perfect", "half", "damaged")]
    assert found == pytest.approx([0, 0, 0, 1, 2 / 3, 2 / 3])


def test_noise_whose_rates_are_a_judges_guesses_scores_nothing(tmp_path):
    """A judge that guesses still sees a few things: that the images fit no prompt tells."""
    clip = {"split": "others", "attack": "none", "access": "none", "metric": "clip_score", "column": "clip_cos", "judge": None}
    clip |= {"reason": None, "ci_low": None, "ci_high": None, "n": 50, "groups": 50, "higher_is_better": True}
    clip |= {"images": None, "score": None, "budget": {}}
    more = {"original": [clip | {"value": 77.0}], "noise": [clip | {"value": 12.0}]}
    frame, scores = loaded(tmp_path, {"noise": {"target": 0.02, "synonyms": 0.02, "leak": 0.04, "kept": 0.1}}, more)
    assert "CLIP score on kept prompts fell by 65.0" in frame[frame["method"] == "noise"]["collapsed"].iloc[0]
    assert score_of(scores, "noise") == 0 and score_of(scores, "noise", "erased") > 0.9


def test_drawing_the_concept_in_half_of_the_scenes_is_worse_than_six_percent_of_target(tmp_path):
    """The order of the earlier net score on dog, where the leaking method led above the oracle too."""
    rates = {
        "oracle": {"target": 0.0, "synonyms": 0.16, "leak": 0.12},
        "leaking": {"target": 0.0, "synonyms": 0.0, "leak": 0.5, "kept": 1.0},
        "clean": {"target": 0.06, "synonyms": 0.0, "leak": 0.0, "kept": 0.96},
    }
    _, scores = loaded(tmp_path, rates)
    leaking = (1 + 1 + 0.5 / 0.88) / 3
    assert score_of(scores, "leaking", "erased") == pytest.approx(leaking)
    assert score_of(scores, "clean", "erased") == pytest.approx((0.94 + 1 + 1) / 3)
    assert score_of(scores, "oracle") == 1 > score_of(scores, "clean") > score_of(scores, "leaking")
    assert ranking_of(scores).index.tolist() == ["clean", "leaking"]
    assert scores.difference("leaking", "oracle", ["dog"]).value == pytest.approx(2 * leaking / (1 + leaking) - 1)


def test_at_or_below_the_oracle_all_is_gone_and_more_earns_nothing(tmp_path):
    oracle = {"target": 0.1, "synonyms": 0.2, "leak": 0.3}
    _, scores = loaded(tmp_path, {"oracle": oracle, "equal": oracle, "over": GONE, "above": oracle | {"leak": 0.4}})
    assert score_of(scores, "equal") == score_of(scores, "over") == score_of(scores, "oracle") == 1
    assert score_of(scores, "above", "erased") == pytest.approx((1 + 1 + 0.6 / 0.7) / 3)


def test_drawing_kept_things_better_than_the_original_earns_nothing(tmp_path):
    _, scores = loaded(tmp_path, {"original": {"kept": 0.8}, "better": GONE | {"kept": 1.0}, "same": GONE | {"kept": 0.8}})
    assert score_of(scores, "better") == score_of(scores, "same") == 1


@pytest.mark.parametrize("part", ["target", "synonyms", "leak", "kept"])
def test_never_better_when_a_rate_rises_or_kept_falls(tmp_path, part):
    start = {"target": 0.2, "synonyms": 0.3, "leak": 0.3, "kept": 0.8}
    steps = np.linspace(0, 1, 6)
    methods = {f"step{k}": start | {part: float(rate)} for k, rate in enumerate(steps)}
    _, scores = loaded(tmp_path, {"oracle": {"target": 0.0, "synonyms": 0.1, "leak": 0.1}} | methods)
    found = np.diff([score_of(scores, name) for name in methods])
    assert (found >= 0).all() if part == "kept" else (found <= 0).all()
    assert np.abs(found).max() > 0.01


def test_attacks_are_no_part_of_it(tmp_path):
    rates = {"target": 0.1, "synonyms": 0.1, "leak": 0.1}
    more = {}
    for name, rate in (("weak", 0.0), ("strong", 1.0)):
        more[name] = [write_cell(tmp_path / "store", name, "adversarial", rate, role="target")]
    more["original"] = [write_cell(tmp_path / "store", "original", "adversarial", 1.0, role="target")]
    _, scores = loaded(tmp_path, {"weak": rates | {"attacked": 0.0}, "strong": rates | {"attacked": 1.0}}, more)
    assert score_of(scores, "weak") == score_of(scores, "strong") == pytest.approx(2 * 0.9 / 1.9)


def test_a_part_with_nothing_to_erase_is_left_out_and_said_so(tmp_path):
    frame, scores = loaded(tmp_path, {"original": {"synonyms": 0.1}, "method": {"target": 0.5, "synonyms": 0.1, "leak": 0.5}})
    assert score_of(scores, what="erased") == pytest.approx(0.5) and list(scores.of("method", "dog").left_out) == ["synonyms"]
    assert "dog: synonyms is no part of the score: nothing to erase" in leaderboard.table(frame, "md", scores.aggregate_scores.score_table)
    nothing = {"target": 0.1, "synonyms": 0.1, "leak": 0.1}
    frame, scores = loaded(tmp_path, {"original": nothing, "method": nothing})
    assert scores.concepts == [] and np.isnan(score_of(scores)) and ranking_of(scores).empty
    assert "No score on dog: target: nothing to erase" in leaderboard.table(frame, "md", scores.aggregate_scores.score_table)


def test_kept_is_the_mean_over_things_not_over_prompts(tmp_path):
    """thing0 has five prompts on scenes and on others like the nine other things, and fifty more."""
    store = tmp_path / "store"
    more = {}
    for method, yes in (("original", 1.0), ("method", 0.0)):
        made = write_cell(store, method, "background", yes, role="background")
        file = store / made["images"] / "index.csv"
        pd.read_csv(file, dtype={"row_id": str}).assign(expect="thing0").to_csv(file, index=False)
        more[method] = [made]
    _, scores = loaded(tmp_path, {"method": GONE}, more)
    # Ten prompts of thing0 on scenes and others say yes, the fifty of background no: one thing of ten.
    assert score_of(scores, what="kept") == pytest.approx((9 + 10 / 60) / 10) and scores.of("method", "dog").things == 10


def test_a_method_that_lacks_a_part_has_no_score(tmp_path):
    records, store = tmp_path / "records", tmp_path / "store"
    loaded(tmp_path, {"whole": GONE})
    write_record(records, "dog", "some", cells_of(store, "some", **GONE)[:2])
    score_table = ScoreTable(store)
    scores = Headlines(AggregateScores(results.load(records, score_table), score_table))
    with pytest.raises(Missing, match=r"some has no answers\.seen on scenes"):
        scores.of("some", "dog")
    assert ranking_of(scores).index.tolist() == ["whole"]


def test_own_probes_count_by_the_role_of_their_rows(tmp_path):
    """Rows of role target in a split of another name are erased rows, in whatever file they stand."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    for method, rate in (("original", 1.0), ("method", 0.4)):
        mine = [write_cell(store, method, "mine", rate, role="target"), write_cell(store, method, "stay", 1.0, role="other")]
        write_record(records, "dog", method, mine)
    score_table = ScoreTable(store)
    frame = results.load(records, score_table)
    frame = frame.assign(role=frame["split"].map({"mine": "target", "stay": "other"}))
    scores = Headlines(AggregateScores(frame, score_table))
    assert score_of(scores, what="erased") == pytest.approx(0.6) and score_of(scores, what="kept") == 1


def test_the_thing_cut_out_of_single_objects_is_nearly_a_perfect_erasure(tmp_path):
    """On the emoji model: what a local removal leaves blank is no collapse, and what it leaves alone is kept."""
    from hydra import compose, initialize_config_dir

    from vestige.bench.run import composing, resolvers
    from vestige.bench.run.runner import run_job

    resolvers.register_resolvers()
    sizes = {"target": 6, "synonyms": 4, "others": 8}
    words = [f"split.{name}.{what}" for name, rows in sizes.items() for what in (f"rows={rows}", "repeats=1")]
    words += ["concept=dog", "split=[target,synonyms,others]"]
    words += [f"runtime.{name}={tmp_path / name}" for name in ("store", "records")]
    for method in ("original", "painted_over"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            tree = compose("run", [*words, f"method={method}"], return_hydra_config=True)
        record = run_job(composing.build_job(tree))
        assert record["status"] == "done", record["error"]
        assert record["flags"] == ["few_prompts"]
    score_table = ScoreTable(tmp_path / "store")
    frame = results.load(tmp_path / "records", score_table)
    scores = Headlines(AggregateScores(frame, score_table))
    assert score_of(scores, "painted_over") > 0.9 and score_of(scores, "original") == 0
    assert frame["collapsed"].isna().all()
