"""UnlearnCanvas' FID leaves the erased concept's cells out, on both sides."""

import pandas as pd
import pytest
import torch

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.vision.set_distances import frechet
from vestige.metrics.fid_kept import FidKept


def test_cells_of_the_concept_leave_both_sides(tmp_path, concept):
    ours = pd.DataFrame({"row_id": ["dogs-winter", "cats-winter", "dogs-joy", "cats-joy", "sea-winter"], "rep": 0, "file": list("abcde")})
    files = ["Winter/Dogs/1.jpg", "Winter/Cats/1.jpg", "Joy/Dogs/1.jpg", "Joy/Cats/1.jpg", "Winter/Sea/1.jpg"]
    real = pd.DataFrame({"row_id": files, "rep": 0, "file": files})
    drawn, original = ImageSet(tmp_path / "ours", ours), ImageSet(tmp_path / "real", real)
    features = {"ours": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), "real": torch.eye(5, 2)}
    metric = FidKept("clip_emoji", "original")
    for slug, name, kind, kept in (("canvas_dogs", "Dogs", "object", [1, 3, 4]), ("canvas_winter", "Winter", "style", [2, 3])):
        erased = [concept(slug, kind, name=name)]
        context = MetricContext(erased, lambda: original, lambda images, extractor: features[images.folder.name])
        got = metric.score(drawn, context)
        assert got.meta["n"] == got.meta["n_reference"] == len(kept)
        assert next(iter(got.totals.values())) == pytest.approx(frechet(features["ours"][kept], features["real"][kept]), abs=1e-6)
