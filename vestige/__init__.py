"""Vestige: what is left of a concept after it was erased from a text-to-image model."""

from pathlib import Path

# In a checkout the folders of the package are links to those at the top of the repository. Where links cannot be had, look there.
if not (Path(__file__).parent / "bench").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
