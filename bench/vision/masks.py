"""Where in an image a named thing is: for erasers that look inside masks and metrics that tell thing from background.

A masker takes images, uint8 [n, 3, h, w], and a name, and returns bool [n, h, w]. `grounded` is the published one (text to
box to mask); `background_difference` needs no weights and fits drawings on a plain ground; `whole` is no mask.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vestige.bench.models.device import placed

MASKERS = ("whole", "background_difference", "grounded")
Masker = Callable[[Tensor, str], Tensor]


def masker(kind: str, threshold: float, detector: str, segmenter: str) -> Masker:
    """One of MASKERS. threshold: colour distance (background_difference) or box score (grounded)."""
    if kind == "whole":
        return lambda images, name: torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
    if kind == "background_difference":
        return lambda images, name: background_difference(images, threshold)
    return Grounded.load(detector, segmenter, threshold)


def background_difference(images: Tensor, threshold: float) -> Tensor:
    """bool [n, h, w]: pixels whose colour differs from the median border colour by more than `threshold`, 0 to 1, in some channel."""
    return ((images.float() / 255 - border_colour(images)).abs() > threshold).any(1)


def border_colour(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w] -> [n, 3, 1, 1] in [0, 1]: the median colour along the four edges."""
    pixels = images.float() / 255
    border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]], -1)
    return border.median(-1).values[..., None, None]


class Grounded:
    """Grounding DINO finds the name's best box, SAM the mask in it: transformers' port, as in Shilin-LU/MACE@057e7a6.

    Like the official data_preparation_transformers.py: the best box above the threshold, the union of SAM's three proposals,
    their largest connected part with its holes filled. Unlike it, the detector is asked for the name: that file passes the
    name where a list belongs and so asks for its single letters. An image without a box gets an empty mask.
    Never run with the published weights (grounding-dino-base, sam-vit-huge); tested with random ones for shapes and flow.
    """

    def __init__(self, detector, reader, segmenter, prompter, threshold: float) -> None:
        self.detector, self.reader, self.segmenter, self.prompter, self.threshold = detector, reader, segmenter, prompter, threshold

    @classmethod
    def load(cls, detector: str, segmenter: str, threshold: float) -> "Grounded":
        from transformers import AutoProcessor, GroundingDinoForObjectDetection, SamModel, SamProcessor

        try:
            models = [GroundingDinoForObjectDetection.from_pretrained(detector), AutoProcessor.from_pretrained(detector)]
            models += [SamModel.from_pretrained(segmenter), SamProcessor.from_pretrained(segmenter)]
        except OSError as error:
            raise ValueError(
                f"mask=grounded needs the weights {detector!r} and {segmenter!r}, and they cannot be loaded "
                f"({str(error).splitlines()[0]}). Download them and set the fields detector and segmenter to their folders, or "
                "choose another mask: background_difference or whole."
            ) from error
        return cls(placed(models[0]), models[1], placed(models[2]), models[3], threshold)

    @torch.no_grad()
    def __call__(self, images: Tensor, name: str) -> Tensor:
        masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
        for k, image in enumerate(images):
            box = self.box(image, name)
            if box is not None:
                masks[k] = largest_part(self.mask(image, box))
        return masks

    def box(self, image: Tensor, name: str) -> list[float] | None:
        """x0, y0, x1, y1 in pixels, or None when no box reaches the threshold."""
        question = self.reader(images=image, text=f"{name.lower()}.", return_tensors="pt").to(self.detector.device)
        answer = self.detector(**question)
        scores = answer.logits[0].sigmoid().amax(-1)
        best = scores.argmax()
        if scores[best] <= self.threshold:
            return None
        x, y, width, height = answer.pred_boxes[0, best].tolist()
        h, w = image.shape[-2:]
        return [(x - width / 2) * w, (y - height / 2) * h, (x + width / 2) * w, (y + height / 2) * h]

    def mask(self, image: Tensor, box: list[float]) -> Tensor:
        """bool [h, w]."""
        question = self.prompter(images=image, input_boxes=[[box]], return_tensors="pt").to(self.segmenter.device)
        answer = self.segmenter(**question)
        sizes = question["original_sizes"], question["reshaped_input_sizes"]
        return self.prompter.post_process_masks(answer.pred_masks.cpu(), *sizes)[0][0].any(0)


def largest_part(mask: Tensor) -> Tensor:
    """bool [h, w]: the largest connected part, without holes."""
    from scipy import ndimage

    parts, n = ndimage.label(mask.numpy())
    if n == 0:
        return mask
    sizes = ndimage.sum_labels(mask.numpy(), parts, range(1, n + 1))
    return torch.from_numpy(ndimage.binary_fill_holes(parts == sizes.argmax() + 1))
