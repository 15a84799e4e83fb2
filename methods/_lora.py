"""Low-rank adapters on keys and values beside a shared edit: how MACE and its kin store and attach what they train."""

import torch
from torch import Tensor

from vestige.bench.models.pipe import Pipe
from vestige.methods._closed_form import check_width, merged, projections


def edited_weights(pipe: Pipe, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """New weights by name: W (I + U V^T) + up down, from "edit.U", "edit.V" [d, rows] and, where a layer has an adapter,
    "lora.<layer>.up" [out, n] and ".down" [n, d]."""
    weights, new = projections(pipe), {}
    check_width(pipe, len(tensors["edit.U"]), next(iter(weights.values())).shape[1])
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        new[f"{pipe.denoiser_name}.{name}"] = merged(weight, tensors["edit.U"], tensors["edit.V"])
        if f"lora.{layer}.up" in tensors:
            up, down = (tensors[f"lora.{layer}.{side}"].to(weight.device, torch.float64) for side in ("up", "down"))
            new[f"{pipe.denoiser_name}.{name}"] += (up @ down).to(weight.dtype)
    return new
