"""The data types of the harness: frozen dataclasses that stages, plugins and tables share.

Nothing here computes with tensors; torch is never imported by this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import torch

KINDS = ("object", "style", "celebrity", "explicit")


@dataclass(frozen=True)
class ModelSpec:
    """Which model is erased, exactly: where its weights lie and in which arithmetic it runs."""

    name: str
    family: str  # a file in bench/models/families: what is loaded and how the generator is called
    repo: str  # a diffusers folder (absolute, or relative to the project or the current folder), a hub id, or random:<recipe>
    revision: str | None  # commit hash of a hub repository; null for a folder
    dtype: str  # float32, float16 or bfloat16
    numerics: str  # reference or fast (bench/models/numerics.py)
    prompt_style: str  # which templates in prompts/templates its prompts are written with: photo or emoji
    domain: str  # what its images show, so which judges, networks and sizes of a protocol fit it: photo or emoji

    def __post_init__(self) -> None:
        _one_of(f"model.{self.name}.dtype", self.dtype, ("float32", "float16", "bfloat16"))
        _one_of(f"model.{self.name}.numerics", self.numerics, ("reference", "fast"))

    def drawing(self) -> dict[str, Any]:
        """What decides the images it draws. How it is asked (prompt_style) and judged (domain) does not."""
        return {key: value for key, value in plain(self).items() if key not in ("prompt_style", "domain")}


@dataclass(frozen=True)
class Concept:
    """What is erased, in the words a user types, a caption writer uses and a judge answers with."""

    slug: str
    name: str
    kind: str  # one of KINDS
    group: str  # siblings share it
    aliases: list[str]  # synonyms: must be gone too
    anchor: str  # the broader or neutral text a method may map the concept to
    siblings: list[str]  # display names of near concepts that must stay
    others: list[str]  # display names of unrelated concepts that must stay
    descriptions: list[str]  # indirect wordings that never use the name or an alias
    labels: dict[str, str] = field(default_factory=dict)  # judge family -> the label that means this concept
    held_out: list[str] | None = None  # siblings and others that are asked for and given to no method; None: all are both

    def __post_init__(self) -> None:
        _one_of(f"concept.{self.slug}.kind", self.kind, KINDS)

    def asked_of(self, names: list[str]) -> list[str]:
        """Those of `names` (its siblings or others) that splits ask for."""
        return names if self.held_out is None else [name for name in names if name in self.held_out]

    def without(self, gone: set[str]) -> Concept:
        """The same with no sibling or unrelated thing of these names."""
        return replace(
            self, siblings=[n for n in self.siblings if n not in gone], others=[n for n in self.others if n not in gone], held_out=None
        )


@dataclass(frozen=True)
class Sampler:
    """How an image is drawn from noise; part of the specification of every image."""

    scheduler: str  # class name in diffusers, or tokens: of a model that draws token by token
    arguments: dict[str, Any]  # changes to the model's own scheduler settings
    steps: int
    guidance: float  # classifier-free guidance scale w; 1 or less: no guidance
    height: int  # pixels
    width: int
    embedded_guidance: float | None = field(default=None, metadata={"optional": True})  # what a guidance-distilled denoiser is told


@dataclass(frozen=True)
class PromptSet:
    """A table of prompts. One row is one question to the model; `repeats` images are drawn for each row.

    Columns: row_id (str, unique), prompt, role (target, alias, sibling, other, scene, background, free), expect (slug or
    label the image should show), names (number of objects the prompt names), group (bootstrap cluster: the distinct sentence as
    first asked, see `sentence_group`; an attack keeps it).
    Optional: seed (the set's own, for the first image of a row), private (the text enters no index, its hash does).
    Seeds derive from (set name, row_id, repetition), so they never depend on method, attack or loop order.
    """

    name: str
    table: pd.DataFrame
    repeats: int = 1

    COLUMNS = ("row_id", "prompt", "role", "expect", "names", "group")

    def __post_init__(self) -> None:
        missing = [column for column in self.COLUMNS if column not in self.table.columns]
        if missing:
            raise ValueError(f"prompt set {self.name!r} lacks the columns {missing}; it has {list(self.table.columns)}.")
        if self.table["row_id"].duplicated().any():
            twice = sorted(self.table["row_id"][self.table["row_id"].duplicated()].unique())
            raise ValueError(f"prompt set {self.name!r} uses a row_id more than once: {twice[:5]}.")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def prompts(self) -> list[str]:
        return self.table["prompt"].tolist()

    @property
    def digest(self) -> str:
        """Hash of everything that changes the images or their meaning."""
        content = {"name": self.name, "repeats": self.repeats, "rows": self.table.astype(str).to_dict("records")}
        return canonical_hash(content)

    def seed(self, row_id: str, rep: int) -> int:
        """Derived from (set name, row_id, repetition); a set with its own column `seed` counts on from that."""
        if row_id in self._own_seeds:
            return self._own_seeds[row_id] + rep
        return derived_seed(self.name, row_id, rep)

    @cached_property
    def _own_seeds(self) -> dict[str, int]:
        own = "seed" in self.table.columns
        return dict(zip(self.table["row_id"], map(int, self.table["seed"]), strict=True)) if own else {}

    def head(self, n: int) -> PromptSet:
        return replace(self, table=self.table.head(n).reset_index(drop=True))

    def with_prompts(self, prompts: list[str], **columns: list) -> PromptSet:
        """The same rows (ids, seeds, expectations) asked with other words: what an attack returns."""
        if len(prompts) != len(self.table):
            raise ValueError(f"prompt set {self.name!r} has {len(self.table)} rows, got {len(prompts)} prompts.")
        return replace(self, table=self.table.assign(prompt=prompts, **columns))


@dataclass(frozen=True)
class Erasure:
    """The frozen result of an erasure: tensors and plain JSON, and nothing that needs the training code.

    Keys of `tensors`: "<part>.<parameter>" (for example "unet.mid_block.attentions.0....to_k.weight") replace a parameter;
    any other prefix belongs to the method, which reads it in its own `attach`, and names in meta["parts"] the parts it acts on.
    meta["parameters"], where a method gives it, counts the model's parameters that change (the artefact may be a compressed form).
    """

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def touched(self) -> frozenset[str]:
        """Parts of the model that are changed; none where images are sampled in another way, or filtered."""
        return frozenset(self.meta["parts"] if "parts" in self.meta else (name.partition(".")[0] for name in self.tensors))

    def save(self, folder: Path) -> None:
        _save_tensors(self.tensors, self.meta, folder)

    @classmethod
    def load(cls, folder: Path) -> Erasure:
        return cls(*_load_tensors(folder))


@dataclass(frozen=True)
class Adversary:
    """The frozen result of an attack: other prompts, learnt tensors, or both, and what it cost.

    `budget` is filled by the harness from its own counters: forward_rows (denoiser evaluations x batch), images, seconds.
    """

    prompts: PromptSet
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        head = {"name": self.prompts.name, "repeats": self.prompts.repeats, "budget": self.budget, "meta": self.meta}
        _save_tensors(self.tensors, head, folder)
        self.prompts.table.to_csv(folder / "prompts.csv", index=False)

    @classmethod
    def load(cls, folder: Path) -> Adversary:
        tensors, head = _load_tensors(folder)
        return cls(cls.load_prompts(folder), tensors, head["meta"], head["budget"])

    @staticmethod
    def load_prompts(folder: Path) -> PromptSet:
        """The prompts alone: the tensors may be a whole denoiser."""
        head = json.loads((folder / "meta.json").read_text())
        table = pd.read_csv(folder / "prompts.csv", dtype={"row_id": str, "group": str, "expect": str}, keep_default_na=False)
        return PromptSet(head["name"], table, head["repeats"])


@dataclass(frozen=True)
class ImageSet:
    """A folder of images with an index: row_id, rep, file, seed, status (ok, blocked or nan), sha256, plus the prompt columns.

    digest: hash of the images, for sets that are no stage of the store (there the folder's name identifies them).
    """

    folder: Path
    index: pd.DataFrame
    digest: str | None = None

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, files: list[str] | None = None) -> torch.Tensor:
        """All images (or the named files) as one uint8 tensor [n, 3, height, width], in index order."""
        import numpy as np
        import torch
        from PIL import Image

        files = self.index["file"].tolist() if files is None else files
        arrays = [np.asarray(Image.open(self.folder / file).convert("RGB")) for file in files]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

    def batches(self, size: int = 64) -> Iterator[torch.Tensor]:
        files = self.index["file"].tolist()
        for start in range(0, len(files), size):
            yield self.pixels(files[start : start + size])


@dataclass(frozen=True)
class Scores:
    """What a metric found: one row per image where that is meaningful, and totals derived from them.

    `per_image` has row_id, rep and one column per value; metrics of whole sets (FID, KID) leave it None.
    """

    totals: dict[str, float]
    per_image: pd.DataFrame | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        (folder / "totals.json").write_text(json.dumps({"totals": self.totals, "meta": self.meta}, indent=1, sort_keys=True))
        if self.per_image is not None:
            self.per_image.to_csv(folder / "per_image.csv", index=False)

    @classmethod
    def load(cls, folder: Path) -> Scores:
        head = json.loads((folder / "totals.json").read_text())
        rows = folder / "per_image.csv"
        per_image = pd.read_csv(rows, dtype={"row_id": str}) if rows.exists() else None
        return cls(head["totals"], per_image, head["meta"])


def plain(value: Any) -> Any:
    """A dataclass, path or container as plain JSON data, floats and integers kept apart.

    A field marked optional is left out while it has its default: a setting that came later changes no key of what has no use for it.
    """
    if hasattr(value, "__dataclass_fields__"):
        told = [f for f in fields(value) if not (f.metadata.get("optional") and getattr(value, f.name) == f.default)]
        return {f.name: plain(getattr(value, f.name)) for f in told}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def canonical_json(value: Any) -> str:
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_hash(value: Any, digits: int = 16) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def sentence_group(prompt: str) -> str:
    """The name of a sentence as a bootstrap cluster: equal for equal sentences, and it does not tell a private one."""
    return "s" + hashlib.sha256(prompt.encode()).hexdigest()[:12]


def derived_seed(*words: Any) -> int:
    """A 63-bit seed from who asks and what for; independent of any order of calls."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(words)).encode()).digest()[:8], "big") >> 1


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not known. Allowed: {', '.join(allowed)}.")


def _save_tensors(tensors: dict[str, torch.Tensor], meta: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    save_file(contiguous, folder / "tensors.safetensors")
    (folder / "meta.json").write_text(json.dumps(plain(meta), indent=1, sort_keys=True, allow_nan=False))


def _load_tensors(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors.torch import load_file

    return load_file(folder / "tensors.safetensors"), json.loads((folder / "meta.json").read_text())
