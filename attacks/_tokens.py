"""What searches over single tokens share: which tokens they may use, how tokens are laid out, and the text that types them."""

import torch
from torch import Tensor

from vestige.bench.contract.types import PromptSet
from vestige.bench.models.text import TextSide


def allowed_tokens(text: TextSide, typeable: bool, banned: tuple[str, ...] = ()) -> Tensor:
    """Ids a search may use: never begin, end or padding; with `typeable` only those that print as themselves.

    `banned`: no token whose text holds one of these words, as a prompt filter would refuse them.
    """
    tokenizer = text.tokenizers[0]
    special = set(tokenizer.all_special_ids)
    ids = [k for k in range(text.embedding_table().shape[0]) if k not in special and k < len(tokenizer)]
    if typeable or banned:
        texts = tokenizer.batch_decode([[k] for k in ids])
        pairs = list(zip(ids, texts, strict=True))
        if typeable:
            pairs = [(k, word) for k, word in pairs if word.strip() and word.isprintable() and "\ufffd" not in word]
        ids = [k for k, word in pairs if not any(bad.lower() in word.lower() for bad in banned)]
    return torch.tensor(ids, device=text.device)


def typed(text: TextSide, ids: list[int]) -> str:
    """The tokens as text that a keyboard can write."""
    return "".join(c for c in text.tokenizers[0].decode(ids) if c.isprintable()).strip()


def laid_out(text: TextSide, ids: Tensor, padding: int | None = None) -> Tensor:
    """(rows, k) tokens -> (rows, length): begin, tokens, end, padding (`padding` in place of the model's own)."""
    tokenizer, (rows, k) = text.tokenizers[0], ids.shape
    if k + 2 > text.length:
        raise ValueError(f"{k} tokens do not fit: the model reads {text.length}, begin and end included.")
    full = torch.full((rows, text.length), tokenizer.pad_token_id if padding is None else padding, device=ids.device)
    full[:, 0], full[:, k + 1], full[:, 1 : k + 1] = tokenizer.bos_token_id, tokenizer.eos_token_id, ids
    return full


def with_tokens(prompts: PromptSet, text: TextSide, ids: list[list[int]], **columns: list) -> PromptSet:
    """The rows asked with the text of these tokens: what a user can type is what gets scored.

    Columns: adv_ids (what was optimised), roundtrip_ok (whether the text reads back as exactly these tokens).
    """
    texts = [typed(text, row) for row in ids]
    columns |= adversarial_columns(ids, [text.token_ids(t) == row for t, row in zip(texts, ids, strict=True)])
    return prompts.with_prompts(texts, **columns)


def adversarial_columns(ids: list[list[int]], roundtrip_ok: list[bool]) -> dict[str, list]:
    return {"adv_ids": ["ids " + " ".join(map(str, row)) if row else "" for row in ids], "roundtrip_ok": roundtrip_ok}
