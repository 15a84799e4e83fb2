"""Where the scores of records are."""

from pathlib import Path

from vestige.bench import places


def places_of_scores(records: Path, stores: list[Path] | None) -> list[Path]:
    """Where the scores of these records may lie, the first that holds one wins: the given stores, or the project's own and those that
    this machine's runs read from; then what was packed with the records."""
    from vestige.bench.reports.packed import NAME

    packed = [records / NAME] if (records / NAME).exists() else []
    return [*(stores or [places.results() / "store", *read_from()]), *packed]


def read_from() -> list[Path]:
    """runtime.read_from of conf/local/default.yaml: further stores that every run on this machine reads."""
    import yaml

    files = (folder / "local" / "default.yaml" for folder in places.config_folders())
    chosen = next((yaml.safe_load(file.read_text()) for file in files if file.exists()), None) or {}
    return [Path(place).expanduser() for place in (chosen.get("runtime") or {}).get("read_from") or []]
