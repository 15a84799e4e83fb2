"""Writes the model card and the contact sheet that ship beside the emoji model's weights.

Every bar is a line of the card, met or not; a missed bar stands in the second paragraph.
"""

from dataclasses import fields

import torch
from torch import Tensor

from vestige.bench.contract.building import read_yaml
from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.places import CONF
from vestige.bench.world.content import catalog, drawing, paths
from vestige.bench.world.training.measure import STYLE_SEEDS, Line, measure, oracle_lines

COLUMNS = 14  # images per row of the contact sheet


def contact_sheet(shown: dict[str, Tensor], seeds: int) -> Tensor:
    """uint8 [3, height, width], rows of 14: every object once; 14 objects per style; scenes; real over rebuilt."""
    things = len(catalog.objects())
    styled = shown["style"].view(len(catalog.styles()), things, STYLE_SEEDS, *shown["style"].shape[1:])
    some = styled[:, :: things // COLUMNS, 0][:, :COLUMNS].flatten(0, 1)
    plain, scenes = shown["object"][::seeds], shown["scene"][: 2 * COLUMNS]
    tiles = torch.cat([plain, some, scenes, shown["real"][:COLUMNS], shown["rebuilt"][:COLUMNS]])
    rows = tiles.view(-1, COLUMNS, *tiles.shape[1:])  # (rows, 14, 3, 64, 64)
    return rows.permute(2, 0, 3, 1, 4).reshape(3, rows.shape[0] * drawing.SIDE, COLUMNS * drawing.SIDE)


def write(lines: list[Line], sheet: Tensor, sizes: dict[str, int]) -> None:
    """MODEL_CARD.md and contact_sheet.png."""
    from PIL import Image

    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(paths.CONTACT_SHEET, optimize=True)
    paths.CARD.write_text(text(lines, sizes), encoding="utf-8")


def text(lines: list[Line], sizes: dict[str, int]) -> str:
    verdict = {True: "yes", False: "**no**", None: ""}
    missed = [line.what for line in lines if line.met is False]
    table = [f"| {line.what} | {line.bar} | {line.measured} | {verdict[line.met]} |" for line in lines]
    parts = [f"| {name} | {size / 1e6:.2f} M |" for name, size in sizes.items()]
    things, looks = len(catalog.objects()), len(catalog.styles())
    return "\n".join(
        [
            "# The emoji model",
            "",
            f"A small Stable Diffusion, trained on composed emoji images: {things} objects, {looks} styles, "
            f"{len(catalog.backgrounds())} backgrounds. A test bed for concept erasure, no substitute for large models.",
            "Written by `vestige world card`; do not edit by hand. Drawings and licences: sprites/ATTRIBUTION.md.",
            "",
            "Missed bars: " + ("; ".join(missed) + "." if missed else "none."),
            "",
            "| what | bar | measured | met |",
            "|---|---|---|---|",
            *table,
            "",
            "![generated images](contact_sheet.png)",
            "",
            "Contact sheet, rows from the top: every object once (4 rows), 14 objects in each style (a row each:",
            ", ".join(item.name for item in catalog.styles()) + "), two-object scenes (2 rows), real images,",
            "and the same images through the VAE and back.",
            "",
            "| part | parameters |",
            "|---|---|",
            *parts,
            "",
        ]
    )


def run(seeds: int) -> int:
    """Measure the shipped model; 0 when every bar is met, 1 otherwise."""
    from safetensors.torch import load_file

    from vestige.bench.models import loading

    settings = read_yaml(CONF / "model" / "emoji.yaml")
    spec = ModelSpec(**{field.name: settings[field.name] for field in fields(ModelSpec)})
    loading.check(spec)  # a missing generator is said before anything is loaded
    from vestige.bench.world.models.clip_emoji import load_clip
    from vestige.bench.world.models.judges import load_judge

    pipe = loading.load(spec)
    judges = {"judge_a": load_judge("a"), "judge_b": load_judge("b")}
    clip = load_clip()
    lines, shown = measure(pipe, Sampler(**settings["sampler"]), judges, clip, seeds)
    for file in sorted(paths.ORACLES.glob("*/unet.safetensors")):
        lines += oracle_lines(pipe, Sampler(**settings["sampler"]), judges["judge_a"], file.parent.name, load_file(file))
    modules = {**pipe.parts, **judges, "clip_emoji": clip}
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    write(lines, contact_sheet(shown, seeds), sizes)
    print(paths.CARD.read_text(encoding="utf-8"))
    return int(any(line.met is False for line in lines))
