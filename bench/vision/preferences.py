"""Networks that predict human preference: PickScore, ImageReward and the aesthetic predictor's head.

Each is built here from its weights alone, since the published packages ask for old versions of transformers. None was run
with its published weights; all were run with random weights of the same architecture, ImageReward also against its official
code (THUDM/ImageReward@0f5fa3e).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vestige.bench.models import hub
from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.vision.pixels import CLIP, at_side, normalised, square

REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072  # of the rewards on ImageReward's own data
REWARD_TOKENS = 35
HEAD_WIDTH = 64  # per attention head, in ViT-L and in BERT


def prepared(images: Tensor, side: int) -> Tensor:
    """uint8 [n, 3, h, w] -> CLIP's input: the middle square at this side, bicubic, antialiased, normalised."""
    return normalised(at_side(square(images).float() / 255, side), **CLIP)


@per_device
def pick_score(model: str) -> Callable[[Tensor, list[str]], Tensor]:
    """(images, their texts) -> [n] logit scale x cosine (Kirstain et al. 2023, arXiv 2305.01569), about 15 to 25.

    model: hub id or folder of a transformers CLIPModel. Its own forward pass is used, because what get_image_features returns
    changed with transformers 5. Texts are tokenised with CLIP's vocabulary, which all CLIP models of the hub share.
    """
    from transformers import CLIPModel

    from vestige.bench.models.tiny import clip_tokenizer

    net = placed(CLIPModel.from_pretrained(hub.folder(model, f"model={model}"), use_safetensors=True))
    side = net.config.vision_config.image_size

    @torch.no_grad()
    def score(images: Tensor, texts: list[str]) -> Tensor:
        words = clip_tokenizer()(texts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(net.device)
        found = net(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=prepared(beside(net, images), side))
        return (net.logit_scale.exp() * F.cosine_similarity(found.image_embeds, found.text_embeds)).cpu()

    return score


def linear_head(weights: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """ "layers.<k>.weight" and ".bias" -> features [n, d] to [n]. The published heads have no activation between their layers."""
    places = sorted(int(name.split(".")[1]) for name in weights if name.endswith(".weight"))

    def apply(x: Tensor) -> Tensor:
        for k in places:
            x = F.linear(x, weights[f"layers.{k}.weight"].float(), weights[f"layers.{k}.bias"].float())
        return x[:, 0]

    return apply


@cache
def aesthetic_head(file: str) -> Callable[[Tensor], Tensor]:
    """The improved aesthetic predictor (LAION): unit CLIP ViT-L/14 image features [n, 768] -> [n], about 1 to 10."""
    return linear_head(_tensors(aesthetic_file(file)))


def aesthetic_file(file: str) -> Path:
    where = "github.com/christophschuhmann/improved-aesthetic-predictor (sac+logos+ava1-l14-linearMSE.pth)"
    return hub.file(file, "metric aesthetic, head", where)


def reward_file(file: str) -> Path:
    return hub.file(file, "metric image_reward, weights", "huggingface.co/THUDM/ImageReward (ImageReward.pt)")


@per_device
def image_reward(file: str, tokenizer: str) -> Callable[[Tensor, list[str]], Tensor]:
    """(images, their texts) -> [n] rewards (Xu et al. 2023, arXiv 2304.05977), roughly standard normal.

    file: ImageReward.pt, a BLIP with a head; its sizes are read off the weights. tokenizer: hub id or folder of BERT's.
    """
    from transformers import BertTokenizer

    weights = _tensors(reward_file(file))
    seer, reader = _vision(_under(weights, "blip.visual_encoder.")), _text(_under(weights, "blip.text_encoder."))
    head = linear_head({name: beside(reader, weight) for name, weight in _under(weights, "mlp.").items()})
    words = BertTokenizer.from_pretrained(hub.folder(tokenizer, f"tokenizer={tokenizer}", weights=False))
    side = seer.config.image_size

    @torch.no_grad()
    def score(images: Tensor, texts: list[str]) -> Tensor:
        asked = words(texts, padding="max_length", truncation=True, max_length=REWARD_TOKENS, return_tensors="pt")
        asked = beside(reader, asked)
        seen = seer(pixel_values=prepared(beside(seer, images), side)).last_hidden_state
        read = reader(
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )
        return ((head(read.last_hidden_state[:, 0]) - REWARD_MEAN) / REWARD_STD).cpu()

    return score


# BLIP's own names -> transformers' names
VISION_NAMES = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.", "encoder.layers."),
    (".attn.proj.", ".self_attn.projection."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


def _vision(weights: dict[str, Tensor]):
    from transformers import BlipVisionConfig, BlipVisionModel

    places, width = weights["pos_embed"].shape[1:]
    patch = weights["patch_embed.proj.weight"].shape[-1]
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(weights, "blocks."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round((places - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # timm's, not the 1e-5 of transformers' default
    )
    renamed = {}
    for name, tensor in weights.items():
        for theirs, ours in VISION_NAMES:
            name = name.replace(theirs, ours)
        renamed[f"post_layernorm{name.removeprefix('norm')}" if name.startswith("norm.") else name] = tensor
    return _filled(BlipVisionModel(config), renamed)


def _text(weights: dict[str, Tensor]):
    from transformers import BlipTextConfig, BlipTextModel

    words, width = weights["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(weights, "encoder.layer."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        is_decoder=True,  # gives its layers cross-attention; the mask stays one of an encoder
    )
    return _filled(BlipTextModel(config, add_pooling_layer=False), weights)


def _filled(net: torch.nn.Module, weights: dict[str, Tensor]) -> torch.nn.Module:
    lost, extra = net.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    extra = [name for name in extra if not name.endswith("position_ids")]
    if lost or extra:
        raise ValueError(f"{type(net).__name__}: the weights do not fit. Missing: {lost[:3]}; unknown: {extra[:3]}.")
    return placed(net)


def _layers(weights: dict[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix))


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not found:
        raise ValueError(f"the weights hold nothing under {prefix!r}; they begin with {sorted(weights)[:3]}.")
    return found


def _tensors(file: Path) -> dict[str, Tensor]:
    """A file of tensors alone: anything else in a pickle is refused."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, weights_only=True, map_location="cpu")
