"""Stages that depend on no concept (`ctx.shared`): a key of the model, a name and a spec, so that all jobs on a model read one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench.contract.plugin import Context
from vestige.bench.contract.shared import Shared
from vestige.bench.contract.types import canonical_hash, plain
from vestige.bench.run import code
from vestige.bench.run.seeds import model_as_published
from vestige.bench.run.stage_code import SHARED
from vestige.bench.run.store_folder import Stage

if TYPE_CHECKING:
    from vestige.bench.run.stages import Stages


def find(stages: Stages, work: Shared) -> Stage | None:
    return stages.store.find("shared", _spec(stages, work), _words(stages, work), _code(stages, work))


def find_or_make(stages: Stages, work: Shared, ctx: Context) -> Stage:
    """ctx: of the stage that asks."""
    spec, models = _spec(stages, work), stages.models

    def make(folder: Path) -> dict:
        meter = stages.meter(folder, models.untouched)
        with models.untouched.preserved() as pipe:
            own = ctx.for_shared(canonical_hash({**spec, "model": model_as_published(spec["model"])}), meter)
            work.make(pipe, folder, own)
        if own.history:
            (folder / "log.json").write_text(json.dumps(own.history))
        return {"forward_rows": meter.spent()["forward_rows"]}

    return stages.stage("shared", spec, _words(stages, work), make, _code(stages, work))


def _spec(stages: Stages, work: Shared) -> dict:
    return {"stage": "shared", "model": stages.model_spec, "name": work.name, "spec": plain(work.spec)}


def _words(stages: Stages, work: Shared) -> str:
    return f"{work.name}-{stages.job.model.name}"


def _code(stages: Stages, work: Shared) -> str:
    return code.of(stages.model_code, SHARED, [work.root])
