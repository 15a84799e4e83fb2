"""Does a diffusers folder hold a model of the family that the settings say? Read from its small JSON files, before weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.bench.models.folders import INDEX, LAYOUTS, SCHEDULER, Layout, made_by, read_json

WIDTHS = {layout.text_width for layout in LAYOUTS.values() if layout.text_width}


def check_family(folder: Path, family: str) -> None:
    """Raise a ValueError for a model of another family, with what to type."""
    why = misfit(folder, LAYOUTS[family])
    if why is None:
        return
    others = [name for name, layout in LAYOUTS.items() if name != family and misfit(folder, layout) is None]
    if others:
        advice = f"It looks like {others[0]}: type model.family={others[0]}, with the sampler and size of that family."
    else:
        kind = read_json(folder / INDEX).get("_class_name", "pipeline")
        advice = f"No family of Vestige draws this {kind}; there are {', '.join(LAYOUTS)}."
    raise ValueError(f"model.family={family!r} does not fit {folder}: {why}. {advice}")


def misfit(folder: Path, layout: Layout) -> str | None:
    """What of the folder contradicts a layout, in half a sentence, or None."""
    index = read_json(folder / INDEX)
    for part, known in layout.classes.items():
        named = made_by(index, part)
        if named is None:
            if part in layout.optional:
                continue
            return f"it has no {part}"
        name = _settings(folder / part).get("_class_name") or named[1]
        if name not in known:
            return f"its {part} is of the class {name}"
    for part in index:
        if part.startswith(("text_encoder", "unet", "transformer")) and part not in layout.classes and made_by(index, part):
            return f"it also has {part}, which the family does not read"
    return _misfit_of_unet(folder, layout) or _misfit_of_process(folder, layout)


def _misfit_of_unet(folder: Path, layout: Layout) -> str | None:
    """Widths of random and embedded models are their own; a published width of another family tells that family."""
    if "unet" not in layout.classes:
        return None
    unet, vae = _settings(folder / "unet"), _settings(folder / "vae")
    width, channels, latents = unet.get("cross_attention_dim"), unet.get("in_channels"), vae.get("latent_channels")
    if isinstance(width, int) and width in WIDTHS - {layout.text_width}:
        return f"its unet reads text states of width {width}"
    if channels and latents and channels != latents:
        return f"its unet takes {channels} channels and its vae makes {latents}, as for inpainting, depth or editing"
    return None


def _misfit_of_process(folder: Path, layout: Layout) -> str | None:
    scheduler = _table(folder / SCHEDULER).get("_class_name", "")
    if scheduler and is_flow(scheduler) != layout.flow:
        return f"its own scheduler is a {scheduler}"
    return None


def is_flow(scheduler: str) -> bool:
    """Whether a scheduler of diffusers samples a rectified flow."""
    return scheduler.startswith("FlowMatch")


def _settings(part: Path) -> dict[str, Any]:
    return _table(part / "config.json")


def _table(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
