"""The weights of a model as they were loaded, to be had again at any time: to put back what a plugin changed, and for a second model.

They are read from their files again, so that nobody keeps a copy of them. Those whose name or shape is not in a file (diffusers renames
the attention weights of old autoencoders) are kept in memory. Whether a weight has changed is seen from exact sums of its content.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vestige.bench.models.encodings import sums

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


def content(tensor: Tensor) -> bytes:
    """Equal for equal tensors. A change shows, also one through `.data`."""
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + sums(tensor)).digest()


def contents(pipe: Pipe) -> dict[str, bytes]:
    return {name: content(p) for name, p in pipe.named_parameters()}


class Origin:
    """Of a pipe that was just loaded. Every pipe that is made here has tensors of its own: it never sees what is written to another."""

    def __init__(self, pipe: Pipe) -> None:
        self.device = pipe.device
        self.contents = contents(pipe)
        self.structure = pipe.structure()
        self.files = {part: _Files(module) for part, module in pipe.parts.items()}
        self.places = {name: place for name, p in pipe.named_parameters() if (place := self._find(name, p))}
        self.kept = {name: _copied(p) for name, p in pipe.named_parameters() if name not in self.places}
        self._blank = with_tensors(pipe, lambda _, p: torch.empty_like(p, device="meta"))

    def tensor(self, name: str) -> Tensor:
        """In memory of its own, unless it is one of those that are kept: to be copied from."""
        if name in self.kept:
            return self.kept[name]
        file, key = self.places[name]
        return self._files_of(name).read(file, key)

    def pipe(self) -> Pipe:
        """The model again. On a CPU, and where the file has the model's dtype, the weights are mapped: what nobody writes to is
        in memory once, however many pipes there are."""
        mapped = {part: files.mapped() for part, files in self.files.items()}

        def again(name: str, blank: nn.Parameter) -> Tensor:
            if name in self.kept:
                return self.kept[name].to(self.device, copy=True)
            file, key = self.places[name]
            tensor = mapped[name.partition(".")[0]][file].get_tensor(key).to(self.device, blank.dtype)
            return tensor if tensor.stride() == blank.stride() else torch.empty_like(blank, device=self.device).copy_(tensor)

        pipe = with_tensors(self._blank, again)
        pipe.origin = self
        return pipe

    def changed(self, pipe: Pipe) -> str | None:
        """What of a pipe is not as it was loaded, in words; None for nothing."""
        if pipe.structure() != self.structure:
            return "a hook, a module, a rule or a word"
        now = contents(pipe)
        return next((name for name in self.contents if now.get(name) != self.contents[name]), None)

    def _find(self, name: str, p: nn.Parameter) -> tuple[Path, str] | None:
        """(file, key) that holds what was loaded, as its content shows."""
        files = self._files_of(name)
        for file, key in files.candidates(name.partition(".")[2]):
            if content(files.read(file, key).to(p.dtype)) == self.contents[name]:
                return file, key
        return None

    def _files_of(self, name: str) -> _Files:
        return self.files[name.partition(".")[0]]

    def __deepcopy__(self, memo: dict) -> Origin:
        return self


class _Files:
    """The weight files of a part. They stay open: a new file under an old name is not the one that was loaded."""

    def __init__(self, module: nn.Module) -> None:
        place = getattr(getattr(module, "config", None), "_name_or_path", None)  # the folder, as diffusers and transformers note it
        found = sorted(Path(place).glob("*.safetensors")) if place else []
        self.opened = {file: safe_open(file, framework="pt", backend="pread") for file in found}
        self.marks = {file: _mark(file) for file in found}

    def candidates(self, name: str) -> Iterator[tuple[Path, str]]:
        """Keys of this name; transformers leaves out the first words of some."""
        for file, handle in self.opened.items():
            for key in handle.offset_keys():
                if key == name or key.endswith(f".{name}"):
                    yield file, key

    def read(self, file: Path, key: str) -> Tensor:
        return self.opened[file].get_tensor(key)

    def mapped(self) -> dict[Path, Any]:
        """New handles. Their tensors are a private map of the file: what is written to them is seen by nobody else."""
        return {f: safe_open(f, framework="pt") if _mark(f) == self.marks[f] else handle for f, handle in self.opened.items()}


def _mark(file: Path) -> tuple[int, ...] | None:
    if not file.exists():
        return None
    facts = file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _copied(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu").copy_(tensor.detach())


def with_tensors(pipe: Pipe, tensor_of: Callable[[str, nn.Parameter], Tensor]) -> Pipe:
    """A copy of a pipe with other tensors for its parameters."""
    memo: dict[int, Any] = {id(p): nn.Parameter(tensor_of(name, p), requires_grad=False) for name, p in pipe.named_parameters()}
    return copy.deepcopy(pipe, memo | {id(tokenizer): tokenizer for tokenizer in pipe.text.tokenizers})


class Saved:
    """The weights of a pipe at one moment. Copies are made of those alone that its origin could not give back (of an attached erasure)."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe, self.contents, self.origin = pipe, contents(pipe), cast(Origin, pipe.origin)  # without an origin all are copied
        known = self.origin.contents if self.origin else {}
        self.copies = {name: p.detach().clone() for name, p in pipe.named_parameters() if self.contents[name] != known.get(name)}

    @torch.no_grad()
    def restore(self) -> None:
        """Writes to what has changed, and to nothing else. No parameter takes gradients afterwards."""
        for name, p in self.pipe.named_parameters():
            p.requires_grad_(False)
            p.grad = None
            if name in self.contents and content(p) != self.contents[name]:
                p.copy_(self.copies[name] if name in self.copies else self.origin.tensor(name))
