"""A GPU for machines without one: tensors that know their shape and device and hold no numbers, as torch's compiler uses them.

An operation on tensors of two devices raises as on a real GPU, so what runs through is placed right.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from vestige.bench.models import device

NAME = "cuda:0"


class FakeGpu:
    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Networks load from real files and are then moved to the fake GPU."""
        with pytest.MonkeyPatch.context() as patched, device.on(NAME):
            real = torch.Tensor.to

            def to(tensor, *words, **more):
                if NAME not in map(str, words):
                    return real(tensor, *words, **more)
                with self.mode:
                    return real(tensor if isinstance(tensor, FakeTensor) else self.mode.from_tensor(tensor), *words, **more)

            patched.setattr(torch.Tensor, "to", to)
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            try:
                yield
            finally:
                torch.__future__.set_overwrite_module_params_on_conversion(False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        with device.on(NAME), self.mode, torch.no_grad():
            yield


def where(net: torch.nn.Module) -> set[str]:
    return {str(tensor.device) for tensor in (*net.parameters(), *net.buffers())}
