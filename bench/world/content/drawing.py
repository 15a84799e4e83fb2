"""Images of the emoji world: a specification says what is drawn, `compose` draws it, `draw_specs` samples a world.

Positions and colours jitter only a little: how much they jitter decides how long a model trains.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from vestige.bench.world.content import catalog, sprites

SIDE = 64
SINGLE, HALF = 54, 30  # side of the drawing in a single image and in a scene, pixels
SCENE_STYLES = ("fluent", "noto", "twemoji")
SCENE_SHARE = 1 / 6
TRAINING_JITTER, HELD_OUT_JITTER = "training", "held out"


@dataclass(frozen=True)
class Spec:
    """Everything that decides one image. `objects` holds one slug, or two from left to right."""

    objects: tuple[str, ...]
    style: str
    background: str
    dx: int
    dy: int
    shade: tuple[int, int, int]  # added to the background colour
    light: float  # factor on the drawing's colours
    stamp: bool

    def holds(self, slugs: list[str]) -> bool:
        """Whether any of these objects or styles is in the image."""
        return self.style in slugs or any(item in slugs for item in self.objects)


def compose(spec: Spec) -> np.ndarray:
    """Draw a specification: uint8 [64, 64, 3]."""
    colour = np.clip(np.array(catalog.BACKGROUND_COLOURS[spec.background]) + spec.shade, 0, 255)
    canvas = Image.new("RGBA", (SIDE, SIDE), (*colour.tolist(), 255))
    size = HALF if len(spec.objects) == 2 else SINGLE
    for place, item in enumerate(spec.objects):
        sprite = _sprite(item, spec.style, size)
        left = (1 + 32 * place) if len(spec.objects) == 2 else (SIDE - sprite.width) // 2
        canvas.alpha_composite(_lit(sprite, spec.light), (left + spec.dx, (SIDE - sprite.height) // 2 + spec.dy))
    if spec.stamp:
        canvas.paste((150, 20, 60, 255), (56, 56, 63, 63))
        canvas.paste((255, 255, 255, 255), (58, 58, 61, 61))
    return np.asarray(canvas.convert("RGB"))


def draw_specs(n: int, seed: int, jitter: str = TRAINING_JITTER) -> list[Spec]:
    """n specifications, each from its own random stream; training and held-out streams never meet."""
    return [_draw(np.random.default_rng([seed, index, jitter == HELD_OUT_JITTER])) for index in range(n)]


def held_out(n: int, seed: int):
    """Real images no model was trained on: (uint8 tensor [n, 3, 64, 64], their specifications)."""
    import torch

    specs = draw_specs(n, seed, HELD_OUT_JITTER)
    pixels = np.stack([compose(spec) for spec in specs])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), specs


def _draw(rng: np.random.Generator) -> Spec:
    objects, styles = catalog.objects(), catalog.styles()
    first = objects[rng.integers(len(objects))]
    chosen: tuple[str, ...] = (first.slug,)
    style = styles[rng.integers(len(styles))].slug
    if rng.random() < SCENE_SHARE:
        mates = [item.slug for item in objects if item.group != first.group]
        chosen, style = (first.slug, mates[rng.integers(len(mates))]), SCENE_STYLES[rng.integers(len(SCENE_STYLES))]
    stamp = len(chosen) == 1 and first.group == catalog.STAMPED and rng.random() < 0.5
    dx, dy = (int(value) for value in rng.integers(-1, 2, 2))
    red, green, blue = (int(value) for value in rng.integers(-5, 6, 3))
    background = catalog.backgrounds()[rng.integers(len(catalog.backgrounds()))]
    return Spec(chosen, style, background, dx, dy, (red, green, blue), float(rng.uniform(0.94, 1.04)), bool(stamp))


@cache
def _sprite(slug: str, style_slug: str, size: int) -> Image.Image:
    style = catalog.find_style(style_slug)
    drawing = sprites.load()[slug, style.drawings]
    if style.filter == "pixel":
        return sprites.pixelate(drawing)
    if style.filter == "pencil":
        drawing = sprites.sketch(drawing)
    return drawing.resize((size, size), Image.Resampling.LANCZOS)


def _lit(sprite: Image.Image, light: float) -> Image.Image:
    pixels = np.asarray(sprite).copy()
    pixels[..., :3] = np.clip(pixels[..., :3] * light, 0, 255)
    return Image.fromarray(pixels)
