"""Janus and Janus-Pro (Wu et al., CVPR 2025, arXiv 2410.13848; Chen et al. 2025, arXiv 2501.17811): a language model that draws an
image token by token, and the autoencoder whose codes the tokens are. The classes of transformers, which sample from torch's global
generator; here each row has its own. Tests compare the tokens with theirs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vestige.bench.contract.types import ModelSpec, Sampler
from vestige.bench.models.conditioning import NULL, Conditioning
from vestige.bench.models.families._tokens import ImagePrompts, TokenScheduler, TokenTable, last_state, read, remembering
from vestige.bench.models.families.base import Corruption, Family
from vestige.bench.models.folders import folder_of, snapshot_of
from vestige.bench.models.parts import TextEncoder
from vestige.bench.models.process import NoiseProcess
from vestige.bench.models.text import TextSide

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


class Janus(Family):
    """Encoded images are tokens (batch, tokens), whole numbers. `x` of a call are the image tokens so far and `level` is their number;
    a vector of numbers asks for the answers after so many tokens each, all from one call (`loss`)."""

    name = "janus"
    denoiser = "language_model"
    tokenizers = ("tokenizer",)
    encoders = {"language_model": "lm"}
    classes = {
        "language_model": ("LlamaModel",),
        "generation_embeddings": ("Embedding",),
        "generation_aligner": ("JanusVQVAEAlignerMLP",),
        "generation_head": ("JanusVQVAEHead",),
        "vqmodel": ("JanusVQVAE",),
    }
    offers = ("draw", "outputs", "loss", "words", "states", "groups", "tokens")
    # Text and image tokens share all layers, so what acts on text acts on the image tokens too.
    groups = {
        "text_kv": r"self_attn\.[kv]_proj\.",
        "attention": r"self_attn\.",
        "mlp": r"\.mlp\.",
        "text_input": r"^embed_tokens\.",
        "joint": r"^layers\.",
        "all": "",
    }
    text_lengths = {"lm": 128}
    library = "transformers"
    index = "config.json"
    own_sampler = True

    def load(self, spec: ModelSpec) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        from transformers import AutoConfig, JanusForConditionalGeneration, JanusProcessor

        where, at = folder_of(spec) or snapshot_of(spec) or spec.repo, {"revision": spec.revision}
        kind = AutoConfig.from_pretrained(where, **at).model_type
        if kind != "janus":
            raise ValueError(f"model.repo={spec.repo!r} holds a model of type {kind!r}, not janus. Change model.family or model.repo.")
        net = JanusForConditionalGeneration.from_pretrained(where, dtype=getattr(torch, spec.dtype), use_safetensors=True, **at)
        processor = JanusProcessor.from_pretrained(where, **at)
        tokenizer = processor.tokenizer
        tokenizer.chat_template = processor.chat_template
        return self.parts_of(net), [tokenizer], TokenScheduler(), {}

    def parts_of(self, net: nn.Module) -> dict[str, Any]:
        """The parts that draw; not those that read images or write text."""
        return {part: getattr(net.model, part) for part in self.parts}

    # Text

    def text(self, parts: dict[str, Any], tokenizers: list) -> TextSide:
        table = cast(TextEncoder, TokenTable(parts[self.denoiser].get_input_embeddings()))
        reader = ImagePrompts("lm", tokenizers[0], table, self.text_lengths["lm"])

        def condition(ids: list[Tensor], outputs: list[Any]) -> Conditioning:
            return Conditioning(outputs[0], ids[0], None, ids[0], (("lm", ids[0].shape[1]),), reader.mask(ids[0]))

        return TextSide(self.name, [reader], condition)

    def unconditional(self, pipe: Pipe, cond: Conditioning) -> Conditioning:
        """The same layout with padding for words: the model was trained so, and it depends on how many words there are."""
        reader = pipe.text.readers[0]
        assert isinstance(reader, ImagePrompts), "made by `text`"
        return pipe.text.encode_ids(reader.blinded(cond.ids)).as_branch(NULL)

    # Image tokens

    def tokens(self, pipe: Pipe) -> int:
        """How many an image has."""
        return pipe.parts["vqmodel"].config.num_patches ** 2

    def embedded(self, pipe: Pipe, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) what the language model reads of image tokens."""
        return pipe.parts["generation_aligner"](pipe.parts["generation_embeddings"](tokens))

    def predict(self, pipe: Pipe, denoiser: nn.Module, x: Tensor, level: Tensor | int, cond: Conditioning) -> Tensor:
        """Logits of the next token, (batch, codes); with a vector of levels (batch, levels, codes)."""
        level, head = torch.as_tensor(level), pipe.parts["generation_head"]
        if not level.ndim:
            return head(last_state(pipe, denoiser, partial(self.embedded, pipe), x, cond))
        states = read(denoiser, torch.cat([cond.hidden, self.embedded(pipe, x)], 1), cond)
        return head(states[:, cond.hidden.shape[1] - 1 + level.to(states.device)])

    def loss(self, pipe: Pipe, encoded: Tensor, cond: Conditioning, at: Corruption, module: nn.Module | None = None) -> Tensor:
        """(batch,) mean cross-entropy of an image's tokens, each told those before it."""
        logits = pipe.predict(encoded[:, :-1], torch.arange(encoded.shape[1]), cond, module).float()
        return nn.functional.cross_entropy(logits.transpose(1, 2), encoded, reduction="none").mean(1)

    def corruption(self, pipe: Pipe, encoded: Tensor, generator: torch.Generator) -> Corruption:
        """Nothing: training adds no noise to tokens."""
        return Corruption(torch.empty(len(encoded), 0), torch.empty(len(encoded), 0))

    def process(self, scheduler: Any) -> NoiseProcess:
        raise ValueError("models of family janus draw token by token: they have no noise levels, so nothing can be noised or inverted.")

    # Sampling

    def check_sampler(self, sampler: Sampler) -> None:
        if sampler.scheduler != "tokens":
            raise ValueError(f"model.sampler.scheduler={sampler.scheduler!r}: models of family janus draw with: tokens.")
        TokenScheduler.check(sampler.arguments)

    def scheduler_for(self, pipe: Pipe, sampler: Sampler) -> TokenScheduler:
        self.check_sampler(sampler)
        return TokenScheduler(**sampler.arguments)

    def set_timesteps(self, scheduler: TokenScheduler, pipe: Pipe, sampler: Sampler) -> None:
        tokens, side = self.tokens(pipe), self.native_size(pipe)[0] * pipe.latent_factor
        if (sampler.steps, sampler.height, sampler.width) != (tokens, side, side):
            raise ValueError(
                f"model {pipe.spec.name!r} draws {tokens} tokens for {side} x {side} pixels; its sampler asks for {sampler.steps} steps "
                f"and {sampler.height} x {sampler.width}. Type model.sampler.steps={tokens} model.sampler.height={side} "
                f"model.sampler.width={side}."
            )
        scheduler.timesteps = torch.arange(tokens, device=pipe.device)

    def sample(self, *asked: Any) -> Tensor:
        with remembering():
            return super().sample(*asked)

    def noise(self, pipe: Pipe, seeds: list[int], height: int, width: int) -> Tensor:
        """No token yet."""
        return torch.empty((len(seeds), 0), dtype=torch.long, device=pipe.device)

    # Images

    def latent_factor(self, pipe: Pipe) -> int:
        return 2 ** (len(pipe.parts["vqmodel"].config.channel_multiplier) - 1)

    def native_size(self, pipe: Pipe) -> tuple[int, int]:
        return (pipe.parts["vqmodel"].config.num_patches,) * 2

    def decode(self, pipe: Pipe, latents: Tensor) -> Tensor:
        return pipe.parts["vqmodel"].decode(latents).float()

    def encode_images(self, pipe: Pipe, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        vqmodel = pipe.parts["vqmodel"]
        return vqmodel.encode(pixels.to(pipe.device, vqmodel.dtype)).image_tokens.view(len(pixels), -1)

    # A random model

    def tiny(self, seed: int = 0) -> tuple[dict[str, Any], list, Any, dict[str, Any]]:
        return self.parts_of(tiny_net(seed)), [tiny_tokenizer()], TokenScheduler(), {}

    def question(self, pipe: Pipe, height: int, width: int) -> tuple[Tensor, Tensor]:
        """All tokens of an image at once."""
        n = self.tokens(pipe)
        return torch.zeros(1, n - 1, dtype=torch.long), torch.arange(n)

    def tiny_sampler(self, pipe: Pipe) -> Sampler:
        return Sampler("tokens", {"temperature": 1.0, "top_k": None}, self.tokens(pipe), 3.0, 16, 16)


def tiny_net(seed: int = 0) -> nn.Module:
    """A random Janus that draws 16 tokens for 16 x 16 pixels."""
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

    width, drawn = 64, {"image_size": 16, "patch_size": 4, "num_image_tokens": 16, "projection_dim": 64}
    text = LlamaConfig(vocab_size=262, hidden_size=width, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    text.initializer_range = 0.2  # so that words show in the tokens of a random model
    vision = JanusVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, **drawn)
    codes = JanusVQVAEConfig(num_embeddings=64, latent_channels=32, base_channels=32, channel_multiplier=[1, 1, 1], num_res_blocks=1)
    codes.projection_dim = codes.image_token_embed_dim = width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return JanusForConditionalGeneration(JanusConfig(text_config=text, vision_config=vision, vq_config=codes)).eval()


def tiny_tokenizer() -> Any:
    """One token for each byte, and the names of the special tokens of Janus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<begin>", "eos_token": "<end>", "pad_token": "<pad>"}
    image = {"image_token": "<image>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special.values(), *image.values()]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin = (special["bos_token"], words.index(special["bos_token"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=image, **special)


FAMILY = Janus()
