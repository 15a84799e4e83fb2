"""The modules of a loaded model as a type checker sees them: what diffusers and transformers add to a module. Never instantiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Part(nn.Module):
    """A denoiser or an autoencoder."""

    config: Any
    dtype: torch.dtype
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    register_to_config: Callable[..., None]


class TextEncoder(nn.Module):
    get_input_embeddings: Callable[[], Any]
