"""Families of models: what one architecture loads, how its generator is called, which weights have which role.

base             the interface, and what all models with a denoiser share
sd1, sd2, sdxl   Stable Diffusion 1.x, 2.x and XL; `_unet` is what the three share

A family is one file: a subclass of Family, and FAMILY, an instance of it. `model.family` is the name of the file.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from vestige.bench.models.families.base import Family


@cache
def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in iter_modules(__path__) if m.name != "base" and not m.name.startswith("_")))


@cache
def family(name: str) -> Family:
    """The family of this name. Raises ValueError."""
    if name not in names():
        raise ValueError(f"model.family={name!r} is not known. Allowed: {', '.join(names())}.")
    return import_module(f"{__name__}.{name}").FAMILY
