"""The model retrained without the concept: what every eraser tries to imitate. Exists for the embedded emoji model only.

The denoiser was trained by the same recipe, seeds and number of samples, with every picture and caption that holds the
concept left out (`vestige world retrain`); the text encoder stays, as a public CLIP would.
"""

from dataclasses import dataclass
from pathlib import Path

from bench import ROOT
from bench.fingerprints import file_digest
from bench.model import folder_of
from bench.pipe import Pipe
from bench.plugin import Context, Method
from bench.types import Concept, Erasure, ModelSpec


@dataclass
class Oracle(Method):
    """Artefact: "unet.<parameter>", the whole retrained denoiser."""

    weights: str  # safetensors of the denoiser, relative to the project; {slug} is the concept
    model: str  # the model folder that was retrained, relative to the project

    def file(self, concept: Concept) -> Path:
        return ROOT / self.weights.format(slug=concept.slug)

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        if folder_of(model) != (ROOT / self.model).resolve():
            return f"an oracle exists for {self.model} only: model {model.name!r} cannot be retrained here. Choose model=emoji."
        if len(concepts) > 1:
            return f"oracles leave out one concept each, {len(concepts)} were asked for together."
        if not self.file(concepts[0]).exists():
            slug = concepts[0].slug
            return f"no oracle without {slug} is shipped. Train it: vestige world retrain --without {slug} (about half an hour)."
        return super().supports(model, concepts)

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        return {concept.slug: file_digest(self.file(concept)) for concept in concepts}

    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        from safetensors.torch import load_file

        return Erasure({f"unet.{name}": tensor.float() for name, tensor in load_file(self.file(concepts[0])).items()})
