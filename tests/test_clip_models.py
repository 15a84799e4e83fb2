"""CLIP models of transformers give the vectors that transformers itself gives."""

import pytest
import torch
from fake_gpu import NAME, where

from vestige.bench.models.tiny import clip_tokenizer
from vestige.bench.vision import clip_models, features
from vestige.bench.vision.pixels import CLIP, normalised


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    parts = {"text_config": CLIPTextConfig(**size, **ends).to_dict(), "vision_config": CLIPVisionConfig(**size, image_size=64).to_dict()}
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**parts, projection_dim=16)).eval().save_pretrained(path)
    clip_tokenizer().save_pretrained(path)
    return path


def test_images_and_texts_get_the_vectors_of_the_models_own_forward_pass(folder):
    clip = clip_models.load_clip(f"hf:{folder}")
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    texts = ["a dog", "a photo of an airplane in the sky", "word " * 100]
    asked = clip.tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        whole = clip.net(pixel_values=normalised(images.float() / 255, **CLIP), **asked)
    assert torch.allclose(clip.image(images), whole.image_embeds, atol=1e-5)
    assert torch.allclose(clip.text(texts), whole.text_embeds, atol=1e-5)
    assert torch.allclose(clip.text(texts[:1]), clip.text(texts)[:1], atol=1e-5), "padding changes nothing"


def test_it_is_an_extractor_known_by_the_content_of_its_folder(folder):
    name = f"clip:hf:{folder}"
    assert features.check(name) is None and set(features.inputs(name)) == {"weights"}
    pixels = torch.zeros(2, 3, 80, 64, dtype=torch.uint8)
    assert features.of_pixels(pixels, name).shape == (2, 16)


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path):
    assert "is no folder" in features.check(f"clip:hf:{tmp_path / 'nothing'}")


def test_on_a_gpu_it_answers_on_the_cpu(folder, gpu):
    with gpu.loading():
        clip = clip_models.load_clip(f"hf:{folder}")
    assert where(clip.net) == {NAME}
    with gpu.computing():
        assert {str(vectors.device) for vectors in (clip.image(torch.zeros(2, 3, 80, 64, dtype=torch.uint8)), clip.text(["a dog"]))} == {
            "cpu"
        }
