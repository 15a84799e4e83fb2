"""Prompts to images on disk: per-row seeds, batches, resumable at any image."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from vestige.bench.contract import batches
from vestige.bench.contract.types import ImageSet, PromptSet, Sampler
from vestige.bench.prompts.published_lists import hidden

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe

INDEX = "index.csv"


def draw(pipe: Pipe, prompts: PromptSet, sampler: Sampler, folder: Path, batch_size: int, label: str = "") -> ImageSet:
    """Draw every (row, repetition) that `folder` does not hold yet and write the index.

    An image's file appears whole or not at all; one that is there whole was finished, so an interrupted run continues. Batches
    are cut from the whole set, never from what is left: an image depends on its batch by rounding. What does not fit into memory is cut
    smaller (bench/contract/batches.py).
    """
    (folder / "png").mkdir(parents=True, exist_ok=True)
    jobs = [(row, rep) for row in prompts.table.to_dict("records") for rep in range(prompts.repeats)]
    finished = {file.name.rsplit(".", 2)[0] for file in (folder / "png").glob("*.png") if _whole(file)}
    wanted = [batches.Wanted(row["prompt"], prompts.seed(row["row_id"], rep), (row["row_id"], rep)) for row, rep in jobs]
    todo = [batch for batch in batches.cut(wanted, batch_size) if any(_stem(*one.image_id) not in finished for one in batch)]
    shown = tqdm(todo, desc=label or prompts.name, disable=None, leave=False)
    for some, images in batches.draw(pipe, shown, sampler):
        for one, pixels, status in zip(some, images.pixels, images.status, strict=True):
            if _stem(*one.image_id) not in finished:
                _write_png(folder / "png" / f"{_stem(*one.image_id)}.{status}.png", pixels)
    return _index(prompts, jobs, folder)


def load(folder: Path) -> ImageSet:
    index = pd.read_csv(folder / INDEX, dtype={"row_id": str, "group": str, "expect": str, "seed": "uint64"}, keep_default_na=False)
    return ImageSet(folder, index)


def _index(prompts: PromptSet, jobs: list[tuple[dict, int]], folder: Path) -> ImageSet:
    rows = []
    alone = prompts.table["group"].nunique() == 1  # of a set that is one sentence the images are resampled, there is nothing else
    for row, rep in jobs:
        (file,) = (folder / "png").glob(f"{_stem(row['row_id'], rep)}.*.png")
        head = {"row_id": row["row_id"], "rep": rep, "file": f"png/{file.name}", "seed": prompts.seed(row["row_id"], rep)}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shown = {**row, "prompt": hidden(row["prompt"])} if row.get("private") else row
        if alone:
            head["group"] = f"{row['row_id']}/{rep}"
        rows.append({**shown, **head, "status": file.name.split(".")[-2], "sha256": digest})
    pd.DataFrame(rows).to_csv(folder / INDEX, index=False)
    return load(folder)


def _stem(row_id: str, rep: int) -> str:
    return f"{row_id}-{rep}"


def _whole(file: Path) -> bool:
    """Ends as a PNG ends: a power cut may leave a file without its content."""
    return file.read_bytes()[-12:] == b"\0\0\0\0IEND\xaeB`\x82"


def _write_png(file: Path, pixels) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    temporary = file.with_suffix(".tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, file)
