"""The model retrained without the concept: what every eraser tries to imitate. Exists for the embedded emoji model only.

The denoiser was trained by the same recipe, seeds and number of samples, with every image and caption that holds the
concept left out (`vestige world retrain`); the text encoder stays, as a public CLIP would.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vestige.bench.contract.plugin import Context, Method
from vestige.bench.contract.types import Concept, Erasure, ModelSpec
from vestige.bench.models.fingerprints import file_digest
from vestige.bench.models.folders import folder_of
from vestige.bench.models.pipe import Pipe
from vestige.bench.places import found
from vestige.bench.world.content import catalog


@dataclass
class Oracle(Method):
    """Artefact: "<denoiser>.<parameter>", the whole retrained denoiser."""

    weights: str  # safetensors of the denoiser, relative to the project; {slug} is the concept, or the group erased as a whole
    model: str  # the model folder that was retrained, relative to the project

    def file(self, concepts: list[Concept]) -> Path:
        return found(self.weights.format(slug=left_out(concepts)))

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if folder_of(model) != found(self.model).resolve():
            return f"an oracle exists for {self.model} only: model {model.name!r} cannot be retrained here. Choose model=emoji."
        slug = left_out(concepts)
        if slug is None:
            names = ", ".join(concept.slug for concept in concepts)
            return f"an oracle leaves out one concept or one whole group (concept=danger); {names} were asked for together."
        if not self.file(concepts).exists():
            seed = re.search(r"seed(\d+)/", self.weights)
            command = f"vestige world retrain --without {slug}" + (f" --seed {seed[1]}" if seed else "")
            return f"no oracle without {slug} is at {self.weights.format(slug=slug)}. Train it: {command} (about half an hour)."
        return super().supports(model, concepts)

    def supports_steps(self) -> str | None:
        return "an oracle is retrained from the start, so a later step would bring back what the one before left out. Leave steps out."

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        slug = left_out(concepts)
        return {} if slug is None else {slug: file_digest(self.file(concepts))}

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        from safetensors.torch import load_file

        return Erasure({f"{pipe.denoiser_name}.{name}": tensor.float() for name, tensor in load_file(self.file(concepts)).items()})


def left_out(concepts: list[Concept]) -> str | None:
    """What a retraining left out, in the words of `vestige world retrain --without`; None for a set that is no whole group."""
    slugs = {concept.slug for concept in concepts}
    if len(slugs) == 1:
        return concepts[0].slug
    return next((group for group, members in catalog.groups().items() if set(members) == slugs), None)
