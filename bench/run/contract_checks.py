"""Contract tests of plugins on random tiny models, one of each family: the same functions serve `vestige check` and the test suite.

Every check raises AssertionError with a sentence about YOUR plugin. See bench/contract/plugin.py for the contract itself.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vestige.bench.contract import building
from vestige.bench.contract.plugin import Attack, Context, Method, Metric, MetricContext, Victim
from vestige.bench.contract.shared import made_in
from vestige.bench.contract.types import Adversary, Concept, Erasure, ModelSpec, PromptSet, Sampler
from vestige.bench.models import capabilities, loading
from vestige.bench.models.pipe import Pipe
from vestige.bench.run import generate, tree
from vestige.bench.statistics.score_intervals import is_rate

Checks = Iterator[tuple[str, Callable[[], None]]]  # what is promised, and a function that raises when it is broken
DOG = Concept("dog", "dog", "object", "animal", ["puppy"], "animal", ["cat", "frog"], ["car", "apple"], ["a loyal pet"])
CAT = Concept("cat", "cat", "object", "animal", ["kitten"], "animal", ["dog", "frog"], ["car", "apple"], ["a pet that purrs"])


class NotApplicable(Exception):
    """The plugin does not support the tiny model of this family; the sentence is the reason."""


def tiny_of(family: str = "sd1") -> ModelSpec:
    return ModelSpec("tiny", family, "random:tiny", None, "float32", "reference", "photo", "photo")


@cache
def _untouched(family: str) -> Pipe:
    return loading.load(tiny_of(family))


def tiny_pipe(family: str = "sd1") -> Pipe:
    """A tiny model as it was loaded, with weights and hooks of its own."""
    pipe = _untouched(family)
    return copy.deepcopy(pipe, {id(tokenizer): tokenizer for tokenizer in pipe.text.tokenizers})


@cache
def sampler_of(family: str = "sd1") -> Sampler:
    pipe = _untouched(family)
    return pipe.family.tiny_sampler(pipe)


def prompts_about(concept: Concept, n: int = 3, seed: int = 0) -> PromptSet:
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
    return PromptSet(f"contract {seed}", pd.DataFrame(rows))


def quick(thing: Any) -> Any:
    """The plugin with the small numbers it declares for its contract test (class attribute `quick`)."""
    return dataclasses.replace(thing, **getattr(type(thing), "quick", {}))


def context(folder: Path, family: str, *words: object, owner: Method | Attack | None = None) -> Context:
    """A context without a store; `owner` is the plugin whose shared work is checked against what it declares."""

    def images(prompts: PromptSet, sampler: Sampler):
        return generate.draw(tiny_pipe(family), prompts, sampler, folder / f"images-{prompts.digest}", 16)

    return Context(words, sampler_of(family), lambda: tiny_pipe(family), images, find_or_make=made_in(folder, owner))


def method_checks(method: Method, folder: Path, family: str = "sd1", seed: int = 0) -> Checks:
    """In order; they share one erasure. seed: of the plugin's randomness."""
    model, sampler = tiny_of(family), sampler_of(family)
    if reason := capabilities.unsupported(method, model, [DOG]):
        raise NotApplicable(reason)
    method = quick(method)
    pipe, clean, asked = tiny_pipe(family), tiny_pipe(family), prompts_about(DOG)
    before = pipe.fingerprint()

    def erased_by(concepts: list[Concept], on: Pipe | None = None, step: str = "first") -> Erasure:
        on = on or tiny_pipe(family)
        with on.preserved():
            return method.erase(on, concepts, context(folder, family, seed, step, owner=method))

    erasure = erased_by([DOG], pipe)

    def draw_as_it_is(on: Pipe) -> torch.Tensor:
        return on(asked.prompts, [asked.seed(r, 0) for r in asked.table["row_id"]], sampler).pixels

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
        again = erased_by([DOG])
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
        if method.supports(model, [DOG, CAT]) is None:
            draw(clean, erased_by([DOG, CAT]))

    def erases_on_top_of_itself_or_says_no() -> None:
        refused = method.supports_steps() or method.supports(model, [CAT])
        if refused:
            assert len(refused) > 20, "supports_steps and supports must answer None or a sentence."
            return
        with method.attach(clean, erasure) as parent:
            once, left = draw_as_it_is(parent), parent.fingerprint()
            second = erased_by([CAT], parent, "second")
            assert parent.fingerprint() == left, "after erasing inside an attached step the model was not as that step left it."
            with method.attach(parent, second) as both:
                twice = draw_as_it_is(both)
            assert parent.fingerprint() == left, "leaving `attach` of the second step took something of the first with it."
        assert clean.fingerprint() == before, "leaving both steps did not restore every tensor, hook and rule."
        if method.intervention in ("weights", "adapter"):
            assert not torch.equal(twice, once), "the second step changed no image."
            if any(key.startswith(f"{clean.denoiser_name}.") for key in second.tensors):  # full new values, which take the first's place
                fresh = erased_by([CAT], step="second").tensors
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


def original() -> Method:
    return building.plugin({"_target_": "vestige.methods.original.Original"}, Method, "method")


def attack_checks(attack: Attack, folder: Path, family: str = "sd1", seed: int = 0) -> Checks:
    method, sampler = original(), sampler_of(family)
    if reason := capabilities.unsupported(attack, tiny_of(family), [DOG], method):
        raise NotApplicable(reason)
    attack, asked, before = quick(attack), prompts_about(DOG), tiny_pipe(family).fingerprint()

    def run() -> tuple[Adversary, Pipe]:
        pipe = tiny_pipe(family)
        victim = Victim(pipe, [DOG], method, sampler, lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool))
        with pipe.preserved():
            return attack.attack(victim, asked, context(folder, family, seed, "attack", owner=attack)), pipe

    adversary, attacked = run()

    def restores_after_attack() -> None:
        assert attacked.fingerprint() == before, (
            "after the attack the harness could not restore the pipe: a hook or module was left behind."
        )

    def keeps_rows() -> None:
        assert list(adversary.prompts.table["row_id"]) == list(asked.table["row_id"]), "the attack lost or reordered row ids."
        assert list(adversary.prompts.table["expect"]) == list(asked.table["expect"]), "the attack changed what is judged."

    def is_counted() -> None:
        if attack.queries_denoiser and attack.access not in ("none", "text", "latents"):
            assert attacked.counts["forward_rows"] > 0, "the attack used no denoiser call that the harness could count."

    def is_reproducible() -> None:
        again, _ = run()
        assert again.prompts.prompts == adversary.prompts.prompts, "two attacks with one seed return other prompts."
        for name, tensor in adversary.tensors.items():
            assert torch.equal(tensor, again.tensors[name]), f"two attacks with one seed differ in {name}."

    def leaves_no_trace() -> None:
        adversary.save(folder / "adversary")
        loaded, pipe = Adversary.load(folder / "adversary"), tiny_pipe(family)
        with attack.attach(pipe, loaded) as attached:
            attached(loaded.prompts.prompts, [loaded.prompts.seed(r, 0) for r in loaded.prompts.table["row_id"]], sampler)
        assert pipe.fingerprint() == before, "leaving `attach` did not restore the pipe."

    def does_something() -> None:
        changed = adversary.prompts.digest != asked.digest or bool(adversary.tensors)
        assert changed == (attack.access != "none"), "an attack must change prompts or carry tensors; the control must not."

    yield "the attack leaves the pipe restorable", restores_after_attack
    yield "row ids and expectations are kept", keeps_rows
    yield "its cost is visible to the harness", is_counted
    yield "one seed gives one attack", is_reproducible
    yield "leaving attach restores everything, also from disk", leaves_no_trace
    yield "it changes something, the control nothing", does_something


def metric_checks(metric: Metric, folder: Path, family: str = "sd1", seed: int = 0) -> Checks:
    """seed: of the images."""
    model = dataclasses.replace(tiny_of(family), domain="emoji")
    if reason := capabilities.unsupported(metric, model, [DOG]):
        raise NotApplicable(reason)
    from vestige.bench.vision import features

    metric, pipe, sampler = quick(metric), tiny_pipe(family), sampler_of(family)
    images = generate.draw(pipe, prompts_about(DOG, 8, seed), sampler, folder / "images", 8)

    def drawn(asked: PromptSet):
        return generate.draw(pipe, asked, sampler, folder / asked.digest, 16)

    def erased() -> AbstractContextManager[Pipe]:
        changed = {f"{pipe.denoiser_name}.{name}": 1.1 * p.detach() for name, p in pipe.group("text_kv").items()}
        return tiny_pipe(family).replaced(changed)

    context = MetricContext([DOG], lambda: images, features.extract, lambda: pipe, erased, drawn)
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


KINDS: dict[str, tuple[type, Callable[..., Checks]]] = {
    "method": (Method, method_checks),
    "attack": (Attack, attack_checks),
    "metric": (Metric, metric_checks),
}


def build(group: str, name: str, config_dir: Path | None = None, concept: str = "dog", model: str = "tiny") -> Any:
    """Compose and build one plugin by name, with the numbers for this model; settings by kind are those for the concept's."""
    return build_all(group, [name], config_dir, concept, model)[name]


def build_all(group: str, names: list[str], config_dir: Path | None = None, concept: str = "dog", model: str = "tiny") -> dict[str, Any]:
    """Several plugins of one kind. A job has one method, so methods are composed one by one, the others together."""
    words = [f"model={model}", f"concept=[{concept}]", "split=[]"]
    if group == "method":
        nodes = {name: tree.composed([*words, f"method={name}"], config_dir).method for name in names}
    else:
        listed = f"attack=[{','.join(names)}]" if group == "attack" else f"+metric@picked=[{','.join(names)}]"
        chosen = tree.composed([*words, "method=original", listed], config_dir)["attack" if group == "attack" else "picked"]
        nodes = {name: chosen[name] for name in names}
    return {name: building.plugin(node, KINDS[group][0], f"{group}.{name}") for name, node in nodes.items()}
