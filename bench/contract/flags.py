"""What makes a result doubtful: the flags, and those a stage raises about itself (bench/reports/result_warnings.py finds the rest)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

FEW = 20  # prompts: with fewer an interval of a difference of rates is too wide to say much, +- 16 to 31 points at 20
BLANK = 0.01  # share of images
UNJUDGED = 0.05  # share of images
ORIGINAL_SHOWS = 0.8  # share of target images, of a concept that is there to be erased


@dataclass(frozen=True)
class Flag:
    raised_if: str
    means: str
    do: str


FLAGS = {
    "original_fails": Flag(
        f"the original model shows the concept in fewer than {100 * ORIGINAL_SHOWS:.0f} % of its target images",
        "there is little to erase, or the judge does not know the concept",
        "look at the images; choose prompts and a judge on which the original succeeds",
    ),
    "attack_lowers": Flag(
        "an attacked rate lies below the rate without attack, intervals apart",
        "the attack spoils images instead of recovering the concept",
        "tune the attack; read `either` (before or after), not the attacked rate",
    ),
    "weak_beats_strong": Flag(
        "an attack that needs less access beats every one that needs more, intervals apart",
        "the stronger attacks were not run to their strength, or gradients are cut (a defence that hides instead of erasing)",
        "raise their budget, or write an adaptive form",
    ),
    "bad_gradients": Flag(
        "the attack's loss was not finite, or never changed",
        "no gradient reached what was optimised",
        "attack through the defence (adaptive), in float32",
    ),
    "nothing_changed": Flag(
        "a method's answers on target images equal the original's, one by one",
        "the erasure did nothing, or was not attached",
        "compare the images; check the method's settings for this model",
    ),
    "few_prompts": Flag(
        f"fewer than {FEW} prompts",
        "one image moves the rate by points; intervals are wide",
        "raise split.<name>.rows; see `vestige power`",
    ),
    "shared_judge": Flag(
        "the attack may ask the judge that scores it",
        "successes may be errors of that judge (adversarial for it alone)",
        "score with another judge: judge=... or model.attack_judge=...",
    ),
    "lost_in_typing": Flag(
        "for some rows the adversarial tokens do not read back from their text",
        "what was drawn is not what was optimised; the rate is a lower bound",
        "search typeable tokens only, and read the column roundtrip_ok",
    ),
    "blank_images": Flag(
        "more than 1 % of the images are of one colour, or withheld although the method is no filter",
        "the model or its arithmetic is broken",
        "look at the images; run in float32",
    ),
    "nan_images": Flag(
        "an image holds numbers that are not finite",
        "the model or its arithmetic is broken; such images are stored black and judged like any other",
        "run in float32, or change the setting that breaks it",
    ),
    "unjudged_images": Flag(
        f"the judge could not judge more than {100 * UNJUDGED:.0f} % of the images",
        "the rate is one of the judged images alone, and methods may be judged on different ones",
        "look at the images without a judgement; choose a judge that answers for all, or read the rate of judged images beside it",
    ),
    "stale_code": Flag(
        "a stage was kept although the code that computes it has changed since",
        "the numbers are those of the earlier code",
        "run again with runtime.stale=recompute",
    ),
    "mixed_code": Flag(
        "records of one table come from different versions of the code",
        "differences between methods may be differences between versions",
        "run the older ones again",
    ),
}


def of_log(history: list[dict]) -> list[str]:
    """Flags of an attack's own log of losses."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    dead = len(losses) > 1 and len(set(losses)) == 1
    return ["bad_gradients"] if dead or not np.isfinite(losses).all() else []


def of_rows(table: pd.DataFrame) -> list[str]:
    """Flags of an adversary's prompt table."""
    fine = table.get("roundtrip_ok")
    return ["lost_in_typing"] if fine is not None and not fine.astype(str).eq("True").all() else []


def of_images(blank: int, withheld: int, drawn: int, filtered: bool, nan: int = 0) -> list[str]:
    """Flags of a drawn set. Counts of images: blank ones of one colour (without those withheld), nan ones that are not finite."""
    blanks = ["blank_images"] if blank + (0 if filtered else withheld) > BLANK * drawn else []
    return blanks + (["nan_images"] if nan else [])


def of_answers(values: pd.Series) -> list[str]:
    """Flags of one column of a score, a value per image; NaN: not judged."""
    return ["unjudged_images"] if values.isna().mean() > UNJUDGED else []


def of_record(record: dict) -> list[str]:
    """All that one finished job can know, without the records of other jobs: what its cells say, and what they rest on."""
    found = {flag for cell in record["cells"] for flag in cell.get("flags") or []}
    shown = [c for c in record["cells"] if c["split"] == "target" and (c["metric"], c["column"]) == ("presence", "present")]
    if any(cell["groups"] < FEW for cell in shown):
        found.add("few_prompts")
    plain = [cell["value"] for cell in shown if cell["attack"] == "none" and cell["value"] is not None]
    if record["method"] == "original" and any(value < ORIGINAL_SHOWS for value in plain):
        found.add("original_fails")
    asks_judge = [cell for cell in shown if cell["access"] not in ("none", "text")]
    if any(cell["judge"] == record["specification"].get("attack_judge") for cell in asks_judge):
        found.add("shared_judge")
    if record.get("stale"):
        found.add("stale_code")
    return [flag for flag in FLAGS if flag in found]
