"""Contract tests of plugins on the random tiny model: the same functions serve `vestige check` and the test suite.

Every check raises AssertionError with a sentence about YOUR plugin. See bench/contract/plugin.py for the contract itself.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vestige.bench.contract import building
from vestige.bench.contract.plugin import Attack, Context, Method, Metric, MetricContext, Victim
from vestige.bench.contract.shared import made_in
from vestige.bench.contract.types import Adversary, Concept, Erasure, ModelSpec, PromptSet, Sampler
from vestige.bench.judges.promises import judge_checks
from vestige.bench.models import loading
from vestige.bench.places import use_config_folders
from vestige.bench.run import generate, tree
from vestige.bench.statistics.score_intervals import is_rate

TINY = ModelSpec("tiny", "sd1", "random:tiny", None, "float32", "reference", "photo", "photo")
SAMPLER = Sampler("DDIMScheduler", {}, 2, 3.0, 16, 16)
DOG = Concept("dog", "dog", "object", "animal", ["puppy"], "animal", ["cat", "frog"], ["car", "apple"], ["a loyal pet"])
CAT = Concept("cat", "cat", "object", "animal", ["kitten"], "animal", ["dog", "frog"], ["car", "apple"], ["a pet that purrs"])


class NotApplicable(Exception):
    """The plugin says that it does not support the tiny model; the sentence is its reason."""


def prompts_about(concept: Concept, n: int = 3) -> PromptSet:
    rows = [
        {
            "row_id": f"{k:03d}",
            "prompt": f"a photo of a {concept.name}",
            "role": "target",
            "expect": concept.slug,
            "names": 1,
            "group": str(k),
        }
        for k in range(n)
    ]
    return PromptSet("contract", pd.DataFrame(rows))


def quick(thing):
    """The plugin with the small numbers it declares for its contract test (class attribute `quick`)."""
    return dataclasses.replace(thing, **getattr(type(thing), "quick", {}))


def context(folder: Path, *words: str, owner: Method | Attack | None = None) -> Context:
    """A context without a store; `owner` is the plugin whose shared work is checked against what it declares."""

    def images(prompts: PromptSet, sampler: Sampler):
        return generate.draw(loading.load(TINY), prompts, sampler, folder / f"images-{prompts.digest}", 16)

    return Context(words or ("contract",), SAMPLER, lambda: loading.load(TINY), images, find_or_make=made_in(folder, owner))


def erased_by(method: Method, concepts: list[Concept], folder: Path, pipe=None, seed: str = "a") -> Erasure:
    pipe = pipe or loading.load(TINY)
    with pipe.preserved():
        return method.erase(pipe, concepts, context(folder, seed, owner=method))


def method_checks(method: Method, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """(what is promised, a function that raises when it is broken), in order; they share one erasure."""
    unsupported_reason = method.supports(TINY, [DOG])
    if unsupported_reason:
        raise NotApplicable(unsupported_reason)
    method = quick(method)
    pipe, clean, asked = loading.load(TINY), loading.load(TINY), prompts_about(DOG)
    before = pipe.fingerprint()
    erasure = erased_by(method, [DOG], folder, pipe)

    def draw_as_it_is(on) -> torch.Tensor:
        return on(asked.prompts, [asked.seed(r, 0) for r in asked.table["row_id"]], SAMPLER).pixels

    def draw(on, artefact: Erasure) -> torch.Tensor:
        with method.attach(on, artefact) as attached:
            return draw_as_it_is(attached)

    def restores_after_erase() -> None:
        assert pipe.fingerprint() == before, "after erase the harness could not restore the pipe: a hook or module was left behind."

    def survives_disk() -> None:
        erasure.save(folder / "artefact")
        loaded = Erasure.load(folder / "artefact")
        assert torch.equal(draw(clean, erasure), draw(clean, loaded)), "an artefact saved and loaded draws other images."

    def leaves_no_trace() -> None:
        draw(clean, erasure)
        assert clean.fingerprint() == before, "leaving `attach` did not restore every tensor, hook and rule."

    def restores_after_an_error() -> None:
        try:
            with method.attach(clean, erasure):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert clean.fingerprint() == before, "an exception inside `attach` left the model changed."

    def is_reproducible() -> None:
        again = erased_by(method, [DOG], folder)
        assert again.tensors.keys() == erasure.tensors.keys(), "two runs with one seed return other tensors."
        for name, tensor in erasure.tensors.items():
            assert torch.equal(tensor, again.tensors[name]), f"two runs with one seed differ in {name}."

    def changes_images() -> None:
        same = torch.equal(draw(clean, erasure), draw_as_it_is(clean))
        if method.intervention == "none":
            assert same, "intervention is none, but the images changed."
        elif method.intervention != "filter":
            assert not same, "the erased model draws exactly the original's images: nothing was erased."

    def takes_several_or_says_no() -> None:
        if method.supports(TINY, [DOG, CAT]) is None:
            draw(clean, erased_by(method, [DOG, CAT], folder))

    def erases_on_top_of_itself_or_says_no() -> None:
        refused = method.supports_steps() or method.supports(TINY, [CAT])
        if refused:
            assert len(refused) > 20, "supports_steps and supports must answer None or a sentence."
            return
        with method.attach(clean, erasure) as parent:
            once, left = draw_as_it_is(parent), parent.fingerprint()
            second = erased_by(method, [CAT], folder, parent, seed="b")
            assert parent.fingerprint() == left, "after erasing inside an attached step the model was not as that step left it."
            with method.attach(parent, second) as both:
                twice = draw_as_it_is(both)
            assert parent.fingerprint() == left, "leaving `attach` of the second step took something of the first with it."
        assert clean.fingerprint() == before, "leaving both steps did not restore every tensor, hook and rule."
        if method.intervention in ("weights", "adapter"):
            assert not torch.equal(twice, once), "the second step changed no image."
            if any(key.startswith(f"{clean.denoiser_name}.") for key in second.tensors):  # full new values, which take the first's place
                fresh = erased_by(method, [CAT], folder, seed="b").tensors
                kept = any(not torch.equal(tensor, fresh[key]) for key, tensor in second.tensors.items())
            else:
                kept = not torch.equal(twice, draw(clean, second))
            assert kept, "with the second step attached, the first is lost."

    yield "erase leaves the pipe restorable", restores_after_erase
    yield "the artefact survives saving and loading", survives_disk
    yield "leaving attach restores everything", leaves_no_trace
    yield "an exception inside attach restores everything", restores_after_an_error
    yield "one seed gives one artefact", is_reproducible
    yield "the erased model draws other images, the original the same", changes_images
    yield "several concepts work or are refused with a reason", takes_several_or_says_no
    yield "it erases on top of itself, or says why not", erases_on_top_of_itself_or_says_no


def attack_checks(attack: Attack, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    method = building.plugin({"_target_": "vestige.methods.original.Original"}, Method, "method")
    unsupported_reason = attack.supports(TINY, [DOG], method)
    if unsupported_reason:
        raise NotApplicable(unsupported_reason)
    attack, asked = quick(attack), prompts_about(DOG)

    def run() -> tuple[Adversary, dict]:
        pipe = loading.load(TINY)
        victim = Victim(pipe, [DOG], method, SAMPLER, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
        with pipe.preserved():
            return attack.attack(victim, asked, context(folder, "attack", owner=attack)), dict(pipe.counts)

    adversary, counts = run()

    def keeps_rows() -> None:
        assert list(adversary.prompts.table["row_id"]) == list(asked.table["row_id"]), "the attack lost or reordered row ids."
        assert list(adversary.prompts.table["expect"]) == list(asked.table["expect"]), "the attack changed what is judged."

    def is_counted() -> None:
        if attack.queries_denoiser and attack.access not in ("none", "text", "latents"):
            assert counts["forward_rows"] > 0, "the attack used no denoiser call that the harness could count."

    def is_reproducible() -> None:
        again, _ = run()
        assert again.prompts.prompts == adversary.prompts.prompts, "two attacks with one seed return other prompts."
        for name, tensor in adversary.tensors.items():
            assert torch.equal(tensor, again.tensors[name]), f"two attacks with one seed differ in {name}."

    def leaves_no_trace() -> None:
        adversary.save(folder / "adversary")
        loaded, pipe = Adversary.load(folder / "adversary"), loading.load(TINY)
        before = pipe.fingerprint()
        with attack.attach(pipe, loaded) as attached:
            attached(loaded.prompts.prompts, [loaded.prompts.seed(r, 0) for r in loaded.prompts.table["row_id"]], SAMPLER)
        assert pipe.fingerprint() == before, "leaving `attach` did not restore the pipe."

    def does_something() -> None:
        changed = adversary.prompts.digest != asked.digest or bool(adversary.tensors)
        assert changed == (attack.access != "none"), "an attack must change prompts or carry tensors; the control must not."

    yield "row ids and expectations are kept", keeps_rows
    yield "its cost is visible to the harness", is_counted
    yield "one seed gives one attack", is_reproducible
    yield "leaving attach restores everything, also from disk", leaves_no_trace
    yield "it changes something, the control nothing", does_something


def metric_checks(metric: Metric, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    unsupported_reason = metric.supports(dataclasses.replace(TINY, domain="emoji"), [DOG])
    if unsupported_reason:
        raise NotApplicable(unsupported_reason)
    from vestige.bench.vision import features

    sampler = dataclasses.replace(SAMPLER, height=64, width=64)
    images = generate.draw(loading.load(TINY), prompts_about(DOG, 8), sampler, folder / "images", 8)
    original = loading.load(TINY)

    def drawn(asked: PromptSet):
        return generate.draw(original, asked, sampler, folder / asked.digest, 16)

    def erased() -> AbstractContextManager:
        changed = {name: 1.1 * p.detach() for name, p in original.named_parameters() if "attn2.to_v" in name}
        return loading.load(TINY).replaced(changed)

    metric = quick(metric)
    context = MetricContext([DOG], lambda: images, features.extract, lambda: original, erased, drawn)
    scores = metric.score(images, context)

    def has_finite_totals() -> None:
        assert scores.totals, "score returned no totals."
        bad = [name for name, value in scores.totals.items() if not isinstance(value, float) or value != value]
        assert not bad, f"totals must be finite floats; {bad} are not."

    def has_a_row_per_image() -> None:
        if scores.per_image is not None:
            wanted = set(map(tuple, images.index[["row_id", "rep"]].to_numpy().tolist()))
            got = list(map(tuple, scores.per_image[["row_id", "rep"]].to_numpy().tolist()))
            assert len(got) == len(set(got)) and set(got) == wanted, "per_image must have one row per (row_id, rep)."

    def rates_say_yes_or_no() -> None:
        if scores.per_image is not None:
            for column in filter(lambda name: is_rate(name, metric), scores.per_image):
                other = set(scores.per_image[column].dropna().astype(float)) - {0.0, 1.0}
                assert not other, f"{column} is declared a rate, and holds {sorted(other)[:3]} beside 0 and 1."

    def ignores_order() -> None:
        shuffled = dataclasses.replace(images, index=images.index.iloc[::-1].reset_index(drop=True))
        for name, value in metric.score(shuffled, context).totals.items():
            assert abs(value - scores.totals[name]) <= 1e-4 * max(1.0, abs(value)), f"{name} depends on the order of images."

    def refuses_nothing() -> None:
        empty = dataclasses.replace(images, index=images.index.iloc[:0])
        try:
            metric.score(empty, context)
        except ValueError as error:
            assert len(str(error)) > 20, "the error for an empty set must be a sentence."
        else:
            raise AssertionError("an empty set must raise a ValueError.")

    yield "totals are finite", has_finite_totals
    yield "one row per image", has_a_row_per_image
    yield "rates say yes or no", rates_say_yes_or_no
    yield "the order of images does not matter", ignores_order
    yield "an empty set is refused with a sentence", refuses_nothing


KINDS: dict[str, tuple[type, Callable[[Any, Path], Iterator[tuple[str, Callable[[], None]]]]]] = {
    "method": (Method, method_checks),
    "attack": (Attack, attack_checks),
    "metric": (Metric, metric_checks),
}


def build(group: str, name: str, config_dir: Path | None = None, concept: str = "dog", model: str = "tiny"):
    """Compose and build one plugin by name, with the numbers for this model; settings by kind are those for the concept's."""
    choice = {"method": [f"method={name}"], "attack": [f"attack=[{name}]"], "metric": [f"+metric@picked={name}"]}[group]
    quiet = [] if group == "method" else ["method=original"]
    settings = tree.composed([*quiet, f"model={model}", f"concept=[{concept}]", "split=[]", *choice], config_dir)
    node = settings.method if group == "method" else settings["picked" if group == "metric" else "attack"][name]
    return building.plugin(node, KINDS[group][0], f"{group}.{name}")


def checks_of(group: str, name: str, config_dir: Path | None, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    if group == "judge":
        use_config_folders([config_dir] if config_dir else [])
        return judge_checks(name, [DOG])
    return KINDS[group][1](build(group, name, config_dir), folder)


def main(argv: list[str]) -> int:
    config_dir: Path | None = None
    if "--config-dir" in argv:
        place = argv.index("--config-dir")
        config_dir, argv = Path(argv[place + 1]), argv[:place] + argv[place + 2 :]
    if len(argv) != 1 or argv[0].partition("=")[0] not in (*KINDS, "judge") or not argv[0].partition("=")[2]:
        raise ValueError("say what to check: vestige check method=mine (or attack=..., metric=..., judge=...) [--config-dir FOLDER].")
    group, _, name = argv[0].partition("=")
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            for promise, test in checks_of(group, name, config_dir, Path(folder)):
                try:
                    test()
                    print(f"ok      {promise}")
                except AssertionError as error:
                    broken += 1
                    print(f"BROKEN  {promise}: {error}")
        except NotApplicable as reason:
            print(f"not checked: {name} does not support the tiny model: {reason}", file=sys.stderr)
            return 0
    return 1 if broken else 0
