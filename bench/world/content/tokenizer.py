"""A small CLIP tokenizer for the emoji world: its own vocabulary, the layout of Stable Diffusion 1.x.

Layout: begin, tokens, end, then end again as padding up to 77, so token-position rules and attacks meet the real thing.
"""

import json

from vestige.bench.world.content import captions, drawing

VOCABULARY = 1500
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def build(words: list[str]):
    """Train the byte-pair encoding on captions, names, synonyms and plain English `words`; returns a CLIPTokenizer."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    model = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    model.normalizer = normalizers.Lowercase()
    pieces = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    shown = [captions.caption(spec, index) for index, spec in enumerate(drawing.draw_specs(3000, seed=0))]
    # Every printable character at a word's end and inside a word, so that typed text never meets an unknown symbol.
    letters = [chr(code) for code in range(33, 127)]
    model.train_from_iterator(letters * 3 + [f"{c}a{c}" for c in letters] + shown + captions.every_word() * 20 + words, trainer)
    learnt = json.loads(model.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learnt["merges"]]
    return CLIPTokenizer(
        vocab=learnt["vocab"], merges=merges, unk_token=END, bos_token=BEGIN, eos_token=END, pad_token=END, model_max_length=77
    )
