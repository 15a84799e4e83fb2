"""How many verdicts change when a model draws with `numerics: fast` instead of `reference`: `make bench`.

Images of the emoji model, each drawn both ways from the same noise: distinct prompts of a style, an object and a background, the model's
own sampler, and the object judge_a sees. One thread. The bar: at least 99.5 % of the verdicts are equal, and the paired difference of the
rates covers 0.

Processors without bfloat16 instructions compute its products in plain loops, twenty times slower. There the products of `fast` are
computed as tensor cores do: factors rounded to bfloat16, sums in float32, results rounded to bfloat16; all else is the code that runs on a
GPU. How far that is from the plain loops is measured on the first images.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vestige.bench import judges
from vestige.bench.contract.building import typed
from vestige.bench.contract.types import ModelSpec, Sampler, derived_seed
from vestige.bench.models import loading
from vestige.bench.models.pipe import Pipe
from vestige.bench.places import results
from vestige.bench.prompts.articles import with_article
from vestige.bench.run import notebook
from vestige.bench.run.provenance import provenance
from vestige.bench.statistics.intervals import paired_difference
from vestige.bench.world.content import catalog

BATCH = 32
CHECKED = 8  # images that are also drawn by the plain loops
BAR = 0.995
PRODUCTS = (F.conv2d, F.linear, F.scaled_dot_product_attention)


class TensorCores(TorchFunctionMode):
    """Where autocast is on, products of factors in bfloat16 with sums in float32."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)

        def rounded(value: Any) -> Any:
            return value.bfloat16().float() if isinstance(value, Tensor) and value.is_floating_point() else value

        with torch.autocast("cpu", enabled=False):
            return func(*map(rounded, args), **{name: rounded(value) for name, value in kwargs.items()}).bfloat16()


def emoji(numerics: str) -> tuple[Pipe, Sampler]:
    tree = notebook.compose(["model=emoji"])
    spec = typed(tree.model, ModelSpec, "model", drop=notebook.NOT_THE_MODEL)
    return loading.load(dataclasses.replace(spec, numerics=numerics)), typed(tree.model.sampler, Sampler, "model.sampler")


def asked(n: int) -> tuple[list[str], list[str]]:
    """Distinct prompts, and the object of each."""
    every = list(itertools.product(catalog.styles(), catalog.objects(), catalog.backgrounds()))
    order = np.random.default_rng(0).permutation(len(every))[:n]
    if len(order) < n:
        raise ValueError(f"--images={n}: there are {len(every)} triples of a style, an object and a background.")
    chosen = [every[k] for k in order]
    prompts = [f"{with_article(f'{style.name} {thing.name}')} on a {ground} background" for style, thing, ground in chosen]
    return prompts, [thing.slug for _, thing, _ in chosen]


def drawn(pipe: Pipe, sampler: Sampler, prompts: list[str]) -> Iterator[Tensor]:
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        yield pipe(some, [derived_seed("numerics", prompt) for prompt in some], sampler).pixels
        print(f"{pipe.spec.numerics}: {start + len(some)} of {len(prompts)}", flush=True)


def main(images: int, out: Path) -> None:
    torch.set_num_threads(1)
    prompts, things = asked(images)
    judge = judges.load("emoji_a")
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    shown: dict[str, Tensor] = {}
    took: dict[str, float] = {}
    for numerics in ("reference", "fast"):
        pipe, sampler = emoji(numerics)
        begun = time.process_time()
        with contextlib.nullcontext() if native or numerics == "reference" else TensorCores():
            shown[numerics] = torch.cat(list(drawn(pipe, sampler, prompts)))
        took[numerics] = time.process_time() - begun
    loops = torch.cat(list(drawn(pipe, sampler, prompts[:CHECKED])))
    few = {name: pixels[:CHECKED].float() for name, pixels in shown.items()}
    apart = {
        "fast from reference": (few["fast"] - few["reference"]).abs().mean().item(),
        "fast by plain loops from reference": (loops.float() - few["reference"]).abs().mean().item(),
        "fast from fast by plain loops": (few["fast"] - loops.float()).abs().mean().item(),
    }
    seen, first = {}, {}
    for name, pixels in shown.items():
        parts = [(part, things[k * BATCH : (k + 1) * BATCH]) for k, part in enumerate(pixels.split(BATCH))]
        seen[name] = torch.cat([judge.present(part, some) for part, some in parts]).numpy()
        first[name] = torch.cat([judge.shares(part)["object"].argmax(-1) for part, _ in parts])
    equal = float((seen["fast"] == seen["reference"]).mean())
    same = float((first["fast"] == first["reference"]).double().mean())
    mean, low, high = paired_difference(seen["fast"], seen["reference"], np.array(prompts))
    met = equal >= BAR and low <= 0 <= high
    facts = provenance()
    lines = ["# `numerics: fast` against `reference`", ""]
    lines += [" ".join(part.split()) for part in __doc__.split("\n\n")[1:2]] + [""]
    lines += ["| what | measured |", "|---|---|"]
    lines += [f"| images of each | {images} ({sampler.scheduler}, {sampler.steps} steps) |"]
    lines += [f"| verdicts equal | {equal:.2%} ({round(equal * images)} of {images}) |"]
    lines += [f"| first answers equal | {same:.2%} |"]
    lines += [f"| object seen, reference | {seen['reference'].mean():.2%} |"]
    lines += [f"| object seen, fast less reference | {100 * mean:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f}) |"]
    lines += [f"| pixels apart, {name}, mean of 255 levels | {value:.2f} |" for name, value in apart.items()]
    if native:
        lines += [f"| processor seconds an image, {name} | {seconds / images:.2f} |" for name, seconds in took.items()]
    lines += ["", f"The bar is {'met' if met else 'NOT met'}.", ""]
    if not native:
        lines += [" ".join(__doc__.split("\n\n")[2].split()), ""]
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("torch", "diffusers", "transformers"))
    lines += [f"`python -m benchmarks.numerics --images {images}`, {packages}, {facts['machine']}, one thread, no GPU."]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=results() / "bench" / "numerics.md")
    main(**vars(parser.parse_args()))
