"""What a model that draws token by token has in place of noise levels: a text layout that ends where the image begins, a sampler of
tokens, and the memory of a sampling run (keys and values of what was read)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.hooks import own_hooks
from vestige.bench.models.text import Encoder

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


class TokenTable(nn.Module):
    """The token embeddings of a language model as a text encoder: the text states that the generator reads."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, ids: Tensor, output_hidden_states: bool = False) -> Tensor:
        return self.table(ids)


class ImagePrompts(Encoder):
    """Layout: padding, begin, text, begin of image. Padding comes first, so that image tokens follow the text at once.

    All prompts have one length, so that a row does not depend on its batch mates. A text stands inside the model's chat template,
    where its tokenizer has one.
    """

    @cached_property
    def around(self) -> tuple[str, str]:
        """What stands before and after the text."""
        end = self.tokenizer.boi_token
        if not self.tokenizer.chat_template:
            return "", end
        asked = [{"role": "user", "content": [{"type": "text", "text": "TEXT"}]}]
        before, after = self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False).split("TEXT")
        return before, after + end

    @cached_property
    def beginning(self) -> list[int]:
        return self.tokenizer(self.around[0]).input_ids

    @cached_property
    def ending(self) -> list[int]:
        return self.token_ids(self.around[1])

    @property
    def begins(self) -> int:
        return len(self.beginning)

    @property
    def room(self) -> int:
        return self.length - len(self.ending)

    def ids(self, prompts: list[str]) -> Tensor:
        return torch.stack([self._padded(self._whole(prompt)) for prompt in prompts])

    def _whole(self, prompt: str) -> list[int]:
        ids = self.tokenizer(prompt.join(self.around)).input_ids
        return ids if len(ids) <= self.length else self._cut([*self.beginning, *self.token_ids(prompt)])

    def layout(self, ids: list[int]) -> Tensor:
        return self._padded(self._cut(ids))

    def first(self, ids: list[int]) -> int:
        return self.length - len(self._cut(ids))

    def _cut(self, ids: list[int]) -> list[int]:
        return [*ids[: self.room], *self.ending]

    def _padded(self, ids: list[int]) -> Tensor:
        return torch.tensor([self.tokenizer.pad_token_id] * (self.length - len(ids)) + ids, device=self.device)

    def last_token(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids),), self.room - 1, device=ids.device)

    def mask(self, ids: Tensor) -> Tensor:
        """(batch, length) False at the padding before the begin."""
        return (ids != self.tokenizer.pad_token_id).cumsum(-1) > 0

    def blinded(self, ids: Tensor) -> Tensor:
        """The same with padding in place of all but begin and begin of image, where it is read: the unconditional rows of guidance."""
        kept = (ids == self.tokenizer.bos_token_id) | (ids == self.ending[-1])
        return ids.masked_fill(~kept, self.tokenizer.pad_token_id)


@dataclass
class TokenScheduler:
    """Draws the next image token; called as a scheduler of diffusers is, so that trajectories and guidance rules hold for it too.

    temperature: divides the logits; 0 takes the likeliest token. top_k: of this many likeliest tokens; None: of all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    timesteps: Tensor = field(default_factory=lambda: torch.arange(0))  # how many image tokens there are before each call

    init_noise_sigma: ClassVar[int] = 1
    ARGUMENTS: ClassVar[tuple[str, ...]] = ("temperature", "top_k")

    @classmethod
    def check(cls, arguments: dict[str, Any]) -> None:
        where = "model.sampler.arguments"
        if unknown := [name for name in arguments if name not in cls.ARGUMENTS]:
            raise ValueError(f"{where}.{unknown[0]} is not known; a model that draws tokens takes: {', '.join(cls.ARGUMENTS)}.")
        asked = cls(**arguments)
        if not isinstance(asked.temperature, int | float) or not 0 <= asked.temperature < float("inf"):
            raise ValueError(f"{where}.temperature={asked.temperature!r} must be a number from 0 (the likeliest token) on, such as 1.0.")
        if asked.top_k is not None and (not isinstance(asked.top_k, int) or asked.top_k < 1):
            raise ValueError(f"{where}.top_k={asked.top_k!r} must be a whole number from 1 on, or null (all tokens).")

    def step(self, logits: Tensor, timestep: Tensor, tokens: Tensor, generator: list[torch.Generator]) -> Stepped:
        """Tokens (batch, n + 1): drawn on the CPU with a generator for each row."""
        if self.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            scaled = logits.float().cpu() / self.temperature
            if self.top_k is not None and self.top_k < scaled.shape[-1]:
                scaled = scaled.masked_fill(scaled < scaled.topk(self.top_k).values[:, -1:], -torch.inf)
            chosen = torch.cat([torch.multinomial(p, 1, generator=g) for p, g in zip(scaled.softmax(-1), generator, strict=True)])
        return Stepped(torch.cat([tokens, chosen.to(tokens)[:, None]], 1))


@dataclass
class Stepped:
    prev_sample: Tensor


def read(model: nn.Module, embeds: Tensor, cond: Conditioning, cache: Any = None) -> Tensor:
    """(batch, tokens, width) last states of the language model for `embeds`, which end a sequence that begins with `cond`.

    cache: keys and values of what stands before them.
    """
    length = embeds.shape[1] + (cache.get_seq_length() if cache is not None else 0)
    assert cond.mask is not None, "the layout has padding"
    mask = nn.functional.pad(cond.mask, (0, length - cond.mask.shape[1]), value=True)
    return model(inputs_embeds=embeds, attention_mask=mask, cache=cache, use_cache=cache is not None).last_hidden_state


Embedded = Callable[[Tensor], Tensor]  # image tokens (batch, n) to what the language model reads of them
MEMORY: ContextVar[list[Remembered] | None] = ContextVar("memory", default=None)
MOST = 4  # sequences remembered in one sampling run: a guidance rule seldom asks for more conditionings in separate calls


@contextmanager
def remembering() -> Iterator[None]:
    """Inside, a sequence that goes on where one ended is not read again."""
    token = MEMORY.set([])
    try:
        yield
    finally:
        MEMORY.reset(token)


@dataclass
class Remembered:
    """A batch that was read: by which model in which state, its text states, its image tokens, its keys and values."""

    state: tuple
    cond: Conditioning
    tokens: Tensor
    cache: Any

    def goes_on_as(self, state: tuple, cond: Conditioning, tokens: Tensor) -> bool:
        done, mine = self.tokens.shape[1], self.cond
        if self.state != state or mine.hidden.shape != cond.hidden.shape or done >= tokens.shape[1]:
            return False
        assert mine.mask is not None and cond.mask is not None, "the layout has padding"
        return torch.equal(mine.hidden, cond.hidden) and torch.equal(mine.mask, cond.mask) and torch.equal(self.tokens, tokens[:, :done])


def last_state(pipe: Pipe, model: nn.Module, embedded: Embedded, tokens: Tensor, cond: Conditioning) -> Tensor:
    """(batch, width) state at the last image token, from memory as far as the same sequence was read before.

    Keys and values stay those of the call that made them: an adapter whose strength changes from step to step acts on new tokens.
    """
    from transformers import DynamicCache

    known = MEMORY.get()
    if known is None:
        return read(model, torch.cat([cond.hidden, embedded(tokens)], 1), cond)[:, -1]
    state = _state(pipe, model)
    past = next((p for p in known if p.goes_on_as(state, cond, tokens)), None)
    if past is None:
        past = Remembered(state, cond, tokens, DynamicCache(config=model.config))
        new = torch.cat([cond.hidden, embedded(tokens)], 1)
    else:
        new = embedded(tokens[:, past.tokens.shape[1] :])
    states = read(model, new, cond, past.cache)
    past.tokens = tokens
    known[:] = [past, *(p for p in known if p is not past)][:MOST]
    return states[:, -1]


def _state(pipe: Pipe, model: nn.Module) -> tuple:
    """Which model it is, and what was done to it: hooks in force and writes to its weights."""
    hooks = tuple(id(hook) for module in model.modules() for hook in own_hooks(module))
    return id(model), pipe.hooks_on, hooks, tuple((p.data_ptr(), p._version) for p in model.parameters())
