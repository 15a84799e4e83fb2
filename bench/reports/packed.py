"""Records with their scores in one small file beside them, so that a table can be made again without the store that they came from.

The file is a tar, compressed, of the index and the scores per image of every cell, under their names in the store; no images.
The same records give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from vestige.bench.places import CHECKOUT, PACKAGE

NAME = "scores.tar.gz"
# Of an index; prompts that must not be shown are hidden in it already. The digest of each image would be most of the file.
KEPT = ("row_id", "rep", "group", "seed", "expect", "role", "prompt", "file", "status")


def is_packed(place: Path) -> bool:
    return str(place).endswith(".tar.gz")


class Packed:
    """Reads such a file, whole, when first asked."""

    def __init__(self, file: Path) -> None:
        self.file = Path(file)

    def text(self, name: str) -> str | None:
        return self._texts.get(name)

    @cached_property
    def _texts(self) -> dict[str, str]:
        try:
            with tarfile.open(self.file, "r:gz") as archive:
                files = ((member.name, archive.extractfile(member)) for member in archive)
                return {name: file.read().decode() for name, file in files if file is not None}
        except (OSError, EOFError, tarfile.TarError) as error:
            raise ValueError(f"{self.file} cannot be read ({error}). Get the file again, or make it with `vestige pack`.") from error


def write(records: Path, read: Callable[[str, str], str | None], out: Path) -> list[str]:
    """Records and the scores of their cells to the folder `out`; returns the references of scores that are gone.

    read(reference, file name) gives one file of a stage. What only this machine can use is left out of the copies: the traceback of a
    failed job, and the place of the checkout, so that files of the project are named by their place in it.
    """
    texts: dict[str, str] = {}
    lost: dict[str, None] = {}
    copies = {file.name: _portable(file.read_text()) for file in sorted(records.glob("*.json"))}
    for text in copies.values():
        for cell in json.loads(text)["cells"]:
            for reference, name in ((cell.get("images"), "index.csv"), (cell.get("score"), "per_image.csv")):
                place = f"{reference}/{name}"
                if not reference or place in texts:
                    continue
                found = read(reference, name)
                if found is not None:
                    texts[place] = _shortened(found) if name == "index.csv" else found
                elif name == "index.csv" or read(reference, "totals.json") is None:  # a metric of whole sets has no rows
                    lost[reference] = None
    out.mkdir(parents=True, exist_ok=True)
    for name, text in copies.items():
        (out / name).write_text(text)
    (out / NAME).write_bytes(_archive(texts))
    return list(lost)


def _portable(record: str) -> str:
    content = json.loads(record) | {"error": None}
    return json.dumps(content, indent=1, sort_keys=True).replace(f"{PACKAGE}/", "").replace(f"{CHECKOUT or PACKAGE}/", "")


def _shortened(index: str) -> str:
    head, *rows = csv.reader(io.StringIO(index, newline=""))
    kept = [k for k, name in enumerate(head) if name in KEPT]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row[k] for k in kept] for row in (head, *rows))
    return out.getvalue()


def _archive(texts: dict[str, str]) -> bytes:
    """Nothing of the clock or the user is in it."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, out, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in sorted(texts.items()):
            member, content = tarfile.TarInfo(name), text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()
