"""What an attack learnt or chose for each row, found again at sampling time by each image's (row_id, repetition)."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from vestige.attacks.wording import concept_of, instead, named_as
from vestige.bench.contract.types import Adversary, Concept, PromptSet
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Step


class ByImage:
    """Tensor [rows * repeats, ...] with one entry per image, those of one row together; call it with image ids."""

    def __init__(self, prompts: PromptSet, values: Tensor) -> None:
        self.values, self.name = values, prompts.name
        self.positions = positions(prompts)
        asked = len(prompts) * prompts.repeats
        if len(values) != asked:
            raise ValueError(f"prompt set {prompts.name!r} asks for {asked} images, the adversary holds {len(values)}.")

    def __call__(self, image_ids: Sequence) -> Tensor:
        return self.values[positions_of(image_ids, self.positions, self.name)]


class ByRow(ByImage):
    """Tensor [rows, ...] with one entry per row, the same for all its images."""

    def __init__(self, prompts: PromptSet, values: Tensor) -> None:
        super().__init__(prompts, values.repeat_interleave(prompts.repeats, dim=0))


def with_prompt_embeddings(pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
    """Replace the conditional text states by the adversary's "states" [rows, tokens, width]; the prompts' token ids stay."""
    states, inner = ByRow(adversary.prompts, adversary.tensors["states"]), pipe.guidance

    def factory():
        rule = inner()

        def told_otherwise(step: Step) -> Tensor:
            hidden = states(step.image_ids).to(step.cond.hidden)
            return rule(replace(step, cond=replace(step.cond, hidden=hidden)))

        return told_otherwise

    return pipe.guided_by(factory)


def positions(prompts: PromptSet) -> dict:
    """Image -> its place in the order (row, repetition), by (row_id, repetition), and by its seed where that is its own alone."""
    images = [(row_id, rep) for row_id in prompts.table["row_id"] for rep in range(prompts.repeats)]
    seeds = [prompts.seed(*image) for image in images]
    shared = Counter(seeds)
    known = {seed: k for k, seed in enumerate(seeds) if shared[seed] == 1}
    return known | {image: k for k, image in enumerate(images)}


def positions_of(image_ids: Sequence, known: dict, name: str) -> Tensor:
    strange = [image for image in image_ids if image not in known]
    if strange:
        raise ValueError(
            f"{strange[0]!r} is no image of prompt set {name!r}, or a seed that several of its rows share: the adversary was made "
            "for other prompts, or the images were drawn without saying (row_id, repetition)."
        )
    return torch.tensor([known[image] for image in image_ids])


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
