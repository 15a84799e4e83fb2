"""The tree of settings that Hydra composes of words, as typed after `vestige run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.places import CONF, config_folders
from vestige.bench.run import choices, resolvers
from vestige.bench.run.user_folders import check_folders

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(words: list[str], extra: Path | None = None) -> DictConfig:
    """Loads nothing. extra: one more folder of settings, as --config-dir. Raises ValueError and what Hydra raises."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from vestige.bench.run.search_path import search_current_folder

    folders = config_folders(extra)
    choices.check_names(words, folders)
    check_folders(folders)
    resolvers.register_resolvers()
    search_current_folder()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", [*_search(extra), *words])


def _search(extra: Path | None) -> list[str]:
    if extra is None:
        return []
    place = f"file://{extra.absolute()}".replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['{place}']"]
