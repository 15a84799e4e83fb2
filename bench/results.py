"""Records of finished jobs as one tidy table: one row per measured cell. Nothing is computed again here."""

import json
from pathlib import Path

import pandas as pd

FIRST = ("original", "oracle")
CELL = [
    "probe",
    "attack",
    "access",
    "metric",
    "column",
    "judge",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "groups",
    "higher_is_better",
    "images",
    "reason",
]


def load(records: Path) -> pd.DataFrame:
    """One row per cell; a job without cells (unsupported, failed) keeps one row that carries its reason."""
    rows = []
    for file in sorted(Path(records).glob("*.json")):
        record = json.loads(file.read_text())
        job = {name: record.get(name) for name in ("key", "status", "model", "method", "kind", "seed")}
        job |= {"concept": "+".join(record["concepts"]), "sampler": json.dumps(record.get("sampler"), sort_keys=True)}
        job |= {"job_reason": record.get("reason"), "erase_seconds": (record.get("cost") or {}).get("erase_seconds")}
        rows += [job | {name: cell.get(name) for name in CELL} for cell in record["cells"] or [{}]]
    frame = pd.DataFrame(rows, columns=None if rows else ["key", "method", "concept", *CELL])
    for name in ("value", "ci_low", "ci_high", "n", "erase_seconds"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name])
    return frame


def order(methods: list[str]) -> list[str]:
    """The original model first, the oracle second, the rest by name."""
    return sorted(set(methods), key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
