"""Images of a thing that no model was trained on: a striped ring with three antennae, drawn by hand for the control `never_knew`."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

OVERSAMPLING = 4
PAPER, BODY, STRIPE, TIP = (250, 250, 250), (128, 60, 170), (70, 200, 160), (235, 110, 40)


def made_up(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """uint8 [n, 3, height, width]; place, size and turn differ from image to image."""
    return torch.stack([_drawing(height, width, *torch.rand(4, generator=generator).tolist()) for _ in range(n)])


def _drawing(height: int, width: int, size: float, turn: float, right: float, down: float) -> Tensor:
    sheet = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), PAPER)
    pen, side = ImageDraw.Draw(sheet), min(sheet.size)
    radius, angle = side * (0.2 + 0.08 * size), 2 * math.pi * turn
    x = sheet.width * (0.45 + 0.1 * right)
    y = sheet.height * (0.5 + 0.1 * down)

    def disc(cx: float, cy: float, r: float, colour: tuple) -> None:
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)

    for k in range(3):
        towards = angle + (k - 1) * 0.6
        tip = x + 1.75 * radius * math.cos(towards), y + 1.75 * radius * math.sin(towards)
        pen.line((x, y, *tip), fill=BODY, width=round(radius / 6))
        disc(*tip, radius / 5, TIP)
    disc(x, y, radius, BODY)
    for k in range(0, 12, 2):
        begin = math.degrees(angle) + 30 * k
        pen.pieslice((x - radius, y - radius, x + radius, y + radius), begin, begin + 30, fill=STRIPE)
    disc(x, y, radius / 2.5, PAPER)
    return torch.from_numpy(np.array(sheet.resize((width, height), Image.Resampling.LANCZOS))).permute(2, 0, 1)
