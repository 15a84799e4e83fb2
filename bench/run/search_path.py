"""Where Hydra looks for settings beside the shipped ones: `conf` of the current folder."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vestige.bench.places import config_folders


class CurrentFolder(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders()[1:]:
            search_path.append("vestige", f"file://{folder}")


def search_current_folder() -> None:
    """From now on, in whatever this process composes."""
    Plugins.instance().register(CurrentFolder)
