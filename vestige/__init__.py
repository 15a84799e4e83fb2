"""Vestige: what is left of a concept after it was erased from a text-to-image model.

The command `vestige` runs whole benchmarks; these functions are for a notebook. They read the same YAML files, and keep what they
compute in the same store: `results` in the current folder, or VESTIGE_RESULTS. A mistake raises ValueError with a sentence.

>>> import vestige
>>> pipe = vestige.load("tiny")
>>> erased = vestige.erase(pipe, "dog", method="uce")
>>> with erased.attached(pipe) as model:
...     images = vestige.draw(model, ["a photo of a dog", "a photo of a cat"])
>>> list(images.shape)
[2, 3, 16, 16]
>>> sorted(vestige.score(images, "dog", metric="presence").totals)
['present', 'probability']
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# In a checkout the folders of the package are links to those at the top of the repository. Where links cannot be had, look there.
if not (Path(__file__).parent / "bench").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from vestige.bench.contract.types import Scores
    from vestige.bench.models.pipe import Pipe
    from vestige.bench.run.notebook import Erased

__all__ = ["draw", "erase", "load", "results", "run", "score"]


def load(model: str = "emoji", settings: Sequence[str] = (), device: str = "cpu") -> Pipe:
    """A model of conf/model, frozen. settings: as on the command line, such as ["model.repo=/my/folder"] with model="local".

    >>> vestige.load("tiny").spec.family
    'sd1'
    >>> vestige.load("emojy")
    Traceback (most recent call last):
    ValueError: 'model=emojy': there is no model 'emojy'. Did you mean emoji? ...
    """
    from vestige.bench.run import notebook

    return notebook.load(model, settings, device)


def draw(pipe: Pipe, prompts: Sequence[str], seeds: Sequence[int] | None = None, settings: Sequence[str] = ()) -> torch.Tensor:
    """One image per prompt, uint8 [n, 3, height, width], with the model's own sampler. seeds: one per prompt, or 0, 1, 2, ...

    >>> pipe = vestige.load("tiny")
    >>> vestige.draw(pipe, ["a dog"], seeds=[7], settings=["model.sampler.height=32"]).shape
    torch.Size([1, 3, 32, 16])
    """
    from vestige.bench.run import notebook

    return notebook.draw(pipe, prompts, seeds, settings)


def erase(pipe: Pipe, concept: str | Sequence[str], method: str = "uce", settings: Sequence[str] = ()) -> Erased:
    """Erase a concept (or several together) of conf/concept by a method of conf/method; taken from the store when it is there.

    pipe: as `load` gave it; it is left unchanged. settings: as on the command line, such as ["seed=1", "method.erase_scale=0.5"].
    Raises ValueError where the method does not support the model or the concepts.

    >>> pipe = vestige.load("tiny")
    >>> erased = vestige.erase(pipe, ["dog", "rocket"], method="uce")
    >>> with erased.attached(pipe) as model:
    ...     model is pipe
    True
    """
    from vestige.bench.run import notebook

    return notebook.erase(pipe, concept, method, settings)


def score(
    images: torch.Tensor | str | Path,
    concept: str,
    metric: str = "presence",
    model: str = "emoji",
    prompts: Sequence[str] | None = None,
    originals: torch.Tensor | str | Path | None = None,
    settings: Sequence[str] = (),
) -> Scores:
    """Images of your own by a metric of conf/metric: `.totals` (name -> number) and `.per_image` (a table, or None).

    images: uint8 [n, 3, height, width], or a folder of PNG or JPEG files in the order of their names. model: which model's judges
    and words the metric uses. prompts: one per image, for metrics that read them. originals: the untouched model's images of the same
    prompts, for metrics that compare. Intervals need the prompts' groups, which only `run` knows: none are given here.

    >>> pipe = vestige.load("tiny")
    >>> found = vestige.score(vestige.draw(pipe, ["a dog"] * 3), "dog")
    >>> len(found.per_image)
    3
    """
    from vestige.bench.run import notebook

    return notebook.score(images, concept, metric, model, prompts, originals, settings)


def run(words: Sequence[str]) -> list[dict]:
    """`vestige run` with these words: the record of every job, in the order of the grid. A job that failed has the status "failed".

    Raises ValueError when a job is refused (bad input).

    >>> words = ["model=tiny", "method=original,uce", "concept=dog", "until=erase", "-m"]
    >>> [record["status"] for record in vestige.run(words)]
    ['done', 'done']
    """
    from vestige.bench.run import sweep

    ended = sweep.launch("run", list(words), aloud=False)
    refused = next((outcome for outcome in ended if outcome.status == "refused"), None)
    if refused:
        raise ValueError(refused.warned)
    return [outcome.facts for outcome in ended]


def results(folder: str | Path | None = None) -> pd.DataFrame:
    """The records below a results folder (default: where `run` writes), one row per measured cell, with intervals, paired differences
    to the original model and the worst case over attacks. `vestige table` is made of this.

    >>> vestige.results("no/such/folder")
    Traceback (most recent call last):
    ValueError: there are no records in no/such/folder/records. ...
    """
    from vestige.bench import places
    from vestige.bench.reports import results as tables
    from vestige.bench.reports import stores
    from vestige.bench.reports.score_table import ScoreTable

    folder = places.results() if folder is None else Path(folder)
    if not list((folder / "records").glob("*.json")):
        raise ValueError(f"there are no records in {folder / 'records'}. `vestige run` writes them; results go to {places.results()}.")
    return tables.load(folder / "records", ScoreTable(*stores.places_of_scores(folder / "records", [folder / "store"])))
