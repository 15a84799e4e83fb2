"""Which token rows of encoded texts an edit reads. BOS is row 0; an empty text has its \"last token\" there."""

import torch
from torch import Tensor

from vestige.bench.models.pipe import Pipe


def last_rows(pipe: Pipe, text: str) -> Tensor:
    """[1, d]: the last token of the text."""
    cond = pipe.encode([text])
    return cond.hidden[0, pipe.text.last_token(cond.ids)]


def aligned_rows(pipe: Pipe, edit: str, goal: str) -> tuple[Tensor, Tensor]:
    """Two [n, d]: both texts from their last token to the end of the padding, shifted so that last tokens meet."""
    cond = pipe.encode([edit, goal])
    first = pipe.text.last_token(cond.ids).tolist()
    n = pipe.text.length - max(first)
    return cond.hidden[0, first[0] : first[0] + n], cond.hidden[1, first[1] : first[1] + n]


def all_rows(pipe: Pipe, texts: list[str]) -> Tensor:
    """[len(texts) * length, d]: every position, padding included."""
    return pipe.encode(texts).hidden.flatten(0, 1)


def context_rows(pipe: Pipe, asked: list[str], wanted: list[str]) -> tuple[Tensor, Tensor]:
    """Two [n, d], pair by pair: the words that a pair of sentences shares at both ends, and the padding, without what differs.

    Shilin-LU/MACE@057e7a6, src/cfr_utils.py: the longest common prefix and suffix (begin and end token included), then
    padding, as many rows of either sentence as the longer one has.
    """
    cond = pipe.encode([*asked, *wanted])
    length = pipe.text.length
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for k, pair in enumerate(zip(asked, wanted, strict=True)):
        ids = [[-1, *pipe.text.token_ids(text), -2] for text in pair]
        head = shared_head(*ids)
        tail = shared_head(*(tokens[: head - 1 : -1] for tokens in ids))
        kept = length - max(len(tokens) - tail - head for tokens in ids)
        for side, tokens in enumerate(ids):
            places = [*range(head), *range(len(tokens) - tail, length)][:kept]
            rows[side].append(cond.hidden[k + side * len(asked), places])
    return torch.cat(rows[0]), torch.cat(rows[1])


def shared_head(one: list[int], two: list[int]) -> int:
    """Length of the longest common beginning."""
    return next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
