"""What `import vestige` offers, over the same stages as the command line. See vestige/__init__.py for how each is called."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vestige.bench.contract.building import plain_tree, plugin, typed
from vestige.bench.contract.plugin import Method, Metric, MetricContext
from vestige.bench.contract.types import Concept, Erasure, ImageSet, ModelSpec, Sampler, Scores
from vestige.bench.models.capabilities import unsupported
from vestige.bench.models.device import check, missing, on
from vestige.bench.run import checks, composing, loaded_model, tree
from vestige.bench.run.concept_sets import chosen_concepts

if TYPE_CHECKING:
    import torch

    from vestige.bench.models.pipe import Pipe

NOT_THE_MODEL = ("sampler", "judge", "attack_judge", "clip")  # what else a model's file says


@dataclass(frozen=True)
class Erased:
    """A method and what it made. `with erased.attached(pipe) as model:` is the only way to use it; afterwards the pipe is as before."""

    method: Method
    erasure: Erasure

    def attached(self, pipe: Pipe) -> AbstractContextManager[Pipe]:
        return self.method.attach(pipe, self.erasure)


def compose(words: Sequence[str]) -> DictConfig:
    """The tree of a command line. Raises ValueError for what cannot be composed."""
    from hydra.errors import HydraException

    try:
        return tree.composed(list(words))
    except HydraException as mistake:
        raise ValueError(" ".join(str(mistake).split())) from mistake


def load(model: str, settings: Sequence[str], device: str) -> Pipe:
    from vestige.bench.models import loading

    chosen = compose([f"model={model}", *settings])
    spec = typed(chosen.model, ModelSpec, "model", drop=NOT_THE_MODEL)
    loading.check(spec)
    check(device)
    lacks = missing(device) or loading.missing(spec)
    if lacks:
        raise ValueError(lacks)
    return loaded_model.take(spec, device)


def draw(pipe: Pipe, prompts: Sequence[str], seeds: Sequence[int] | None, settings: Sequence[str]) -> torch.Tensor:
    sampler = typed(compose([*_words_of(pipe.spec), *settings]).model.sampler, Sampler, "model.sampler")
    checks.check_sampler(sampler, pipe.spec.family)
    each = range(len(prompts)) if seeds is None else [checks.whole_number("seeds", seed) for seed in seeds]
    return pipe(list(prompts), list(each), sampler).pixels


def erase(pipe: Pipe, concept: str | Sequence[str], method: str, settings: Sequence[str]) -> Erased:
    from vestige.bench.run.stages import Stages

    words = [
        *_words_of(pipe.spec),
        f"method={method}",
        f"concept=[{','.join(_listed(concept))}]",
        "split=[]",
        "attack=[none]",
        "until=erase",
    ]
    job = composing.build_job(compose([*words, f"runtime.device={pipe.device}", *settings]))
    reason = unsupported(job.method, job.model, job.given)
    if reason:
        raise ValueError(reason)
    stages = Stages(job)
    stages.models.pipe = pipe
    return Erased(job.method, Erasure.load(stages.erase()[-1].path))


def score(
    images: torch.Tensor | str | Path,
    concept: str,
    metric: str,
    model: str,
    prompts: Sequence[str] | None,
    originals: torch.Tensor | str | Path | None,
    settings: Sequence[str],
) -> Scores:
    from vestige.bench.vision import features

    words = [f"model={model}", "method=original", f"concept=[{concept}]", "split=[]", f"+metric@picked={metric}", *settings]
    chosen = compose(words)
    spec = typed(chosen.model, ModelSpec, "model", drop=NOT_THE_MODEL)
    concepts = chosen_concepts(plain_tree(chosen.concept), held_out=True)
    scorer = plugin(chosen.picked[metric], Metric, f"metric.{metric}")
    where = chosen.runtime.device
    check(where)
    reason = missing(where) or unsupported(scorer, spec, concepts)
    if reason:
        raise ValueError(reason)
    with tempfile.TemporaryDirectory() as folder:
        asked = _image_set(images, concepts[0], prompts, Path(folder) / "images")
        known = None if originals is None else _image_set(originals, concepts[0], prompts, Path(folder) / "originals")
        with on(where):
            return scorer.score(asked, MetricContext(concepts, lambda: known or _no_originals(metric), features.extract))


def _no_originals(metric: str) -> ImageSet:
    raise ValueError(f"metric {metric!r} compares with the original model's images of the same prompts: give them as originals=....")


def _image_set(images: torch.Tensor | str | Path, concept: Concept, prompts: Sequence[str] | None, scratch: Path) -> ImageSet:
    """Images without an index: each stands for the first concept, and is a group of its own."""
    import pandas as pd

    from vestige.bench.run import generate

    if not isinstance(images, str | Path):
        folder = _written(images, scratch)
    elif not (folder := Path(images).expanduser()).is_dir():
        raise ValueError(
            f"images={str(images)!r} is no folder. Give a folder of PNG or JPEG files, or a uint8 tensor [n, 3, height, width]."
        )
    elif (folder / generate.INDEX).exists():
        return generate.load(folder)
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"{folder} holds no PNG or JPEG file: there is nothing to score.")
    if prompts is not None and len(prompts) != len(files):
        raise ValueError(f"{len(prompts)} prompts but {len(files)} images: one prompt per image is needed, in the order of the file names.")
    head = {"rep": 0, "status": "ok", "role": "target", "expect": concept.slug, "names": 1}
    table = pd.DataFrame({"row_id": [Path(name).stem for name in files], "file": files, **head})
    return ImageSet(folder, table.assign(prompt=list(prompts or [concept.name] * len(files)), group=table["row_id"]))


def _written(images: torch.Tensor, folder: Path) -> Path:
    from PIL import Image

    if images.ndim != 4 or images.shape[1] != 3 or str(images.dtype) != "torch.uint8":
        raise ValueError(f"images must be uint8 [n, 3, height, width], got {images.dtype} {list(images.shape)}.")
    folder.mkdir()
    for number, pixels in enumerate(images.cpu()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:06d}.png")
    return folder


def _listed(concept: str | Sequence[str]) -> list[str]:
    return [concept] if isinstance(concept, str) else list(concept)


def _words_of(spec: ModelSpec) -> list[str]:
    """The command line that gives this model: also one that was loaded with other settings than its file's."""
    settings = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name != "name"}
    return [f"model={spec.name}", *(f"model.{key}={'null' if value is None else repr(value)}" for key, value in settings.items())]
