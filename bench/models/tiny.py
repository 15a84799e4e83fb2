"""The pieces of random models of about a million parameters with the real CLIP vocabulary: for tests, never for results.

The vocabulary comes from the file inside the open_clip wheel, so prompt layout, padding with 49407 and token ids are real.
"""

import gzip
import math
import string
from functools import cache
from typing import Any

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def clip_text_model(width: int, projected: bool = False):
    """A random CLIP text encoder of two layers; torch's generator decides its weights."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


@cache
def clip_tokenizer(pad_token: str = "<|endoftext|>"):
    """OpenAI's CLIP tokenizer, rebuilt from the merges that the open_clip wheel carries; OpenCLIP's pads with "!"."""
    from importlib.resources import files

    from transformers import CLIPTokenizer

    packed = (files("open_clip") / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]]
    symbols = list(_byte_symbols())
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary = {word: place for place, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad_token)


def t5_text_model(width: int):
    """A random T5 text encoder of two layers, with the vocabulary of `t5_tokenizer`."""
    from transformers import T5Config, T5EncoderModel

    shape = {"d_model": width, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), **shape))


@cache
def t5_tokenizer(length: int = 32, words: int = 4000):
    """A tokenizer of T5's class: the first whole words of CLIP's vocabulary, the commonest ones, and single letters for all others."""
    from transformers import T5Tokenizer

    places = clip_tokenizer().get_vocab()
    whole = [piece.removesuffix("</w>") for piece in sorted(places, key=places.__getitem__) if piece.endswith("</w>")]
    common = [word for word in whole if word.isascii() and word.isalpha()][:words]
    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + word, -math.log(rank + 10)) for rank, word in enumerate(common)]
    pieces += [(letter, -12.0) for letter in ("▁", *letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def autoencoder(latent_channels: int, **settings: Any):
    """A random autoencoder that halves the sides; torch's generator decides its weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=16,
        **settings,
    )


def _byte_symbols() -> list[str]:
    """The printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(rest))]
