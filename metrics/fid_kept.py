"""UnlearnCanvas' FID: images without the erased concept, compared with real images of the same cells of the grid.

machine_unlearning/evaluation/quantitative/fid.py of OPTML-Group/UnlearnCanvas@920cfd1 leaves out the target's row or column of
the grid on both sides. Its extractor is torchvision's Inception-v3, so values compare with no COCO FID.
"""

from dataclasses import dataclass

from vestige.bench.contract.types import Concept, ImageSet
from vestige.bench.prompts.prompt_sets import slug
from vestige.metrics.distances import Fid


@dataclass
class FidKept(Fid):
    """Cells are known by their ids (<object>-<style>), real images by the names of their folders (<style>/<object>/1.jpg)."""

    def rows(self, images: ImageSet, concepts: list[Concept]) -> list[int]:
        gone = {slug(concept.name) for concept in concepts}
        cells = zip(images.index["row_id"], images.index["file"], strict=True)
        parts = [{*row_id.split("-"), *map(slug, file.split("/"))} for row_id, file in cells]
        return [k for k in super().rows(images, concepts) if not parts[k] & gone]
