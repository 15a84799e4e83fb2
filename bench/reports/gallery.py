"""A self-contained HTML page of images: a row per method, a column per prompt and seed."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from vestige.bench.reports import identity, results
from vestige.bench.reports.page import framed
from vestige.bench.reports.question_tables import SPLITS

ROWS_PER_SPLIT = 6
STYLE = """
td,th{padding:3px 6px;text-align:center;font-weight:400}thead th{border:0;max-width:96px}tbody th{text-align:right}
td>*{width:96px;height:96px;border-radius:6px;display:block;outline:1px solid #8884}img{image-rendering:pixelated}
div.grey{background:#999}label{margin-right:1rem;white-space:nowrap}select{font:inherit;max-width:16rem}
form{position:sticky;top:0;z-index:3;background:var(--back);padding:.5rem 0;max-width:none}"""
SCRIPT = """
const boxes=[...document.querySelectorAll("select")],method=boxes.find(b=>b.name==="method");
const show=()=>{
  document.querySelectorAll("tr[data-method]").forEach(r=>r.hidden=!!method.value&&![method.value,"original"].includes(r.dataset.method));
  const sections=[...document.querySelectorAll("section")];
  sections.forEach(s=>s.hidden=boxes.some(b=>b!==method&&b.value&&s.dataset[b.name]!==b.value)
    ||(!!method.value&&![...s.querySelectorAll("tr[data-method]")].some(r=>r.dataset.method===method.value)));
  document.getElementById("none").hidden=sections.some(s=>!s.hidden);
};
boxes.forEach(b=>b.onchange=show);show();"""
INTRODUCTION = (
    "A column is one prompt and one seed. A row is a method; its name links to the record of the run. Grey tile: the concept is explicit, "
    "or the method has no such image. Black tile: withheld by a filter. The original model stays visible when you choose a method."
)


def write(records: Path, store: Path, out: Path) -> Path:
    """Write the page to `out`. Explicit concepts show grey tiles instead of images."""
    shown = _image_sets(records)
    keys = ("model", "concepts", "split", "attack")
    links = {key: quote(os.path.relpath(Path(records, f"{key}.json").resolve(), out.parent.resolve())) for key in shown["key"].unique()}
    sections = [_section(dict(zip(keys, key, strict=True)), group, store, links) for key, group in shown.groupby(list(keys), sort=True)]
    filters = " ".join(_filter(name, results.order(shown[name].tolist())) for name in (*keys, "method"))
    out.parent.mkdir(parents=True, exist_ok=True)
    top = f"<h1>Vestige gallery</h1><p>{INTRODUCTION}</p><form>{filters}</form>"
    nothing = '<p id="none" hidden>Nothing was measured for this choice.</p>'
    out.write_text(framed("Vestige gallery", top + nothing + "".join(sections), SCRIPT, STYLE))
    return out


def _image_sets(records: Path) -> pd.DataFrame:
    """One row per (job, split, attack) that has images: record key, model, concepts, kind, method, split, attack, images.

    Names are the labels of the tables; of a method erased with several seeds the seed is named, of a model drawn with several
    samplers the sampler.
    """
    found = [json.loads(file.read_text()) for file in sorted(records.glob("*.json"))]
    rows, labels = [], identity.labels(found)
    samplers = [identity.Thing(told.model, identity.flat(r.get("sampler") or {})) for r, told in zip(found, labels, strict=True)]
    for record, told, sampler in zip(found, labels, identity.notes(samplers), strict=True):
        head = {"key": record["key"], "model": told.model + sampler, "concepts": told.concept, "kind": record["kind"]}
        head |= {"method": told.method}
        under = f"{told.protocol}: " if told.protocol else ""
        rows += [
            {**head, "seed": record.get("seed"), "split": under + cell["split"], "attack": told.attack(cell["attack"])}
            | {"images": cell["images"]}
            for cell in record["cells"]
            if cell["images"]
        ]
    if not rows:
        raise ValueError(f"no record in {records} has images yet. Run with until=score first.")
    shown = pd.DataFrame(rows)
    several = shown.groupby(["model", "concepts", "method"])["seed"].transform("nunique") > 1
    shown["method"] = shown["method"].mask(several, shown["method"] + " (seed " + shown["seed"].astype(str) + ")")
    return shown.drop(columns="seed").drop_duplicates()


def _section(key: dict[str, str], group: pd.DataFrame, store: Path, links: dict[str, str]) -> str:
    columns = _columns(group, store)
    record = group.drop_duplicates("method").set_index("method")["key"]
    order = results.order(list(columns))
    first = columns[order[0]][1]
    head = "".join(f"<th>{html.escape(prompt)}</th>" for prompt in ["", *first["prompt"]])
    body = ""
    for name in order:
        tiles = "".join(_tile(columns[name], row_id) for row_id in first.index)
        link = f'<th><a href="{html.escape(links[record[name]])}">{html.escape(name)}</a></th>'
        body += f'<tr data-method="{html.escape(name)}">{link}{tiles}</tr>'
    data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in key.items())
    title = html.escape(" · ".join(key.values()))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section {data}><h2>{title}</h2><div class="wide">{table}</div></section>'


def sheet(records: Path, store: Path, out: Path) -> Path:
    """The same as one image: a line per concept, split and attack, a column per method. Explicit concepts are left out."""
    from PIL import Image, ImageDraw, ImageFont

    side, left, top = 64, 330, 24
    lines = []
    methods: list[str] = []
    sets = dict(iter(_image_sets(records).groupby(["concepts", "split", "attack"])))
    for concept, split, attack in sorted(sets, key=_reading_order):
        group = sets[concept, split, attack]
        columns = _columns(group[group["kind"] != "explicit"], store)
        methods = results.order([*methods, *columns])
        if columns:
            lines.append((f"{concept}, {split}" + ("" if attack == "none" else f", {attack}"), columns))
    page = Image.new("RGB", (left + side * 2 * len(methods), top + side * len(lines)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for k, method in enumerate(methods):
        pen.text((left + 2 * side * k + 4, 5), method, "black", font)
    for i, (words, columns) in enumerate(lines):
        first = next(iter(columns.values()))[1]
        rows = list(first.index[:2])
        pen.text((6, top + side * i + 14), words, "black", font)
        pen.text((6, top + side * i + 32), first.loc[rows[0], "prompt"][:52], "#777777", font)
        for k, method in enumerate(methods):
            for n, row_id in enumerate(rows):
                if method in columns and row_id in columns[method][1].index:
                    folder, index, _ = columns[method]
                    image = Image.open(folder / index.loc[row_id, "file"]).convert("RGB").resize((side - 2, side - 2))
                    page.paste(image, (left + side * (2 * k + n), top + side * i))
    out.parent.mkdir(parents=True, exist_ok=True)
    page.save(out, optimize=True)
    return out


def _columns(group: pd.DataFrame, store: Path) -> dict[str, tuple[Path, pd.DataFrame, str]]:
    """method -> (folder, index of its first images by row_id, kind of concept)."""
    columns = {}
    for row in group.drop_duplicates("method").itertuples():
        index = pd.read_csv(store / row.images / "index.csv", dtype={"row_id": str}, keep_default_na=False)
        columns[row.method] = (store / row.images, index.drop_duplicates("row_id").head(ROWS_PER_SPLIT).set_index("row_id"), row.kind)
    return columns


def _thumbnail(file: Path) -> str:
    """At most 256 pixels wide, WebP, as base64: a page of a thousand images stays a few megabytes."""
    from PIL import Image

    image, buffer = Image.open(file).convert("RGB"), io.BytesIO()
    image.thumbnail((256, 256))
    image.save(buffer, format="WEBP", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def _tile(column: tuple[Path, pd.DataFrame, str], row_id: str) -> str:
    folder, index, kind = column
    if kind == "explicit" or row_id not in index.index:
        return '<td><div class="grey"></div></td>'
    data = _thumbnail(folder / index.loc[row_id, "file"])
    return f'<td><img alt="" title="{html.escape(index.loc[row_id, "prompt"])}" src="data:image/webp;base64,{data}"></td>'


def _filter(name: str, values: list[str]) -> str:
    options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _reading_order(key: tuple[str, str, str]) -> tuple:
    """Concept, then split as in the tables, each unattacked before attacked."""
    concept, split, attack = key
    return concept, SPLITS.index(split) if split in SPLITS else len(SPLITS), attack != "none", attack
