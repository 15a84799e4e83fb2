"""Where things lie: what is shipped, what the user has, and where results go."""

import os
from pathlib import Path

# The folder that holds bench/, conf/, prompts/ ...: `vestige` in site-packages, in a checkout its links to the top of the repository.
PACKAGE = Path(__file__).parent.parent
CONF = PACKAGE / "conf"
CHECKOUT = next(
    (folder for folder in (PACKAGE.parent, PACKAGE) if (folder / "pyproject.toml").exists() and (folder / "bench").is_dir()), None
)

_OWN: list[Path] = []  # the user's configuration folders


def config_folders() -> list[Path]:
    """Where configuration files are looked for: what is shipped, then the user's own folders."""
    return [CONF, *_OWN]


def use_config_folders(folders: list[Path]) -> None:
    """The user's own configuration folders from now on, in this process: those of --config-dir and hydra.searchpath."""
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


def found(place: str | Path) -> Path:
    """A file or folder that settings name: as given, from the current folder; where nothing is there, what is shipped under that name."""
    path = Path(place).expanduser()
    return PACKAGE / path if not path.exists() and (PACKAGE / path).exists() else path


def module_file(module: str) -> Path:
    """Where the source of a module of this project lies: `vestige.methods.uce` in methods/uce.py."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
