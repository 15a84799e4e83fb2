"""What searches over single tokens share: which tokens they may use, how tokens are laid out, and the text that types them."""

import torch
from torch import Tensor

from vestige.bench.contract.types import ModelSpec, PromptSet
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.families import family
from vestige.bench.models.text import TextSide


def allowed_tokens(text: TextSide, typeable: bool, banned: tuple[str, ...] = ()) -> Tensor:
    """Ids a search may use: never begin, end or padding; with `typeable` only those that print as themselves.

    `banned`: no token whose text holds one of these words, as a prompt filter would refuse them.
    """
    tokenizer = text.readers[0].tokenizer
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
    return "".join(c for c in text.readers[0].tokenizer.decode(ids) if c.isprintable()).strip()


def room(text: TextSide) -> int:
    """How many tokens a text may have: what is read, without begin and end."""
    return text.readers[0].room - len(text.readers[0].beginning)


def own_positions(text: TextSide, k: int) -> slice:
    """Where the k tokens of a text stand in its layout."""
    reader = text.readers[0]
    begin = reader.first([*reader.beginning, *[0] * k]) + len(reader.beginning)
    return slice(begin, begin + k)


def laid_out(text: TextSide, ids: Tensor, padding: int | None = None) -> Tensor:
    """(rows, k) tokens -> (rows, length): begin, tokens, end, padding (`padding` in place of the model's own)."""
    reader, (rows, k) = text.readers[0], ids.shape
    if k > room(text):
        raise ValueError(f"{k} tokens do not fit: the model reads {text.length}, begin and end included.")
    own, empty = own_positions(text, k), reader.layout([*reader.beginning, *[0] * k])
    full = empty.to(ids.device).repeat(rows, 1)
    full[:, own] = ids
    if padding is not None:
        full[:, own.stop + 1 :] = padding
    return full


def pooled_of(text: TextSide, ids: Tensor) -> Tensor:
    """(rows, width) state at the end token: CLIP's pooled output before its projection."""
    return end_state(text, text.encode_ids(ids), ids)


def end_state(text: TextSide, cond: Conditioning, ids: Tensor) -> Tensor:
    """(rows, width) what the first text encoder says of a whole text, given its conditioning: the state at the end token.

    Where the generator reads no states of that encoder, it reads this very state, projected or not, as its pooled vector.
    """
    reader = text.readers[0]
    if reader.name not in dict(cond.layout):
        assert cond.pooled is not None, "an encoder is read by its states or pooled"
        return cond.pooled.float()
    rows = cond.segment(reader.name).rows.float()
    return rows[torch.arange(len(ids), device=ids.device), reader.last_token(ids) + 1]


def with_tokens(prompts: PromptSet, text: TextSide, ids: list[list[int]], **columns: list) -> PromptSet:
    """The rows asked with the text of these tokens: what a user can type is what gets scored.

    Columns: adv_ids (what was optimised), roundtrip_ok (whether the text reads back as exactly these tokens).
    """
    texts = [typed(text, row) for row in ids]
    columns |= adversarial_columns(ids, [text.token_ids(t) == row for t, row in zip(texts, ids, strict=True)])
    return prompts.with_prompts(texts, **columns)


def adversarial_columns(ids: list[list[int]], roundtrip_ok: list[bool]) -> dict[str, list]:
    return {"adv_ids": ["ids " + " ".join(map(str, row)) if row else "" for row in ids], "roundtrip_ok": roundtrip_ok}


def unsupported_text(attack: str, model: ModelSpec) -> str | None:
    """Why the text encoder alone tells this attack nothing, or None."""
    known = family(model.family)
    if known.denoiser not in known.encoders:
        return None
    return (
        f"not applicable: {attack} asks what a text encoder says of a text, and in models of family {model.family} no part but the one "
        f"that draws reads it (model {model.name!r})."
    )
