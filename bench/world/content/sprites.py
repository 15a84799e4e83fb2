"""The drawings: rendered once from icon packages into one sprite sheet, then only read.

The sheet has one row per object and one column per drawing set, 64 x 64 RGBA pixels each. See ATTRIBUTION.md for licences.
"""

import io
import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vestige.bench.world.content import catalog, paths

SIDE = 64
SETS = ("fluent-emoji", "noto", "twemoji", "emojione", "fluent-emoji-high-contrast")


def build(packages: Path) -> Path:
    """Render the sheet from the npm tarballs in `packages` (names: iconify-json-<set>-<version>.tgz)."""
    sheet = Image.new("RGBA", (SIDE * len(SETS), SIDE * len(catalog.objects())))
    for column, name in enumerate(SETS):
        icons = _read_icons(packages, name)
        for row, item in enumerate(catalog.objects()):
            sheet.paste(_render(_svg(icons, item.icons, name)), (column * SIDE, row * SIDE))
    paths.SPRITES.mkdir(parents=True, exist_ok=True)
    sheet.save(paths.SHEET, optimize=True)
    return paths.SHEET


@cache
def load() -> dict[tuple[str, str], Image.Image]:
    """(object slug, drawing set) -> RGBA image of 64 x 64 pixels."""
    sheet = Image.open(paths.SHEET).convert("RGBA")
    boxes = {
        (item.slug, name): (column * SIDE, row * SIDE, (column + 1) * SIDE, (row + 1) * SIDE)
        for row, item in enumerate(catalog.objects())
        for column, name in enumerate(SETS)
    }
    return {key: sheet.crop(box) for key, box in boxes.items()}


def emoji_words(packages: Path) -> list[str]:
    """English names and keywords of all emoji (emojibase-data, MIT): plain words for the tokenizer."""
    with _open_package(packages, "emojibase-data-[0-9]*") as package:
        rows = json.loads(_member(package, "package/en/data.json"))
    return sorted({word for row in rows for word in [row["label"], *row.get("tags", [])]})


def _open_package(packages: Path, pattern: str) -> tarfile.TarFile:
    found = sorted(packages.glob(f"{pattern}.tgz"))
    if not found:
        raise ValueError(f"no package {pattern}.tgz in {packages}. Fetch it there with `npm pack` (see `vestige world build -h`).")
    return tarfile.open(found[-1])


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(name)
    if file is None:
        raise ValueError(f"{name} in {package.name!r} is no file. Fetch the package again with `npm pack`.")
    return file.read()


def _read_icons(packages: Path, name: str) -> dict:
    with _open_package(packages, f"iconify-json-{name}-[0-9]*") as package:
        return json.loads(_member(package, "package/icons.json"))


def _svg(icons: dict, names: tuple[str, ...], set_name: str) -> str:
    for name in names:
        while name in icons.get("aliases", {}):
            name = icons["aliases"][name]["parent"]
        if name in icons["icons"]:
            icon = icons["icons"][name]
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            view = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            return f'<svg {spaces} viewBox="{view}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
    raise ValueError(f"drawing set {set_name!r} has none of the icons {names}; see the column `icons` of objects.csv.")


def _render(svg: str) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("rendering sprites needs resvg-py: pip install resvg-py") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def pixelate(sprite: Image.Image, cells: int = 14, cell: int = 4) -> Image.Image:
    """A look of large square pixels: cells x cells averaged colours, hard edges."""
    small = np.asarray(sprite.resize((cells, cells), Image.Resampling.BOX)).copy()
    small[..., 3] = np.where(small[..., 3] > 110, 255, 0)
    return Image.fromarray(small).resize((cells * cell, cells * cell), Image.Resampling.NEAREST)


def sketch(sprite: Image.Image) -> Image.Image:
    """A look of grey pencil lines: colour dodge of the grey image with its blurred negative."""
    from PIL import ImageFilter

    paper = Image.new("RGBA", sprite.size, "white")
    paper.alpha_composite(sprite)
    grey = paper.convert("L")
    negative = grey.point(lambda value: 255 - value).filter(ImageFilter.GaussianBlur(2.5))
    dodge = np.asarray(grey, np.float32) * 255 / np.maximum(255 - np.asarray(negative, np.float32), 1)
    darkness = np.clip((255 - dodge) * 1.6, 0, 255).astype(np.uint8)
    lines = np.zeros((*darkness.shape, 4), np.uint8)
    lines[..., :3] = (60, 60, 68)
    lines[..., 3] = darkness
    return Image.fromarray(lines)
