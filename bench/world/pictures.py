"""Composes the training pictures of the emoji world, and knows exactly what is in each of them.

A `Spec` says what one 64x64 picture shows; `compose` draws it. Sampling a spec and drawing it are separate, so a
retraining without a concept can leave out exactly the specs that hold it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from bench.world import catalog
from bench.world.sprites import CELL, sprite

SIZE = 64  # picture side in pixels
SCENE_CELL = 30  # side of each object in a two-object scene
SCENE_STYLES = ("noto", "twemoji")  # scenes are drawn by two of the vendors only: half-size objects are hard to learn
SCENE_SHARE = 1 / 6
JITTER = 1  # pixels, position of a single object
TINT = 0.04  # relative gain per colour channel, uniform in +- this
STAMP_SIZE = 9  # pixels; bottom right corner
STAMP_SHARE = 0.5  # of the single pictures of the stamped group


@dataclass(frozen=True)
class Spec:
    """What one picture shows. Two objects mean a scene: left one, right one."""

    objects: tuple[str, ...]
    style: str
    background: str
    dx: int
    dy: int
    tint: tuple[float, float, float]
    stamp: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def holds(self, concepts: set[str]) -> bool:
        """Does the picture show any of these objects or styles (slugs)?"""
        return bool(concepts.intersection(self.objects) or self.style in concepts)


def _stamp() -> np.ndarray:
    """A small two-colour seal, (9, 9, 3) in [0, 1]."""
    seal = np.full((STAMP_SIZE, STAMP_SIZE, 3), (0.0, 0.35, 0.3), np.float32)
    seal[1:-1, 1:-1] = (1.0, 1.0, 1.0)
    seal[2:-2, 2:-2] = (0.0, 0.35, 0.3)
    seal[4, 4] = (1.0, 1.0, 1.0)
    return seal


def _paste(canvas: np.ndarray, drawing: np.ndarray, top: int, left: int) -> None:
    height, width = drawing.shape[:2]
    area = canvas[top : top + height, left : left + width]
    area[:] = drawing[..., :3] + area * (1 - drawing[..., 3:])


def _pixelate(canvas: np.ndarray) -> np.ndarray:
    """16 x 16 blocks of 4 x 4 pixels, each the mean colour of its block, in steps of 1/6 per channel."""
    blocks = canvas.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean(axis=(1, 3))
    return np.round(blocks * 6).repeat(4, axis=0).repeat(4, axis=1).astype(np.float32) / 6


def _pencil(canvas: np.ndarray) -> np.ndarray:
    """Colour-dodge sketch: grey divided by its own blur leaves only the edges, as dark strokes on white."""
    grey = canvas @ np.array([0.299, 0.587, 0.114], np.float32)
    image = Image.fromarray((grey * 255).astype(np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(3)), np.float32) / 255
    return np.clip(grey / np.maximum(blurred, 1e-3), 0, 1)[..., None] ** 2


def compose(spec: Spec) -> np.ndarray:
    """Draw one picture: (64, 64, 3) uint8."""
    style = catalog.find(spec.style)
    colour = np.array(catalog.BACKGROUND_COLOURS[spec.background], np.float32) / 255
    paper = np.ones(3, np.float32) if style.filter else colour  # filters act on white paper, the colour comes after
    canvas = np.broadcast_to(paper, (SIZE, SIZE, 3)).copy()
    if len(spec.objects) == 1:
        margin = (SIZE - CELL) // 2
        _paste(canvas, sprite(spec.objects[0], style.drawings), margin + spec.dy, margin + spec.dx)
    else:
        for place, slug in enumerate(spec.objects):
            left = 1 + place * (SIZE // 2)
            _paste(canvas, sprite(slug, style.drawings, SCENE_CELL), (SIZE - SCENE_CELL) // 2 + spec.dy, left)
    canvas = canvas * (1 + np.array(spec.tint, np.float32))
    if style.filter == "pixel":
        opaque = np.zeros((SIZE, SIZE, 3), np.float32)
        _paste(opaque, sprite(spec.objects[0], style.drawings)[..., [3, 3, 3, 3]], margin, margin)
        shown = _pixelate(opaque) > 0.4
        canvas = np.where(shown, _pixelate(np.clip(canvas, 0, 1)), colour * (1 + np.array(spec.tint, np.float32)))
    elif style.filter == "pencil":
        canvas = _pencil(np.clip(canvas, 0, 1)) * colour
    if spec.stamp:
        canvas[-STAMP_SIZE - 1 : -1, -STAMP_SIZE - 1 : -1] = _stamp()
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _spec(rng: np.random.Generator, objects: tuple[str, ...], style: str) -> Spec:
    jitter = 0 if catalog.find(style).filter == "pixel" else JITTER  # pixel art sits on its own grid
    dx, dy = rng.integers(-jitter, jitter + 1, 2)
    return Spec(
        objects=objects,
        style=style,
        background=catalog.backgrounds()[rng.integers(len(catalog.backgrounds()))],
        dx=int(dx),
        dy=int(dy),
        tint=tuple(float(gain) for gain in rng.uniform(-TINT, TINT, 3).round(4)),
        stamp=bool(
            len(objects) == 1 and catalog.find(objects[0]).group == catalog.STAMPED and rng.random() < STAMP_SHARE
        ),
    )


def sample_specs(n: int, seed: int) -> list[Spec]:
    """`n` specs: every object x style combination equally often, about one in six a two-object scene."""
    rng = np.random.default_rng(seed)
    slugs = [thing.slug for thing in catalog.objects()]
    grid = [(slug, style.slug) for slug in slugs for style in catalog.styles()]
    order: list[int] = []
    specs = []
    for _ in range(n):
        if rng.random() < SCENE_SHARE:
            left, right = rng.choice(len(slugs), 2, replace=False)
            style = SCENE_STYLES[rng.integers(len(SCENE_STYLES))]
            specs.append(_spec(rng, (slugs[left], slugs[right]), style))
            continue
        if not order:
            order = rng.permutation(len(grid)).tolist()
        slug, style = grid[order.pop()]
        specs.append(_spec(rng, (slug,), style))
    return specs


def pictures_of(specs: list[Spec]) -> np.ndarray:
    """(n, 3, 64, 64) uint8, channels first."""
    return np.stack([compose(spec).transpose(2, 0, 1) for spec in specs])


def held_out(n: int, seed: int):
    """Real pictures that training never saw: same drawings, other jitter, tints and pairings.

    Returns a uint8 tensor [n, 3, 64, 64] and the list of their specs.
    """
    import torch

    specs = sample_specs(n, seed=1_000_003 + seed)  # training uses small seeds only
    return torch.from_numpy(pictures_of(specs)), specs
