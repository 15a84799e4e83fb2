"""The text side of a model: prompts to conditioning, for one or two CLIP encoders, with room for learned tokens.

Token embeddings are injected by a forward hook on the embedding layer: transformers 5 has neither `inputs_embeds` nor
`.text_model`, and a hook gives the normal forward pass bit for bit when the tensor is the looked-up embedding.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vestige.bench.models.encodings import KEPT, content
from vestige.bench.models.parts import TextEncoder


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told. All tensors share the batch dimension.

    hidden (batch, tokens, width); ids (batch, tokens) token ids of the first tokenizer; pooled (batch, width) for SDXL,
    else None; owner (batch, tokens): ids of the prompt that this row serves. Only the unconditional half of a guided batch
    has an owner other than its own ids, and prompt-dependent adapters read it.
    """

    hidden: Tensor
    ids: Tensor
    pooled: Tensor | None
    owner: Tensor

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def rows(self, index: slice | Tensor | list[int]) -> Conditioning:
        pooled = None if self.pooled is None else self.pooled[index]
        return Conditioning(self.hidden[index], self.ids[index], pooled, self.owner[index])

    def repeat(self, n: int) -> Conditioning:
        """Each row n times, neighbours together: rows a, b become a, a, b, b."""
        return self.rows(torch.arange(len(self), device=self.ids.device).repeat_interleave(n))

    def with_null(self, null: Conditioning) -> Conditioning:
        """The doubled batch [null; self] of classifier-free guidance."""
        return Conditioning.cat([replace(null, owner=self.owner), self])

    def zeroed(self) -> Conditioning:
        """The same with zeros for states."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, hidden=torch.zeros_like(self.hidden), pooled=pooled)

    def detach(self) -> Conditioning:
        return replace(self, hidden=self.hidden.detach(), pooled=None if self.pooled is None else self.pooled.detach())

    @staticmethod
    def cat(parts: list[Conditioning]) -> Conditioning:
        pooled = [p.pooled for p in parts if p.pooled is not None]
        join = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("hidden", "ids", "owner")}
        return Conditioning(pooled=torch.cat(pooled) if pooled else None, **join)


class TextSide:
    """Tokenizers and text encoders of one model, and the learnt words in force."""

    def __init__(self, family: str, tokenizers: list, encoders: list[TextEncoder]) -> None:
        if family in ("sd3", "flux"):
            raise ValueError(f"family {family!r} is not supported yet: its T5 text side is missing. Supported: sd1, sd2, sdxl.")
        self.family = family
        self.tokenizers = tokenizers
        self.encoders = encoders
        self.words: dict[str, Tensor] = {}
        self.weights: Hashable | None = None  # what the encoders' weights are, by content, where known: see `identified_as`

    def identified_as(self, weights: Hashable) -> None:
        """Say which weights were loaded: encodings are then shared with every text side of the same ones, while they are unchanged."""
        self.weights = weights

    @property
    def _plain(self) -> bool:
        """Nothing but the weights decides what is encoded: no hook, no other way through a module."""
        modules = [m for encoder in self.encoders for m in encoder.modules()]
        return not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in modules)

    @property
    def length(self) -> int:
        return self.tokenizers[0].model_max_length

    @property
    def device(self) -> torch.device:
        return next(self.encoders[0].parameters()).device

    def token_ids(self, text: str) -> list[int]:
        """Ids of the text alone: no begin, end or padding. Learnt words must not occur in it."""
        return self.tokenizers[0](text, add_special_tokens=False).input_ids

    def ids(self, prompts: list[str], encoder: int = 0) -> Tensor:
        """(batch, length) ids in the model's own layout: begin, tokens, end, padding; too long texts are cut."""
        tokenizer = self.tokenizers[encoder]
        batch = tokenizer(prompts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        return batch.input_ids.to(self.device)

    def last_token(self, ids: Tensor) -> Tensor:
        """(batch,) index of the last token before the first end token; 0 (begin) for an empty prompt."""
        return (ids == self.tokenizers[0].eos_token_id).int().argmax(-1) - 1

    def encode(self, prompts: list[str]) -> Conditioning:
        if self.words and any(word in prompt for prompt in prompts for word in self.words):
            return self._encode_with_words(prompts)
        ids = [self.ids(prompts, k) for k in range(len(self.encoders))]
        if torch.is_grad_enabled() or self.weights is None or not self._plain:
            return self._run(ids, None)
        return self._kept(ids)

    def _kept(self, ids: list[Tensor]) -> Conditioning:
        """As `_run`, from memory where this very batch was encoded before."""
        dtype = self.embedding_table().dtype
        texts = tuple(i.cpu().numpy().tobytes() for i in ids)
        now = tuple(map(content, self.encoders))
        key = (self.weights, now, self.family, str(self.device), dtype, torch.get_num_threads(), ids[0].shape, texts)

        def make() -> tuple[Tensor, ...]:
            cond = self._run(ids, None)
            return (cond.hidden,) if cond.pooled is None else (cond.hidden, cond.pooled)

        hidden, *pooled = KEPT.get(key, make)
        return Conditioning(hidden, ids[0], pooled[0] if pooled else None, ids[0])

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Encode token ids (batch, length) laid out by the first tokenizer."""
        every = [ids]
        for tokenizer in self.tokenizers[1:]:
            # SDXL's second tokenizer has the same words but another padding after the first end token.
            ended = (ids == self.tokenizers[0].eos_token_id).cumsum(-1)
            padding = (ended > 1) | ((ended == 1) & (ids != self.tokenizers[0].eos_token_id))
            every.append(ids.masked_fill(padding, tokenizer.pad_token_id))
        return self._run(every, None)

    def encode_embeddings(self, ids: Tensor, embeddings: Tensor) -> Conditioning:
        """Encode custom token embeddings (batch, length, width), without positions, laid out like `ids`.

        `ids` still decides where the end token stands. Differentiable. One text encoder only (sd1, sd2).
        """
        if len(self.encoders) > 1:
            raise ValueError("embedding injection is written for models with one text encoder (sd1, sd2).")
        return self._run([ids], embeddings)

    def embedding_table(self) -> Tensor:
        """(vocabulary, width) token embeddings of the first text encoder."""
        return self.encoders[0].get_input_embeddings().weight

    def _encode_with_words(self, prompts: list[str]) -> Conditioning:
        """Lay out text pieces and learnt words by hand; a word takes as many positions as it has rows."""
        tokenizer = self.tokenizers[0]
        cut = re.compile("(" + "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True)) + ")")
        stand_in = self.token_ids("a")[0]
        table = self.embedding_table()
        all_ids, all_embeddings = [], []
        for prompt in prompts:
            ids, places = [tokenizer.bos_token_id], {}
            for piece in cut.split(prompt):
                if piece in self.words:
                    for row in self.words[piece].to(table):
                        places[len(ids)] = row
                        ids.append(stand_in)
                elif piece.strip():
                    ids.extend(self.token_ids(piece))
            if len(ids) >= self.length and any(place >= self.length - 1 for place in places):
                raise ValueError(f"a learned token lies beyond the {self.length} tokens the model reads: {prompt!r}.")
            ids = [*ids[: self.length - 1], tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (self.length - len(ids))
            laid_out = torch.tensor(ids, device=self.device)
            embeddings = table[laid_out]
            if places:
                index = torch.tensor(list(places), device=self.device)
                embeddings = embeddings.index_copy(0, index, torch.stack(list(places.values())))
            all_ids.append(laid_out)
            all_embeddings.append(embeddings)
        return self.encode_embeddings(torch.stack(all_ids), torch.stack(all_embeddings))

    def _run(self, ids: list[Tensor], embeddings: Tensor | None) -> Conditioning:
        if embeddings is None:
            outputs = self._forward(ids)
        else:
            layer = self.encoders[0].get_input_embeddings()
            handle = layer.register_forward_hook(lambda *_: embeddings)
            try:
                outputs = self._forward(ids)
            finally:
                handle.remove()
        if self.family == "sdxl":
            hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
            return Conditioning(hidden, ids[0], outputs[1].text_embeds, ids[0])
        return Conditioning(outputs[0].last_hidden_state, ids[0], None, ids[0])

    def _forward(self, ids: list[Tensor]) -> list:
        deep = self.family == "sdxl"
        return [encoder(i, output_hidden_states=deep) for encoder, i in zip(self.encoders, ids, strict=True)]
