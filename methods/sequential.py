"""Edit after edit instead of one joint edit: each concept is erased from the model that the edits before it left behind.

The control of every joint closed form: UCE (arXiv 2308.14761) and SPEED (arXiv 2503.07392) argue against it, and continual
erasure has no other choice. Works with any method of one linear edit (methods/_closed_form.py); T = T_1 T_2 ..., so the last
edit acts on the text states first. The order counts: it is that of the steps, then of the concepts as they were typed.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vestige.bench.contract.building import plugin, specification
from vestige.bench.contract.plugin import Context
from vestige.bench.contract.types import Concept, Erasure, ModelSpec, canonical_hash
from vestige.bench.models.capabilities import unsupported
from vestige.bench.models.pipe import Pipe
from vestige.methods._closed_form import LinearEdit, Piece, chained, pieces_of, projections

Edit = tuple[Tensor, Tensor, Tensor | None]  # U, V and shift of one layer


@dataclass
class Sequential(LinearEdit):
    """Artefact: see LinearEdit, in meta["order"] the steps with their concepts. `layers` must cover those of all steps."""

    steps: dict[str, dict[str, Any]]  # name -> a linear method with its settings; each runs over all concepts before the next

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps:
            raise ValueError("method.steps is empty. Add a method: +method@method.steps.uce=uce.")
        self.methods: dict[str, LinearEdit] = {name: plugin(node, LinearEdit, f"method.steps.{name}") for name, node in self.steps.items()}
        outside = [name for name, method in self.methods.items() if not set(method.layers) <= set(self.layers)]
        if outside:
            raise ValueError(f"method.layers={self.layers} does not cover the layers of {', '.join(outside)}. Set method.layers=kv.")

    def supports(self, model: ModelSpec, concepts: list[Concept]) -> str | None:
        unsupported_reason = (unsupported(method, model, [concept]) for method in self.forms() for concept in concepts)
        return next(filter(None, unsupported_reason), None) or super().supports(model, concepts)

    def forms(self) -> list[LinearEdit]:
        """The steps in the form in which the whole is attached."""
        return [replace(method, form=self.form) for method in self.methods.values()]

    def inputs(self, concepts: list[Concept]) -> dict[str, str]:
        files = {f"{step}.{name}": digest for step, method in self.methods.items() for name, digest in method.inputs(concepts).items()}
        return files | {step: canonical_hash(specification(method)) for step, method in self.methods.items()}

    @torch.no_grad()
    def erase(self, pipe: Pipe, concepts: list[Concept], ctx: Context) -> Erasure:
        weights = projections(pipe, self.layers)
        total, order = {name: nothing(weight) for name, weight in weights.items()}, []
        with ExitStack() as edited:
            for step, method in self.methods.items():
                for concept in concepts:
                    erasure = method.erase(pipe, [concept], ctx)
                    order.append(f"{step}: {concept.slug}")
                    for name in projections(pipe, method.layers):
                        total[name] = after(total[name], pieces_of(erasure, name))
                    # Merged: the next step may read the weights. Methods whose edits have a shift read text states alone.
                    if not any(key.startswith("edit.shift") for key in erasure.tensors):
                        edited.enter_context(replace(method, form="merge").attach(pipe, erasure))
        return self.artefact(pipe, *shared(total), order=order)


def nothing(weight: Tensor) -> Edit:
    none = weight.new_zeros(weight.shape[1], 0, dtype=torch.float64)
    return none, none, None


def after(first: Edit, second: Edit) -> Edit:
    """T_1 (T_2 h + a_2) + a_1: the second edit was made for the model that the first had changed, and acts on h first."""
    (u1, v1, a1), (u2, v2, a2) = _double(first), _double(second)
    moved = None if a2 is None else a2 + u1 @ (v1.T @ a2)
    shift = moved if a1 is None else a1 if moved is None else a1 + moved
    return *chained((u1, v1), (u2, v2)), shift


def _double(edit: Edit) -> Edit:
    u, v, shift = edit
    return u.double(), v.double(), None if shift is None else shift.double()


def shared(edits: dict[str, Edit]) -> tuple[Piece, Piece, Piece | None]:
    """U, V and shift by layer name, or one of each where all layers agree."""
    u, v, shift = ({name.removesuffix(".weight"): t for name, edit in edits.items() if (t := edit[k]) is not None} for k in range(3))
    return _once(u, len(edits)), _once(v, len(edits)), _once(shift, len(edits)) if shift else None


def _once(by_layer: dict[str, Tensor], layers: int) -> Piece:
    first = next(iter(by_layer.values()))
    return first if len(by_layer) == layers and all(torch.equal(each, first) for each in by_layer.values()) else by_layer
