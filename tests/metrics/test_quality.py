"""PickScore, ImageReward and the aesthetic head on random weights of their architectures; ImageReward against its official code."""

import pandas as pd
import pytest
import torch
from PIL import Image

from vestige.bench.contract.plugin import MetricContext
from vestige.bench.contract.types import ImageSet
from vestige.bench.run import contract_checks
from vestige.bench.vision import features, preferences
from vestige.metrics.quality import Aesthetic, ImageReward, PickScore

TEXTS = ["a dog", "a cat on a red mat", "a dog"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "on", "red", "dog", "cat", "mat"]


def pixels() -> torch.Tensor:
    """uint8 [3, 3, 64, 64], the same everywhere."""
    place = torch.arange(3 * 3 * 64 * 64).view(3, 3, 64, 64)
    return (place * 7 + place // 64 * 13 + place // 4096 * 101).remainder(256).to(torch.uint8)


@pytest.fixture
def images(tmp_path) -> ImageSet:
    for k, image in enumerate(pixels()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")
    return ImageSet(tmp_path, pd.DataFrame({"row_id": list("abc"), "rep": 0, "file": [f"{k}.png" for k in range(3)], "prompt": TEXTS}))


@pytest.fixture
def context():
    return MetricContext([contract_checks.DOG], None, features.extract)


def test_pick_score_is_the_scaled_cosine_of_image_and_text(images, context, tmp_path, gpu):
    from transformers import CLIPConfig, CLIPModel

    from vestige.bench.models.tiny import clip_tokenizer

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 24}
    config = CLIPConfig(
        text_config={**small, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=24,
        logit_scale_init_value=3.0,
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(tmp_path / "tiny-pick")
    metric = PickScore(str(tmp_path / "tiny-pick"), 2)
    assert metric.supports(contract_checks.tiny_of(), []) is None
    got = metric.score(images, context).per_image["pick_score"]
    net = CLIPModel.from_pretrained(tmp_path / "tiny-pick").eval()
    with torch.no_grad():
        words = clip_tokenizer()(TEXTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
        written = net.text_projection(net.text_model(input_ids=words).pooler_output)
        seen = net.visual_projection(net.vision_model(pixel_values=preferences.prepared(pixels(), 64)).pooler_output)
        want = torch.tensor(3.0).exp() * torch.cosine_similarity(seen, written)
    assert got.tolist() == pytest.approx(want.tolist(), rel=1e-4) and want.std() > 0
    with gpu.loading():
        rate = preferences.pick_score(str(tmp_path / "tiny-pick"))
    with gpu.computing():
        assert str(rate(pixels(), TEXTS).device) == "cpu"


def random_reward() -> dict[str, torch.Tensor]:
    """Weights under ImageReward's own names, a few thousand times fewer: width 128 and 192, two layers each."""
    v, t = "blip.visual_encoder.", "blip.text_encoder."
    shapes = {f"{v}cls_token": (1, 1, 128), f"{v}pos_embed": (1, 17, 128), f"{v}patch_embed.proj.weight": (128, 3, 16, 16)}
    shapes |= {f"{v}patch_embed.proj.bias": (128,), f"{v}norm.weight": (128,), f"{v}norm.bias": (128,)}
    shapes |= {f"{t}embeddings.word_embeddings.weight": (60, 192), f"{t}embeddings.position_embeddings.weight": (64, 192)}
    shapes |= {f"{t}embeddings.LayerNorm.weight": (192,), f"{t}embeddings.LayerNorm.bias": (192,)}

    def linear(name: str, after: int, before: int) -> None:
        shapes.update({f"{name}.weight": (after, before), f"{name}.bias": (after,)})

    for k in range(2):
        block, layer = f"{v}blocks.{k}.", f"{t}encoder.layer.{k}."
        sizes = {"attn.qkv": (384, 128), "attn.proj": (128, 128), "mlp.fc1": (512, 128), "mlp.fc2": (128, 512)}
        for name, size in sizes.items():
            linear(block + name, *size)
        for attention, width in (("attention", 192), ("crossattention", 128)):
            for name, before in (("self.query", 192), ("self.key", width), ("self.value", width), ("output.dense", 192)):
                linear(f"{layer}{attention}.{name}", 192, before)
        linear(f"{layer}intermediate.dense", 256, 192), linear(f"{layer}output.dense", 192, 256)
        norms = [f"{block}norm1", f"{block}norm2"]
        norms += [f"{layer}{name}.LayerNorm" for name in ("attention.output", "crossattention.output", "output")]
        shapes |= {f"{norm}.{part}": (128 if norm.startswith(v) else 192,) for norm in norms for part in ("weight", "bias")}
    for place, after, before in ((0, 1024, 192), (2, 128, 1024), (4, 64, 128), (6, 16, 64), (7, 1, 16)):
        linear(f"mlp.layers.{place}", after, before)
    made = {}
    for k, (name, shape) in enumerate(sorted(shapes.items())):
        noise = 0.15 * torch.randn(shape, generator=torch.Generator().manual_seed(k))
        made[name] = 1 + noise if "norm" in name.lower() and name.endswith("weight") else noise
    return made


@pytest.fixture
def reward(tmp_path):
    unused = {"blip.vision_proj.weight": torch.zeros(4, 128), "blip.text_encoder.embeddings.position_ids": torch.arange(64)}
    torch.save(random_reward() | unused, tmp_path / "ImageReward.pt")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    return ImageReward(str(tmp_path / "ImageReward.pt"), str(tmp_path / "bert"), 2)


def test_image_reward_gives_the_numbers_of_its_official_code(images, context, reward):
    """THUDM/ImageReward@0f5fa3e with transformers 4.37.2 on these weights, images and token ids."""
    assert reward.supports(contract_checks.tiny_of(), []) is None
    got = reward.score(images, context).per_image["image_reward"]
    assert got.tolist() == pytest.approx([14.499247, 18.636265, 15.198210], rel=1e-4)


def test_image_reward_on_a_gpu_answers_on_the_cpu(reward, gpu):
    with gpu.loading():
        rate = preferences.image_reward(reward.weights, reward.tokenizer)
    with gpu.computing():
        assert str(rate(pixels(), TEXTS).device) == "cpu"


def test_weights_that_do_not_fit_and_files_that_hold_more_than_tensors_are_refused(images, context, reward, tmp_path):
    weights = random_reward()
    del weights["blip.visual_encoder.blocks.1.attn.qkv.bias"]
    torch.save(weights, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"Missing: \['encoder\.layers\.1\.self_attn\.qkv\.bias'\]"):
        ImageReward(str(tmp_path / "cut.pt"), reward.tokenizer, 2).score(images, context)
    torch.save({"mlp": contract_checks.DOG}, tmp_path / "code.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        ImageReward(str(tmp_path / "code.pt"), reward.tokenizer, 2).score(images, context)


def test_the_aesthetic_head_is_one_affine_map_of_unit_features(images, context, tmp_path):
    sizes = ((0, 1024, 128), (2, 128, 1024), (4, 64, 128), (6, 16, 64), (7, 1, 16))
    draw = torch.Generator().manual_seed(0)
    weights = {f"layers.{k}.weight": 0.1 * torch.randn(after, before, generator=draw) for k, after, before in sizes}
    weights |= {f"layers.{k}.bias": torch.randn(after, generator=draw) for k, after, _ in sizes}
    torch.save(weights, tmp_path / "head.pth")
    metric = Aesthetic("clip_emoji", str(tmp_path / "head.pth"))
    assert metric.supports(contract_checks.tiny_of(), []) is None and set(metric.inputs()) == {"head", "weights"}
    got = metric.score(images, context).per_image["aesthetic"].tolist()
    x = torch.nn.functional.normalize(features.extract(images, "clip_emoji"), dim=-1)
    for k, _, _ in sizes:
        x = x @ weights[f"layers.{k}.weight"].T + weights[f"layers.{k}.bias"]
    assert got == pytest.approx(x[:, 0].tolist(), rel=1e-4)


def test_missing_weights_are_named_with_the_way_to_get_them(images, context):
    assert "huggingface.co/THUDM/ImageReward" in ImageReward("nowhere.pt", "nowhere/bert", 2).supports(contract_checks.tiny_of(), [])
    assert "improved-aesthetic-predictor" in Aesthetic("clip_emoji", "nowhere.pth").supports(contract_checks.tiny_of(), [])
    assert "is no folder" in PickScore("./nowhere", 2).supports(contract_checks.tiny_of(), [])
    with pytest.raises(ValueError, match="published lists are not stored"):
        hidden = ImageSet(images.folder, images.index.assign(private=True))
        PickScore("./nowhere", 2).score(hidden, context)
