"""What an attack learnt or chose for each row, found again at sampling time by the seeds of the pictures."""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from attacks.wording import concept_of, instead, named_as
from bench.pipe import Pipe, Step
from bench.types import Adversary, Concept, PromptSet


class ByPicture:
    """Tensor [rows * repeats, ...] with one entry per picture, those of one row together; call it with seeds."""

    def __init__(self, prompts: PromptSet, values: Tensor) -> None:
        self.values, self.name = values, prompts.name
        self.places = places(prompts)
        if len(values) != len(self.places):
            raise ValueError(f"prompt set {prompts.name!r} asks for {len(self.places)} pictures, the adversary holds {len(values)}.")

    def __call__(self, seeds: list[int] | tuple[int, ...]) -> Tensor:
        return self.values[places_of(seeds, self.places, self.name)]


class ByRow(ByPicture):
    """Tensor [rows, ...] with one entry per row, the same for all its pictures."""

    def __init__(self, prompts: PromptSet, values: Tensor) -> None:
        super().__init__(prompts, values.repeat_interleave(prompts.repeats, dim=0))


def told_states(pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
    """Replace the conditional text states by the adversary's "states" [rows, tokens, width]; the prompts' token ids stay."""
    states, inner = ByRow(adversary.prompts, adversary.tensors["states"]), pipe.guidance

    def factory():
        rule = inner()

        def told_otherwise(step: Step) -> Tensor:
            hidden = states(step.seeds).to(step.cond.hidden)
            return rule(replace(step, cond=replace(step.cond, hidden=hidden)))

        return told_otherwise

    return pipe.guided_by(factory)


def places(prompts: PromptSet) -> dict[int, int]:
    """Seed of a picture -> its place in the order (row, repetition)."""
    ids = prompts.table["row_id"]
    return {prompts.seed(row_id, rep): k * prompts.repeats + rep for k, row_id in enumerate(ids) for rep in range(prompts.repeats)}


def places_of(seeds: list[int] | tuple[int, ...], known: dict[int, int], name: str) -> Tensor:
    strange = [seed for seed in seeds if seed not in known]
    if strange:
        raise ValueError(f"the seed {strange[0]} belongs to no picture of prompt set {name!r}: the adversary was made for other prompts.")
    return torch.tensor([known[seed] for seed in seeds])


def worded(ask: str, prompts: PromptSet, concepts: list[Concept]) -> list[str]:
    """`ask` for every row, with {prompt} its prompt and {anchored} its prompt with the concept's anchor in place of the name."""
    texts = []
    for row in prompts.table.to_dict("records"):
        concept = concept_of(row, concepts) or concepts[0]
        name = named_as(row["prompt"], concept)
        anchored = row["prompt"] if name is None else instead(row["prompt"], name, concept.anchor)
        texts.append(ask.format(prompt=row["prompt"], anchored=anchored))
    return texts


def check_ask(key: str, ask: str) -> None:
    """Refuse fields that `worded` does not fill, before any model is loaded."""
    try:
        ask.format(prompt="", anchored="")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{key}={ask!r} has a field that is not known ({error}). Allowed: {{prompt}}, {{anchored}}.") from None
