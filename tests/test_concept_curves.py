"""Curves over the number of concepts, from records with known answers."""

import json

import pytest

from vestige.bench.reports import concept_curves, results

VALUES = {("uce", 1): (0.0, 1.0, 1.0), ("uce", 3): (0.1, 0.5, 0.8), ("original", 1): (1.0, 1.0, 1.0), ("original", 3): (0.9, 1.0, 1.0)}


@pytest.fixture
def records(tmp_path):
    for (method, n), values in VALUES.items():
        cells = [
            {"split": split, "attack": "none", "metric": "presence", "column": "present", "value": v, "ci_low": v, "ci_high": v, "n": 8}
            for split, v in zip(concept_curves.PANELS, values, strict=True)
        ]
        record = {"key": f"{method}{n}", "status": "done", "method": method, "concepts": ["dog", "cat", "car"][:n], "cells": cells}
        (tmp_path / f"{method}{n}.json").write_text(json.dumps(record))
    return tmp_path


def test_the_table_has_a_column_for_each_number_of_concepts(records):
    text = concept_curves.table(concept_curves.curves(results.load(records)))
    assert text.splitlines()[0].endswith("| 1 | 3 |")
    assert "| uce | siblings ↑ | 100 (100-100) | 50 (50-50) |" in text
    # 3 / (1/0.9 + 1/0.5 + 1/0.8) = 0.688
    assert "| uce | H ↑ | 100 | 69 |" in text
    assert "| original | H ↑ | 0 | 25 |" in text


def test_the_plot_is_written_for_all_methods(records, tmp_path):
    concept_curves.draw(concept_curves.curves(results.load(records)), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_two_records_of_one_point_are_refused_not_averaged(records):
    twin = json.loads((records / "uce3.json").read_text()) | {"key": "other"}
    (records / "twin.json").write_text(json.dumps(twin))
    with pytest.raises(ValueError, match="several records of 3 concepts"):
        concept_curves.curves(results.load(records))


def test_without_records_the_command_to_type_is_named(tmp_path):
    with pytest.raises(ValueError, match="experiment=mass_erasure"):
        concept_curves.curves(results.load(tmp_path))
