"""The text side of a model: prompts to conditioning, by one or more text encoders, with room for learned tokens.

Token embeddings are injected by a forward hook on the embedding layer: transformers 5 has neither `inputs_embeds` nor
`.text_model`, and a hook gives the normal forward pass bit for bit when the tensor is the looked-up embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.encodings import KEPT, content
from vestige.bench.models.hooks import is_plain
from vestige.bench.models.parts import TextEncoder


class Encoder:
    """One text encoder with its tokenizer: how a text is laid out in ids, and where its words stand.

    name: of the segment it makes (clip, clip_2, t5). length: tokens it reads, at most as many as its tokenizer allows.
    """

    def __init__(self, name: str, tokenizer: Any, module: TextEncoder, length: int | None = None) -> None:
        self.name, self.tokenizer, self.module = name, tokenizer, module
        self.length = min(length or tokenizer.model_max_length, tokenizer.model_max_length)

    def token_ids(self, text: str) -> list[int]:
        """Ids of the text alone: no begin, end or padding."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def ids(self, prompts: list[str]) -> Tensor:
        """(batch, length) ids in the model's own layout: begin, tokens, end, padding; too long texts are cut."""
        batch = self.tokenizer(prompts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(self.device)

    @property
    def begins(self) -> int:
        """How many ids stand before the text: 1 (begin), or 0 where the encoder has none (T5)."""
        return int(self.tokenizer.bos_token_id is not None and self.tokenizer("a").input_ids[0] == self.tokenizer.bos_token_id)

    @property
    def beginning(self) -> list[int]:
        """The ids before the text."""
        return [self.tokenizer.bos_token_id] * self.begins

    @property
    def room(self) -> int:
        """How many ids are read before the end, the beginning included."""
        return self.length - 1

    def first(self, ids: list[int]) -> int:
        """Where the first of these ids stands once they are laid out: 0 where padding comes last."""
        return 0

    def last_token(self, ids: Tensor) -> Tensor:
        """(batch,) index of the last token before the first end token; of an empty prompt 0, which is begin or, without one, end."""
        return ((ids == self.tokenizer.eos_token_id).int().argmax(-1) - 1).clamp(min=0)

    def from_ids(self, ids: Tensor, first: Encoder) -> Tensor:
        """This encoder's ids for texts laid out by the first encoder of the model."""
        if type(self.tokenizer) is type(first.tokenizer):
            # SDXL's second tokenizer has the same words but another padding after the first end token.
            ended = (ids == first.tokenizer.eos_token_id).cumsum(-1)
            padding = (ended > 1) | ((ended == 1) & (ids != first.tokenizer.eos_token_id))
            return ids.masked_fill(padding, self.tokenizer.pad_token_id)
        return self.ids(first.tokenizer.batch_decode(ids, skip_special_tokens=True))

    def layout(self, ids: list[int]) -> Tensor:
        """(length,) ids with this end and padding behind them; `ids` has its begin. Too long texts are cut."""
        ended = [*ids[: self.room], self.tokenizer.eos_token_id]
        return torch.tensor(ended + [self.tokenizer.pad_token_id] * (self.length - len(ended)), device=self.device)

    @property
    def table(self) -> Tensor:
        """(vocabulary, width) token embeddings."""
        return self.module.get_input_embeddings().weight

    @property
    def embeds(self) -> list[nn.Module]:
        """The layers that look ids up in the table: T5 has two names for it, and calls the inner one."""
        return [layer for layer in self.module.modules() if isinstance(layer, nn.Embedding) and layer.weight is self.table]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device


Combine = Callable[[list[Tensor], list[Any]], Conditioning]
Learned = Tensor | Mapping[str, Tensor]  # a learned token: rows [k, width] for the first encoder, or for each encoder by its name


class TextSide:
    """The text encoders of one model, how the family puts their states together, and the learned tokens in force.

    combine: (ids, output) of each encoder, in order, to a conditioning. deep: it reads states of inner layers.
    """

    def __init__(self, family: str, readers: list[Encoder], combine: Combine, deep: bool = False) -> None:
        self.family, self.readers, self.combine, self.deep = family, readers, combine, deep
        self.words: dict[str, Learned] = {}
        self.weights: Hashable | None = None  # what the encoders' weights are, by content, where known: see `identified_as`

    @property
    def encoders(self) -> list[TextEncoder]:
        return [reader.module for reader in self.readers]

    @property
    def tokenizers(self) -> list:
        return [reader.tokenizer for reader in self.readers]

    def identified_as(self, weights: Hashable) -> None:
        """Say which weights were loaded: encodings are then shared with every text side of the same ones, while they are unchanged."""
        self.weights = weights

    def reader(self, name: str) -> Encoder:
        """The encoder of this name (clip, clip_2, t5 ...)."""
        for reader in self.readers:
            if reader.name == name:
                return reader
        raise ValueError(f"family {self.family!r} has no text encoder {name!r}; it has: {', '.join(r.name for r in self.readers)}.")

    # Of the first encoder, the only one of most models

    @property
    def length(self) -> int:
        return self.readers[0].length

    @property
    def device(self) -> torch.device:
        return self.readers[0].device

    def token_ids(self, text: str) -> list[int]:
        """Ids of the text alone: no begin, end or padding. Learned tokens must not occur in it."""
        return self.readers[0].token_ids(text)

    def ids(self, prompts: list[str]) -> Tensor:
        """(batch, length) ids in the model's own layout: begin, tokens, end, padding; too long texts are cut."""
        return self.readers[0].ids(prompts)

    def last_token(self, ids: Tensor) -> Tensor:
        """(batch,) index of the last token before the first end token; 0 for an empty prompt."""
        return self.readers[0].last_token(ids)

    def embedding_table(self) -> Tensor:
        """(vocabulary, width) token embeddings of the first text encoder."""
        return self.readers[0].table

    # Encoding

    def encode(self, prompts: list[str]) -> Conditioning:
        if self.words and any(word in prompt for prompt in prompts for word in self.words):
            return self._encode_with_words(prompts)
        ids = [reader.ids(prompts) for reader in self.readers]
        if torch.is_grad_enabled() or self.weights is None or not all(map(is_plain, self.encoders)):
            return self._run(ids)
        return self._kept(ids)

    def _kept(self, ids: list[Tensor]) -> Conditioning:
        """As `_run`, from memory where this very batch was encoded before."""
        texts = tuple(i.cpu().numpy().tobytes() for i in ids)
        now = tuple(map(content, self.encoders))
        dtype = self.embedding_table().dtype
        key = (self.weights, now, self.family, str(self.device), dtype, torch.get_num_threads(), ids[0].shape, texts)
        return KEPT.get(key, lambda: self._run(ids))

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Encode token ids (batch, length) laid out by the first tokenizer."""
        return self._run(self._for_all(ids))

    def encode_embeddings(self, ids: Tensor, embeddings: Tensor) -> Conditioning:
        """Encode custom token embeddings (batch, length, width) of the first encoder, without positions, laid out like `ids`.

        `ids` still decides where the end token stands, and what further encoders read. Differentiable.
        """
        return self._run(self._for_all(ids), {0: embeddings})

    def _for_all(self, ids: Tensor) -> list[Tensor]:
        return [ids, *(reader.from_ids(ids, self.readers[0]) for reader in self.readers[1:])]

    def _encode_with_words(self, prompts: list[str]) -> Conditioning:
        """Lay out text pieces and learned tokens by hand; a token takes as many positions as it has rows."""
        laid_out = [[self._laid_out(reader, prompt) for prompt in prompts] for reader in self.readers]
        ids = [torch.stack([ids for ids, _ in rows]) for rows in laid_out]
        return self._run(ids, {k: torch.stack([embeddings for _, embeddings in rows]) for k, rows in enumerate(laid_out)})

    def _laid_out(self, reader: Encoder, prompt: str) -> tuple[Tensor, Tensor]:
        """(length,) ids and (length, width) embeddings of one prompt for one encoder; one that a token has no rows for reads on."""
        cut = re.compile("(" + "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True)) + ")")
        stand_in = reader.token_ids("a")[0]
        ids, places = list(reader.beginning), {}
        for piece in cut.split(prompt):
            if piece in self.words:
                for row in self._rows_of(piece, reader):
                    places[len(ids)] = row.to(reader.table)
                    ids.append(stand_in)
            elif piece.strip():
                ids.extend(reader.token_ids(piece))
        if any(place >= reader.room for place in places):
            raise ValueError(f"a learned token lies beyond the {reader.length} tokens the model reads: {prompt!r}.")
        laid_out = reader.layout(ids)
        embeddings = reader.table[laid_out]
        if places:
            index = torch.tensor(list(places), device=self.device) + reader.first(ids)
            embeddings = embeddings.index_copy(0, index, torch.stack(list(places.values())))
        return laid_out, embeddings

    def _rows_of(self, word: str, reader: Encoder) -> Tensor | list:
        rows = self.words[word]
        if isinstance(rows, Tensor):
            return rows if reader is self.readers[0] else []
        return rows.get(reader.name, [])

    def _run(self, ids: list[Tensor], embeddings: Mapping[int, Tensor] | None = None) -> Conditioning:
        handles = []
        try:
            for k, rows in (embeddings or {}).items():
                for layer in self.readers[k].embeds:
                    handles.append(layer.register_forward_hook(lambda *_, rows=rows: rows))
            return self.combine(ids, [encoder(i, output_hidden_states=self.deep) for encoder, i in zip(self.encoders, ids, strict=True)])
        finally:
            for handle in handles:
                handle.remove()
