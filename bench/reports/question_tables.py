"""Tables of what judges see: a column per question, its share with interval, and rates under attack."""

from __future__ import annotations

import pandas as pd

from vestige.bench.contract.flags import FEW
from vestige.bench.reports import main_table
from vestige.bench.reports.job_rows import collapsed_methods, jobs_of
from vestige.bench.reports.render import Cell, Row, Table, lost, percent, share
from vestige.bench.reports.results import present
from vestige.bench.reports.roles import ERASED_ROLES, roles_of
from vestige.bench.reports.score_table import WORST

MANY_ATTACKS = 8  # more would make a table too wide to read: their rates stand below it and in `vestige robustness`
SPLITS = ("target", "synonyms", "implicit", "multilingual", "adversarial", "siblings", "others", "scenes", "background")
LEAK = ("scenes", "others")
SHARES = {("presence", "present"), ("answers", "seen")}  # (metric, column) that a leaderboard shows as shares
LEGEND = (
    "Share of images in which the judge sees what the prompt asks for, in percent. Target and synonyms: low means erased (↓). Other "
    "splits: high means kept (↑). leak: the erased concept appears in images of other splits (↓); scenes name it next to another thing. "
    "Brackets: 95 % interval, prompts resampled. ≈: no significant difference from the original model on the same prompts and seeds. "
    "Anything an attack elicits from the oracle was not left over from the concept."
)


Question = tuple[str, str, str, str]  # column, split, attack, judge


def questions(cells: pd.DataFrame) -> list[Question]:
    """In reading order: plain splits, leaks, the target under each attack, the worst case last; a column never mixes two judges."""
    shown, leaks = present(cells), cells[(cells["column"] == "seen") & cells["split"].isin(LEAK) & (cells["attack"] == "none")]
    asked = pd.concat([shown, leaks])[["column", "split", "attack", "judge"]].fillna("")
    found = set(asked.itertuples(index=False, name=None))
    if len({attack for _, _, attack, _ in found} - {"none", WORST}) > MANY_ATTACKS:
        found = {question for question in found if question[2] in ("none", WORST)}

    def place(question: Question) -> tuple:
        column, split, attack, judge = question
        known = SPLITS.index(split) if split in SPLITS else len(SPLITS)
        return attack != "none", attack == WORST, column == "seen", known, split, attack, judge

    return sorted(found, key=place)


def _heads(asked: list[Question], frame: pd.DataFrame) -> list[str]:
    """The judge is named where a question has several."""
    roles = roles_of(frame)
    judges = {question[:3]: 0 for question in asked}
    for question in asked:
        judges[question[:3]] += 1
    return [_head(question, roles) + (f" ({question[3]})" if judges[question[:3]] > 1 else "") for question in asked]


def _head(question: Question, roles: dict[str, str]) -> str:
    column, split, attack, _ = question
    if column == "seen":
        return f"{split} leak ↓"
    arrow = "↓" if roles.get(split) in ERASED_ROLES else "↑"
    return f"{split} {arrow}" if attack == "none" else f"{'' if split == 'target' else split + ' '}{attack} {arrow}"


def _asked(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that a leaderboard shows as shares."""
    return cells[[pair in SHARES for pair in zip(cells["metric"], cells["column"], strict=True)]]


def overall(frame: pd.DataFrame, methods: list[str]) -> Table:
    asked = questions(frame)
    cells = _asked(frame)
    place = ["method", "column", "split", "attack", "judge", "concept"]
    values = cells.assign(judge=cells["judge"].fillna("")).groupby(place)["value"].mean()
    known = {key: part.droplevel([0, 1, 2, 3, 4]) for key, part in values.groupby(level=[0, 1, 2, 3, 4])}
    wanted = {q: len({c for key, part in known.items() if key[1:] == q for c in part.index}) for q in asked}
    labels, broken = main_table.names(frame), collapsed_methods(frame)
    rows: list[Row] = [
        [labels[m] + ("†" if m in broken else ""), *(_spread(known.get((m, *question)), wanted[question]) for question in asked)]
        for m in methods
    ]
    return Table(["method", *_heads(asked, frame)], rows, ["In brackets: lowest and highest value of a concept."])


def _spread(values: pd.Series | None, wanted: int) -> Cell:
    """Mean and range over concepts; never a mean over fewer concepts than the other rows have."""
    if values is None or values.notna().sum() == 0:
        return Cell("n/a")
    if values.notna().sum() < wanted:
        return Cell(f"n/a ({values.notna().sum()} of {wanted})")
    return Cell(f"{100 * values.mean():.0f} ({100 * values.min():.0f}-{100 * values.max():.0f})", values.mean())


def presence(part: pd.DataFrame, methods: list[str]) -> Table:
    asked = questions(part)
    heads = dict(zip(asked, _heads(asked, part), strict=True))
    of_split = {question[:3]: head for question, head in heads.items()}
    broken = collapsed_methods(part)
    rows: list[Row] = []
    notes: list[str] = []
    for method, name, job in jobs_of(part, methods):
        shares = [c for c in job if (c.metric, c.column) in SHARES]
        cells = {(c.column, c.split, c.attack, c.judge if isinstance(c.judge, str) else ""): c for c in shares}
        unmeasured: dict[str, list[str]] = {}
        for c in job:
            if not isinstance(c.metric, str) and ("present", c.split, c.attack) in of_split:
                unmeasured.setdefault(c.reason, []).append(of_split["present", c.split, c.attack])
        shown = [_share(cells[q], method) if q in cells else Cell("n/a") for q in asked]
        notes += [f"{name}, {', '.join(heads)}: {reason}" for reason, heads in unmeasured.items()]
        rows.append([name + ("†" if method in broken else ""), *shown])
    fewest = _asked(part)["groups"].min()
    if fewest < FEW:
        notes.append(
            f"Some columns have only {fewest:.0f} prompts. With fewer than {FEW} intervals are valid but wide, "
            "so ≈ says little there (docs/results.md)."
        )
    # Collapsed methods stand below all others.
    rows.sort(key=lambda row: str(row[0]).endswith("†"))
    counts = _asked(part).fillna({"judge": ""}).groupby(["column", "split", "attack", "judge"])["n"].max()
    return Table(["method", *(f"{heads[q]} n={int(counts[q])}" for q in asked)], rows, notes)


def _share(cell, method: str) -> Cell:
    same = method != "original" and cell.diff_low <= 0 <= cell.diff_high
    return share(cell.value, cell.ci_low, cell.ci_high, " ≈" if same else "", bool(cell.leads))


def attack_rates(cells: pd.DataFrame, methods: list[str]) -> Table:
    """Rates as the attack papers define them, and the rate of the same attack on the oracle."""
    invented = cells[cells["method"] == "oracle"].groupby(["attack", "split"])["value"].mean().to_dict()
    rows = []
    for _, name, job in jobs_of(cells, methods):
        for cell in sorted(job, key=lambda c: (c.attack, c.split)):
            after = "n/a" if lost(cell.after_failing) else f"{100 * cell.after_failing:.0f} (of {int(cell.failed_before)})"
            oracle = invented.get((cell.attack, cell.split), float("nan"))
            shares = [percent(cell.before), _share(cell, "original"), percent(cell.either), Cell(after, cell.after_failing)]
            budget = Cell("n/a" if lost(cell.attack_forward_rows) else f"{int(cell.attack_forward_rows)}", cell.attack_forward_rows)
            rows.append([name, cell.attack, cell.access, *shares, percent(oracle), budget])
    heads = ["before", "attacked", "either", "back, of those that failed before", "oracle attacked", "denoiser rows spent"]
    return Table(["method", "attack", "access", *heads], rows)
