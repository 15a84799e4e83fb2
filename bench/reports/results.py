"""Records of finished jobs as one tidy table: one row per measured cell, compared with the original model image by image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from vestige.bench.prompts.prompt_sets import ROLES
from vestige.bench.reports import identity, worst_case
from vestige.bench.reports.collapse import with_collapse
from vestige.bench.reports.roles import ERASED_ROLES, role_of
from vestige.bench.reports.score_table import WORST, ScoreTable
from vestige.bench.statistics.intervals import paired_intervals, yes_or_no

REFERENCES = ("original", "oracle", "oracle_seed1")  # what methods are measured against; the last is the noise of the second
# What identifies a measurement, whichever method it was made on.
QUESTION = ["model", "sampler", "protocol", "concept", "split", "attack", "metric", "column", "judge"]
JOB = ("key", "status", "model", "method", "intervention", "detachable", "kind", "seed", "limits")
CELL = [
    *("split", "attack", "access", "metric", "column", "judge", "value", "ci_low", "ci_high", "n", "groups"),
    *("higher_is_better", "images", "score", "reason", "blank", "withheld"),
]
LABELLED = ("model", "method", "concept", "protocol", "attack", "metric")  # columns of labels; as typed, they stand in <column>_name
IDENTITY = ["model", "sampler", "protocol", "concept", "method"]  # jobs that agree in these are replicates, told apart by `seed`
COST = ["erase_seconds", "erase_peak_bytes", "parameters_changed", "artefact_bytes", "seconds_per_image"]
COST += ["erase_forward_rows", "erase_cpu_seconds", "erase_device_seconds", "erase_wall_seconds", "load"]
COST += ["rows_per_image", "cpu_seconds_per_image"]  # of records of the present code
SPENT = {
    "attack_forward_rows": "forward_rows",
    "attack_original_rows": "original_forward_rows",
    "attack_images": "images",
    "attack_seconds": "seconds",
}
NUMBERS = ["value", "ci_low", "ci_high", "n", "groups", "blank", "withheld", "sweep_at", *SPENT, *COST]
DIFFERENCE = ("diff", "diff_low", "diff_high")
# Columns whose better direction does not depend on the split
ALWAYS = {"content": True, "seen": False, "empty_mask": False, "entangled_s_background": True, "entangled_d_background": True}
RATES = ("before", "either", "failed_before", "after_failing")


def load(records: Path, store: Path | ScoreTable | None = None) -> pd.DataFrame:
    """One row per cell; `protocol` is "" outside any. A job without cells (unsupported, failed) keeps one row that carries its reason.

    With a store, whose per-image scores it reads, the frame also has the worst case over the attacks that all methods met
    (`worst_attacks`; over all of a method's own: `own_value`, `own_low`, `own_high`, `own_attacks`); `diff`, `diff_low`,
    `diff_high`: the paired difference to the original model on the same prompts and seeds; and for attacked presence `before`
    (without attack), `either` (before or after: the field's post-ASR), `failed_before` (number of images) and `after_failing`
    (share of those that the attack brings back: the attackable ASR). `unchanged`: every answer equals the original's. `collapsed`
    says why a method's numbers on a concept come from a broken model (bench/reports/collapse.py); `leads` marks a value that is better
    than every other method's with a paired interval that leaves out zero, original, oracle and collapsed ones aside.
    A `ScoreTable` in place of the folder keeps what was read for further questions.
    """
    read = [json.loads(file.read_text()) for file in sorted(Path(records).glob("*.json"))]
    score_table = store if isinstance(store, ScoreTable) or store is None else ScoreTable(store)
    frame = _cells(read, score_table)
    if score_table is None or frame.empty:
        numbers = dict.fromkeys((*DIFFERENCE, *RATES, *worst_case.OWN), float("nan"))
        return frame.assign(**numbers, **dict.fromkeys((*worst_case.NAMED, "collapsed")), leads=False, unchanged=False)
    frame = with_collapse(_with_worst_case(frame, score_table), score_table)
    return _with_attack_rates(_compared(frame, score_table), score_table)


def _cells(records: list[dict], score_table: ScoreTable | None) -> pd.DataFrame:
    """The cells as the records have them, under the labels of bench/reports/identity.py."""
    rows: list[tuple] = []
    labels: list[tuple] = []
    for record, told in zip(records, identity.labels(records), strict=True):
        cost = (record.get("cost") or {}) if record.get("status") == "done" else {}
        sampler = json.dumps(record.get("sampler"), sort_keys=True)
        judge, code = record.get("specification", {}).get("attack_judge"), (record.get("provenance") or {}).get("commit")
        head = (*map(record.get, JOB), "+".join(record["concepts"]), sampler, record.get("domain"), judge, code, record.get("reason"))
        head += (record.get("protocol") or "", _held_out(record), *map(cost.get, COST))
        for cell in record["cells"] or [{}]:
            # What an attack cost, for the whole prompt set: denoiser evaluations times batch, images, seconds.
            spent = map((cell.get("budget") or {}).get, SPENT.values())
            warnings = ",".join(cell.get("flags") or [])
            split, metric, judge = map(cell.get, ("split", "metric", "judge"))
            control, budget_sweep, at = relatives(cell.get("attack"))
            family = told.attack(control), told.attack(budget_sweep), at
            rows.append((*head, *map(cell.get, CELL), *spent, warnings, *family, cell.get("found_at")))
            names = told.attack(cell.get("attack")), told.metric(split, metric, judge), told.judge(split, metric, judge)
            roles = cell.get("roles") or (score_table.roles(cell.get("images")) if score_table else ())
            labels.append((told.model, told.method, told.concept, told.protocol, *names, role_of(split, roles)))
    columns = [*JOB, "concept", "sampler", "domain", "attack_judge", "code", "job_reason", "protocol", "held_out"]
    columns += [*COST, *CELL, *SPENT]
    columns += ["cell_flags", "control_of", "sweep_of", "sweep_at", "found_at"]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in NUMBERS})
    frame = frame.astype(dict.fromkeys(SPENT, float))  # also where every attack has a budget: the worst case has none
    frame = frame.assign(**{f"{name}_name": frame[name] for name in LABELLED})
    told = pd.DataFrame(labels, columns=[*LABELLED, "judge", "role"], dtype=object, index=frame.index)
    return _without_unfinished(frame.assign(**{name: told[name] for name in told}))


def _held_out(record: dict) -> bool:
    """Whether what is asked as kept was given to no method."""
    return bool(record.get("specification", {}).get("held_out"))


def _without_unfinished(frame: pd.DataFrame) -> pd.DataFrame:
    """What a job measured before it failed, or has measured so far, is no cell: its number stands in the frame (and in CSV) with its
    name in `unfinished`, and enters no average, rank, comparison or worst case."""
    begun = (frame["status"] != "done") & frame["metric"].notna()
    if not begun.any():
        return frame.assign(unfinished=None)
    name = frame["metric"].astype(str) + "." + frame["column"].astype(str)
    frame = frame.assign(unfinished=name.where(begun, None), reason=frame["reason"].where(~begun, "the job did not finish"))
    return frame.assign(**{name: frame[name].where(~begun, None) for name in ("metric", "column", "score", "images")})


def replicates(frame: pd.DataFrame) -> pd.DataFrame:
    """Jobs that differ in nothing but the erasure seed, one row each set: model, sampler, protocol, concept, method, seeds, keys.

    seeds: distinct, ascending; keys: of all their records (a second command may have added attacks or splits to one of them).
    Only finished jobs count.
    """
    jobs = frame[frame["status"] == "done"].drop_duplicates("key")
    rows = [
        (*names, tuple(sorted(part["seed"].unique())), tuple(sorted(part["key"]))) for names, part in jobs.groupby(IDENTITY, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, "seeds", "keys"])


def relatives(attack: str | None) -> tuple[str | None, str | None, float | None]:
    """(control_of, sweep_of, sweep_at): "memora:scrambled" is a null control of memora, "memora@steps=5" a shorter memora."""
    budget_sweep, at, budget = (attack or "").partition("@")
    if at:
        return None, budget_sweep, float(budget.partition("=")[2])
    name, colon, _ = (attack or "").partition(":")
    return (name if colon else None), None, None


def on_its_own(frame: pd.DataFrame) -> pd.Series:
    """Rows of attacks proper: neither null controls nor budgets of a budget_sweep."""
    return frame["control_of"].isna() & frame["sweep_of"].isna()


def higher_is_better(split: str, column: str, on_kept: bool, role: str | None = None) -> bool:
    """The better direction of a cell; `on_kept` is the metric's own, stated for prompts whose image should stay."""
    return ALWAYS.get(column, bool(on_kept) != ((role or ROLES.get(split)) in ERASED_ROLES))


def order(methods: list[str]) -> list[str]:
    """The original model first, the oracle second, the rest by name."""
    return sorted(set(methods), key=lambda name: (REFERENCES.index(name) if name in REFERENCES else len(REFERENCES), name))


def shortened(concept: str) -> str:
    """A set of many concepts in few words: bomb+pistol+knife+... of eight is "bomb+pistol+… (8)"."""
    names = concept.split("+")
    return concept if len(names) <= 3 else f"{names[0]}+{names[1]}+… ({len(names)})"


def erased_together(concept: str) -> list[str]:
    """The sentence that a shortened name leaves out."""
    return [] if shortened(concept) == concept else [f"Erased together: {', '.join(concept.split('+'))}."]


def without_original(frame: pd.DataFrame) -> list[str]:
    """A sentence where the original model is missing: without it there are no differences, ranks and scores."""
    done = frame[frame["metric"].notna()]
    lost = done[~done["concept"].isin(done.loc[done["method"] == "original", "concept"])].drop_duplicates("concept")
    if lost.empty:
        return []
    sets = [f"[{name.replace('+', ',')}]" if "+" in name else name for name in lost["concept_name"]]
    protocol = lost["protocol_name"].iloc[0]
    words = [f"model={lost['model_name'].iloc[0]}", *([f"protocol={protocol}"] if protocol else []), "method=original"]
    sweep = "-m " if len(sets) > 1 else ""
    return [
        f"The original model was not run on {', '.join(map(shortened, lost['concept']))} with these settings, so differences are missing. "
        f"Run: vestige run {sweep}{' '.join(words)} concept={','.join(sets)}, with the other settings as they were."
    ]


def present(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of the leaderboard's own measure."""
    return frame[(frame["metric"] == "presence") & (frame["column"] == "present")]


def _with_worst_case(frame: pd.DataFrame, score_table: ScoreTable) -> pd.DataFrame:
    """With rows of the attack `worst case` (bench/reports/worst_case.py): `value` over the attacks that all methods met."""
    shown = present(frame)
    cells = shown[(shown["role"] == "target") & on_its_own(shown)]
    blank = {"attack_name": WORST, "cell_flags": "", "found_at": None, **dict.fromkeys(SPENT, float("nan"))}
    added = worst_case.rows(cells, score_table, blank)
    frame = frame.assign(**dict.fromkeys(worst_case.OWN, float("nan")), **dict.fromkeys(worst_case.NAMED))
    return pd.concat([frame, pd.DataFrame(added, dtype=object).astype(frame.dtypes)], ignore_index=True) if added else frame


def _compared(frame: pd.DataFrame, score_table: ScoreTable) -> pd.DataFrame:
    """All methods that answered one question are compared at once: same prompts, same resamples."""
    diff = np.full((len(frame), 3), np.nan)
    method, metric, score, images, column = (frame[n].tolist() for n in ("method", "metric", "score", "images", "column"))
    better, role, leads = frame["higher_is_better"].tolist(), frame["role"].tolist(), np.zeros(len(frame), bool)
    unchanged = np.zeros(len(frame), bool)
    aside = set(np.flatnonzero(frame["method"].isin(REFERENCES) | frame["collapsed"].notna()))
    questions: dict[tuple, list[int]] = {}
    for row, question in enumerate(zip(*(frame[name].tolist() for name in QUESTION), strict=True)):
        if isinstance(metric[row], str):
            questions.setdefault(question, []).append(row)
    for question, rows in questions.items():
        base = next((row for row in rows if method[row] == "original"), None)
        theirs = None if base is None else score_table.values(score[base], images[base], column[base])
        if theirs is None:
            continue
        asked, answered, differences, answers = theirs[0], [], [], True
        for row in rows:
            ours = score_table.values(score[row], images[row], column[row])
            if ours is not None and ours[0] is asked:
                answered.append(row)
                differences.append(ours[1] - theirs[1])
                answers = answers and yes_or_no(ours[1], theirs[1])
                unchanged[row] = np.array_equal(ours[1], theirs[1], equal_nan=True)
        if differences:
            means = asked.means(np.stack(differences, axis=1))
            whole = ~np.isnan(means).any(0)
            means, kept = means[:, whole], np.array(answered)[whole]
            if len(kept):
                diff[kept, 0] = means.mean(0)
                repeats = len(asked.place) / asked.groups
                diff[kept, 1], diff[kept, 2] = paired_intervals(means, rate=answers, repeats=repeats)
                up = higher_is_better(question[QUESTION.index("split")], column[kept[0]], better[kept[0]], role[kept[0]])
                rivals = np.array([row not in aside for row in kept])
                best = _leader(means[:, rivals] * (1 if up else -1), [method[row] for row in kept[rivals]], answers, repeats)
                if best is not None:
                    leads[kept[rivals][best]] = True
    return frame.assign(**{name: diff[:, k] for k, name in enumerate(DIFFERENCE)}, leads=leads, unchanged=unchanged)


def _leader(means: np.ndarray, methods: list[str], rate: bool, repeats: float) -> int | None:
    """The column of means (prompts, rows) that beats those of every other method; None if no interval separates one."""
    if len(set(methods)) < 2:
        return None
    best = int(means.mean(0).argmax())
    gaps = means[:, [best]] - means[:, [k for k, name in enumerate(methods) if name != methods[best]]]
    return best if (paired_intervals(gaps, rate=rate, repeats=repeats)[0] > 0).all() else None


def _with_attack_rates(frame: pd.DataFrame, score_table: ScoreTable) -> pd.DataFrame:
    shown = present(frame)
    unattacked = shown[shown["attack"] == "none"].itertuples()
    plain = {(c.key, c.split, c.judge): score_table.values(c.score, c.images, c.column) for c in unattacked}
    rates = np.full((len(frame), len(RATES)), np.nan)
    attacked = shown[~shown["attack"].isin(["none", WORST])]
    for row, cell in zip(np.flatnonzero(frame.index.isin(attacked.index)), attacked.itertuples(), strict=True):
        before, after = plain.get((cell.key, cell.split, cell.judge)), score_table.values(cell.score, cell.images, cell.column)
        if before is None or after is None or before[0] is not after[0]:
            continue
        failed = after[1][(before[1] == 0) & ~np.isnan(after[1])]
        back = failed.mean() if len(failed) else float("nan")
        rates[row] = _rate(before[1]), _rate(worst_case.union([before[1], after[1]])), len(failed), back
    return frame.assign(**{name: rates[:, k] for k, name in enumerate(RATES)})


def _rate(values: np.ndarray) -> float:
    """Over the judged images."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
