"""Does a diffusers folder hold a model of the family that the settings say? Read from its small JSON files, before weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige.bench.models.families import Family, family, names
from vestige.bench.models.folders import SCHEDULER, made_by, read_json


def check_family(folder: Path, name: str) -> None:
    """Raise a ValueError for a model of another family, with what to type."""
    why = misfit(folder, family(name))
    if why is None:
        return
    others = [other for other in names() if other != name and misfit(folder, family(other)) is None]
    if others:
        advice = f"It looks like {others[0]}: type model.family={others[0]}, with the sampler and size of that family."
    else:
        kind = _table(folder / family(name).index).get("_class_name", "pipeline")
        advice = f"No family of Vestige draws this {kind}; there are {', '.join(names())}."
    raise ValueError(f"model.family={name!r} does not fit {folder}: {why}. {advice}")


def misfit(folder: Path, layout: Family) -> str | None:
    """What of the folder contradicts a layout, in half a sentence, or None."""
    if not (folder / layout.index).exists():
        return f"it has no {layout.index}"
    if layout.library == "transformers":
        kind = _table(folder / layout.index).get("model_type")
        return None if kind == layout.name else f"its config.json is that of a {kind}"
    index = read_json(folder / layout.index)
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


def _misfit_of_unet(folder: Path, layout: Family) -> str | None:
    """Widths of random and embedded models are their own; a published width of another family tells that family."""
    if "unet" not in layout.classes:
        return None
    unet, vae = _settings(folder / "unet"), _settings(folder / "vae")
    width, channels, latents = unet.get("cross_attention_dim"), unet.get("in_channels"), vae.get("latent_channels")
    if isinstance(width, int) and width in _widths() - {layout.text_width}:
        return f"its unet reads text states of width {width}"
    if channels and latents and channels != latents:
        return f"its unet takes {channels} channels and its vae makes {latents}, as for inpainting, depth or editing"
    return None


def _widths() -> set[int]:
    """Of text states that the UNets of published models read."""
    return {known.text_width for name in names() if (known := family(name)).text_width}


def _misfit_of_process(folder: Path, layout: Family) -> str | None:
    scheduler = _table(folder / SCHEDULER).get("_class_name", "")
    if scheduler and is_flow(scheduler) == layout.diffusion:
        return f"its own scheduler is a {scheduler}"
    return None


def is_flow(scheduler: str) -> bool:
    """Whether a scheduler of diffusers samples a rectified flow."""
    return scheduler.startswith("FlowMatch")


def _settings(part: Path) -> dict[str, Any]:
    return _table(part / "config.json")


def _table(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
