"""Where things lie: what is shipped, what the user has, and where results go."""

import os
import sys
from pathlib import Path

# The folder that holds bench/, conf/, prompts/ ...: `vestige` in site-packages, in a checkout its links to the top of the repository.
PACKAGE = Path(__file__).parent.parent
CONF = PACKAGE / "conf"
CHECKOUT = next(
    (folder for folder in (PACKAGE.parent, PACKAGE) if (folder / "pyproject.toml").exists() and (folder / "bench").is_dir()), None
)

_OWN: list[Path] = []  # folders of settings that the command of this process named


def use_config_folders(folders: list[Path]) -> None:
    """Folders of settings from now on, in this process, as if named by each command: those of --config-dir and hydra.searchpath."""
    _OWN[:] = dict.fromkeys(folder for folder in map(Path.absolute, folders) if folder != CONF)


def check_install() -> None:
    """Raises ValueError where the package came without the files that it reads."""
    lacks = [name for name in ("conf/run.yaml", "prompts/templates") if not (PACKAGE / name).exists()]
    if lacks:
        raise ValueError(
            f"this install of vestige lacks its data files: no {' and no '.join(lacks)} in {PACKAGE}. Install it again from its wheel, or "
            "in a checkout with `pip install -e .`."
        )


def results() -> Path:
    """Where results go unless a command says otherwise: VESTIGE_RESULTS, else `results` in the current folder."""
    return Path(os.environ.get("VESTIGE_RESULTS") or "results")


def cache() -> Path:
    """Where things go that can be computed again: VESTIGE_CACHE, else `vestige` among the user's caches. RuntimeError without a home."""
    own, common = os.environ.get("VESTIGE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(common) if common else Path("~/.cache").expanduser()) / "vestige"


def found(place: str | Path) -> Path:
    """A file or folder that settings name: as given, from the current folder; where nothing is there, what is shipped under that name."""
    path = Path(place).expanduser()
    return PACKAGE / path if not path.exists() and (PACKAGE / path).exists() else path


def module_file(module: str) -> Path:
    """Where the source of a module of this project lies: `vestige.methods.uce` in methods/uce.py."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def config_folders(*more: Path | None) -> list[Path]:
    """Folders of settings, each once: the shipped one, `conf` of the current folder, and those that a command names."""
    folders = [CONF]
    for folder in (Path("conf"), *_OWN, *filter(None, more)):
        if folder.is_dir() and not any(folder.samefile(known) for known in folders):
            folders.append(folder.absolute())
    return folders


def import_from_here() -> None:
    """A module beside the user's `conf` can be a plugin. Last on the path, so that it hides nothing that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
