"""Where judges keep their weights: a folder, or a model of the Hugging Face hub (its cache, or the network)."""

from __future__ import annotations

from pathlib import Path


def place(judge_id: str) -> str:
    """What stands behind the colon, `~` expanded."""
    where = judge_id.partition(":")[2]
    return str(Path(where).expanduser()) if where.startswith("~") else where


def check_transformers(judge_id: str, get: str) -> None:
    """Raise a ValueError when no transformers model lies there. `get`: how a user comes by it. Fetches a config.json at most."""
    where = place(judge_id)
    if not where:
        raise ValueError(f"judge={judge_id!r} needs a folder or hub id after a colon. {get}")
    if Path(where).is_dir():
        if not (Path(where) / "config.json").is_file():
            raise ValueError(f"judge={judge_id}: {where} has no config.json, so it is no transformers model. {get}")
        return
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(where, "config.json")
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(f"judge={judge_id}: {where} is no folder and neither in the local hub cache nor reachable. {get}") from error
