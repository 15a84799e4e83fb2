"""Warnings: what should make a reader doubt a result, found in finished records. `vestige ls flags` explains each."""

from __future__ import annotations

import pandas as pd

from vestige.bench.contract.flags import FEW, ORIGINAL_SHOWS
from vestige.bench.reports.results import REFERENCES, on_its_own, present
from vestige.bench.reports.score_table import WORST

ACCESS = ("text", "latents", "images", "gradients", "embedding", "weights")  # what an attacker needs, weakest first


def flags(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per raised flag: model, concept, method, attack, flag, detail. `frame` is that of results.load."""
    shown = present(frame)
    shown = shown[shown["split"] == "target"]
    found = _of_cells(frame)
    found += [row for rule in (_original, _lowers, _weak, _unchanged, _few, _judge) for row in rule(shown)]
    found += [row for _, part in frame.groupby("model") for row in _mixed(part)]
    return pd.DataFrame(found, columns=["model", "concept", "method", "attack", "flag", "detail"]).drop_duplicates()


def _row(cell, flag: str, detail: str = "", **over) -> tuple:
    head = {"model": cell.model, "concept": cell.concept, "method": cell.method, "attack": cell.attack} | over
    return (*head.values(), flag, detail)


def _of_cells(shown: pd.DataFrame) -> list[tuple]:
    named = shown[shown["cell_flags"].fillna("") != ""]
    return [_row(cell, flag) for cell in named.itertuples() for flag in cell.cell_flags.split(",")]


def _original(shown: pd.DataFrame) -> list[tuple]:
    weak = shown[(shown["method"] == "original") & (shown["attack"] == "none") & (shown["value"] < ORIGINAL_SHOWS)]
    return [_row(cell, "original_fails", f"{100 * cell.value:.0f} %") for cell in weak.itertuples()]


def _lowers(shown: pd.DataFrame) -> list[tuple]:
    plain = {(c.key, c.split): c for c in shown[shown["attack"] == "none"].itertuples()}
    found = []
    for cell in shown[~shown["attack"].isin(["none", WORST]) & on_its_own(shown)].itertuples():
        before = plain.get((cell.key, cell.split))
        if before is not None and cell.ci_high < before.ci_low:
            found.append(_row(cell, "attack_lowers", f"{100 * before.value:.0f} % before, {100 * cell.value:.0f} % attacked"))
    return found


def _weak(shown: pd.DataFrame) -> list[tuple]:
    found = []
    attacked = shown[shown["access"].isin(ACCESS) & on_its_own(shown) & ~shown["method"].isin(REFERENCES)]
    for _, cells in attacked.groupby("key"):
        best = cells.sort_values("value").groupby("access").tail(1).set_index("access")
        levels = [level for level in ACCESS if level in best.index]
        for k, level in enumerate(levels[:-1]):
            stronger = best.loc[levels[k + 1 :]]
            if best.loc[level, "ci_low"] > stronger["ci_high"].max():
                cell = best.loc[level]
                found.append(_row(cell, "weak_beats_strong", f"{level}: {100 * cell.value:.0f} %"))
    return found


def _unchanged(shown: pd.DataFrame) -> list[tuple]:
    same = shown[(shown["method"] != "original") & (shown["attack"] == "none") & (shown["value"] > 0) & shown["unchanged"].eq(True)]
    return [_row(cell, "nothing_changed") for cell in same.itertuples()]


def _few(shown: pd.DataFrame) -> list[tuple]:
    few = shown[shown["groups"] < FEW].groupby(["model", "concept"], as_index=False).first()
    return [_row(cell, "few_prompts", f"{int(cell.groups)} prompts", method="all", attack="all") for cell in few.itertuples()]


def _judge(shown: pd.DataFrame) -> list[tuple]:
    shared = shown[shown["access"].isin(ACCESS[1:]) & (shown["judge"] == shown["attack_judge"])]
    return [_row(cell, "shared_judge", cell.judge, method="all") for cell in shared.itertuples()]


def _mixed(part: pd.DataFrame) -> list[tuple]:
    versions = sorted(part["code"].dropna().unique())
    if len(versions) < 2:
        return []
    return [(part["model"].iloc[0], "all", "all", "all", "mixed_code", ", ".join(v[:8] for v in versions))]
