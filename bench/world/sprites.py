"""The drawings: one picture file holding every object as drawn by five groups of artists.

`build_sheet` renders the vector drawings from downloaded icon packages once; everything else only reads the shipped
sheet (bench/world/sprites/sheet.png, transparent, one column per object, one row per drawing set).
"""

import io
import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from bench.world import catalog, paths

CELL = 54  # pixels; the size at which a single object is drawn, so no resampling happens after rendering
PACKAGES = {  # drawing set -> npm package
    "fluent-emoji": "@iconify-json/fluent-emoji",
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "emojione": "@iconify-json/emojione",
    "fluent-emoji-high-contrast": "@iconify-json/fluent-emoji-high-contrast",
}


def _read_icons(folder: Path, name: str) -> dict:
    found = sorted(folder.glob(f"iconify-json-{name}-[0-9]*.tgz"))
    if not found:
        raise ValueError(f"{folder} holds no iconify-json-{name}-*.tgz. Fetch it with: npm pack {PACKAGES[name]}")
    with tarfile.open(found[-1]) as archive:
        return json.load(archive.extractfile("package/icons.json"))


def _svg(icons: dict, names: tuple[str, ...], source: str) -> str:
    for name in names:
        seen = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if icon := icons["icons"].get(seen):
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            return f'<svg {space} viewBox="{box}" width="{CELL}" height="{CELL}">{icon["body"]}</svg>'
    raise ValueError(f"The drawing set {source} has none of {', '.join(names)}; correct bench/world/objects.csv.")


def build_sheet(folder: Path) -> None:
    """Render every object from every drawing set in `folder` (npm tarballs) and write the sheet and its index."""
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError("Rendering the sprite sheet needs resvg: pip install resvg_py") from error
    things = catalog.objects()
    sheet = Image.new("RGBA", (CELL * len(things), CELL * len(PACKAGES)))
    for row, source in enumerate(PACKAGES):
        icons = _read_icons(folder, source)
        for column, thing in enumerate(things):
            svg = _svg(icons, thing.icons, source)
            drawn = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=CELL, height=CELL, skip_system_fonts=True))
            sheet.paste(Image.open(io.BytesIO(drawn)).convert("RGBA"), (column * CELL, row * CELL))
    paths.SPRITES.mkdir(parents=True, exist_ok=True)
    sheet.save(paths.SHEET, optimize=True)
    lines = ["drawings,row"] + [f"{source},{row}" for row, source in enumerate(PACKAGES)]
    lines += ["object,column"] + [f"{thing.slug},{column}" for column, thing in enumerate(things)]
    paths.SHEET_INDEX.write_text("\n".join(lines) + "\n", encoding="utf-8")


@cache
def _sheet() -> tuple[np.ndarray, dict[str, int]]:
    index = dict(line.split(",") for line in paths.SHEET_INDEX.read_text(encoding="utf-8").split())
    places = {name: int(place) for name, place in index.items() if place.isdigit()}
    return np.asarray(Image.open(paths.SHEET).convert("RGBA")), places


@cache
def sprite(slug: str, drawings: str, size: int = CELL) -> np.ndarray:
    """One drawing as (size, size, 4) float32 in [0, 1]: colour premultiplied by opacity, then opacity."""
    sheet, places = _sheet()
    top, left = places[drawings] * CELL, places[slug] * CELL
    cell = Image.fromarray(sheet[top : top + CELL, left : left + CELL])
    pixels = np.asarray(cell, np.float32) / 255
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    if size != CELL:  # resample premultiplied, else dark fringes appear around the drawing
        planes = [Image.fromarray(pixels[..., k]).resize((size, size), Image.Resampling.BOX) for k in range(4)]
        pixels = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return pixels
