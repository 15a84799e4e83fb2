"""GIPHY's celebrity detector (MPL-2.0, 2018): an MTCNN finds the face, a ResNet-50 names one of 2,306 persons.

celebrity:<folder>, the folder `resources` of its archive: face_recognition/labels.csv and face_recognition/best_model_states.pkl.
As MACE and HUB use it: margin 0.2, faces at 224 x 224 in [0, 1] without normalisation, the first detected face only (the surest).
The detector's own grouping of several faces of one image (a mixture model over embeddings) is left out. MTCNN: the same
networks and thresholds from the package facenet-pytorch, whose wheel carries their weights.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from vestige.bench.judges.plugin import Judge
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models.device import beside, current, placed
from vestige.bench.models.fingerprints import given
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.vision.pixels import at_side

MARGIN, SIDE, EMBEDDING = 0.2, 224, 256
LABELS, WEIGHTS = Path("face_recognition") / "labels.csv", Path("face_recognition") / "best_model_states.pkl"


@dataclass
class Celebrities(Judge):
    argument: ClassVar[str] = "folder"

    folder: str

    def check(self, name: str) -> None:
        folder = Path(self.folder).expanduser()
        lost = [str(file) for file in (LABELS, WEIGHTS) if not (folder / file).is_file()]
        if lost:
            raise ValueError(
                f"judge={name}: {folder} lacks {' and '.join(lost)}. Unpack "
                "https://s3.amazonaws.com/giphy-public/models/celeb-detection/resources.tar.gz and give the folder resources."
            )
        if importlib.util.find_spec("facenet_pytorch") is None:
            raise ValueError(f"judge={name} needs facenet-pytorch. Install it: pip install --no-deps facenet-pytorch")

    def inputs(self) -> dict[str, str]:
        return given(judge=self.folder)

    def blank(self, name: str) -> PresenceJudge | None:
        """Its labels lie beside its weights."""
        file = Path(self.folder).expanduser() / LABELS
        if not file.is_file():
            return None
        with open(file, newline="", encoding="utf-8") as handle:
            # The columns of the network are the labels sorted by name; the file's own index plays no part.
            names = [slug(row[0].split("_[")[0]) for row in sorted(list(csv.reader(handle))[1:])]
        return PresenceJudge(None, {"celebrity": names}, name, family="celebrity", abstains=True)

    def load(self, name: str) -> PresenceJudge:
        judge = self.blank(name)
        assert judge is not None, "check() asks for the labels"
        net = recogniser(len(judge.labels["celebrity"]))
        net.load_state_dict(_state(Path(self.folder).expanduser() / WEIGHTS))
        return judge.with_logits(named(placed(net), mtcnn()))


def named(net: nn.Sequential, faces: Callable[[Tensor], list[Tensor | None]]) -> Callable[[Tensor], dict[str, Tensor]]:
    """Logits of the first face of each image; a row of NaN where there is none. `faces`: images -> box (x1, y1, x2, y2) or None."""

    def logits(images: Tensor) -> dict[str, Tensor]:
        boxes = faces(images)
        crops = [cropped(image, box) for image, box in zip(images, boxes, strict=True) if box is not None]
        seen = torch.tensor([box is not None for box in boxes])
        answers = torch.full((len(images), cast(nn.Linear, net[-1]).out_features), float("nan"))
        if crops:
            answers[seen] = net(beside(net, torch.stack(crops))).cpu()
        return {"celebrity": answers}

    return logits


def recogniser(labels: int) -> nn.Sequential:
    """ResNet-50 up to its pooled features, an embedding of 256 values, the names. Keys as in GIPHY's checkpoint after `_state`."""
    from torchvision.models import resnet50

    layers = list(resnet50().children())
    return nn.Sequential(nn.Sequential(*layers[:-1]), nn.Flatten(), nn.Linear(2048, EMBEDDING), nn.Linear(EMBEDDING, labels))


def cropped(image: Tensor, box: Tensor) -> Tensor:
    """uint8 [3, h, w] and a box -> the face with half the margin on each side, float [3, 224, 224] in [0, 1]."""
    x1, y1, x2, y2 = box.tolist()
    across, down = int((x2 - x1) * MARGIN) / 2, int((y2 - y1) * MARGIN) / 2
    left, top = int(max(x1 - across, 0)), int(max(y1 - down, 0))
    right, bottom = int(min(x2 + across, image.shape[-1])), int(min(y2 + down, image.shape[-2]))
    face = image[None, :, top : max(bottom, top + 1), left : max(right, left + 1)].float() / 255
    return (at_side(face, SIDE, "bilinear")[0] * 255).round() / 255


def mtcnn() -> Callable[[Tensor], list[Tensor | None]]:
    """Images -> the surest face of each, with GIPHY's thresholds."""
    from facenet_pytorch import MTCNN

    finder = MTCNN(min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709, keep_all=True, select_largest=False, device=current())

    def faces(images: Tensor) -> list[Tensor | None]:
        found, surety = finder.detect([image.permute(1, 2, 0).cpu().numpy() for image in images])
        return [None if boxes is None else torch.as_tensor(boxes[p.argmax()]) for boxes, p in zip(found, surety, strict=True)]

    return faces


def _state(file: Path) -> dict[str, Tensor]:
    """The recogniser's part of the checkpoint (the rest belongs to the training loss), under the names of `recogniser`."""
    content = torch.load(file, map_location="cpu", weights_only=True)
    state = content.get("model_state", content)
    renamed = {"stem.": "0.", "fc1.": "2.", "fc2.": "3."}
    kept = {}
    for key, tensor in state.items():
        key = key.removeprefix("model.")
        for old, new in renamed.items():
            if key.startswith(old):
                kept[new + key.removeprefix(old)] = tensor
    return kept
