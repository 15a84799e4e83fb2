"""EraseEval's likeness: all pairs of a prompt, captions by labels or by a visual language model, and names found in captions."""

import pytest
import torch
from conftest import tiny_spec

from vestige.bench import judges
from vestige.bench.contract.plugin import MetricContext
from vestige.bench.judges import captions
from vestige.bench.judges import vlm as asking
from vestige.bench.vision import vlm
from vestige.metrics.likeness import Likeness


def context_of(images, features, concept):
    return MetricContext([concept], lambda: images, lambda each, extractor: features)


@pytest.fixture
def drawn(tiny, sampler, prompts, tmp_path):
    from vestige.bench.run.generate import draw

    return draw(tiny, prompts(2, repeats=2), sampler, tmp_path / "drawn", 4)


def test_every_erased_image_meets_every_original_one_of_its_prompt(drawn, concept, monkeypatch):
    told = ["a noto dog", "a cat", "a puppy on a hill", "a dogma"]
    monkeypatch.setattr(captions, "describe", lambda images, captioner: told)
    monkeypatch.setattr(captions, "embed", lambda texts, encoder: torch.eye(4)[[0, 1, 2, 2]].repeat(2, 1))
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    scores = Likeness("clip_emoji", "labels:emoji_a", "emoji").score(drawn, context_of(drawn, features, concept("dog"))).per_image
    assert scores["image_cosine"].tolist() == [0.5, 0.5, 1, 1], "each against both of its row, not only its own seed"
    assert scores["caption_cosine"].tolist() == [0.5, 0.5, 1, 1]
    assert scores["caption_named"].tolist() == [1, 0, 1, 0], "the name or an alias, as whole words"


def test_without_a_captioner_only_images_are_compared(drawn, concept):
    scores = Likeness("clip_emoji", None, "emoji").score(drawn, context_of(drawn, torch.ones(4, 2), concept("dog")))
    assert set(scores.totals) == {"image_cosine"} and scores.totals["image_cosine"] == pytest.approx(1)


def test_labels_make_the_worlds_own_captions():
    class Judge:
        labels = {"object": ["dog", "ice_cream"], "style": ["noto"], "background": ["blue"]}

        def shares(self, images):
            return {"object": torch.eye(2), "style": torch.ones(2, 1), "background": torch.ones(2, 1)}

    assert captions._labels(Judge(), torch.zeros(2)) == ["a noto dog on a blue background", "a noto ice cream on a blue background"]


def test_missing_captioners_are_named():
    assert "no folder" in Likeness("clip_emoji", "/nowhere", "emoji").supports(tiny_spec(), [])
    assert "list of labels, and clip:emoji has none" in Likeness("clip_emoji", "labels:clip:emoji", "emoji").supports(tiny_spec(), [])


ANSWERS = {"Yes.": True, "yes, a snoopy": True, "Now that is none": False, "No": False, "idk": False, "": False}


@pytest.mark.parametrize("answer, yes", ANSWERS.items())
def test_the_first_word_decides(answer, yes):
    assert vlm.says_yes(answer) is yes


def test_a_visual_language_model_answers_about_each_image(tmp_path):
    """A random LLaVA of a few thousand parameters, saved and loaded as published ones are."""
    model = tiny_llava(tmp_path)
    answers = model.answer(torch.randint(0, 255, (2, 3, 20, 20), dtype=torch.uint8), "is there a dog?", 3)
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    assert answers == model.answer(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), "is there a dog?", 3) or len(set(answers)) <= 2
    judge = judges.load.__wrapped__(f"vlm:{tmp_path}")
    verdict = judge(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), ["dog", "cat"], [1, 1])
    assert verdict.present.shape == (2,) and verdict.probability.tolist() == verdict.present.double().tolist()


def asked_of(monkeypatch, model) -> list[int]:
    """How many images each call of the network holds, from now on."""
    rows, generate = [], model.net.generate

    def noted(**asked):
        rows.append(len(asked["input_ids"]))
        return generate(**asked)

    monkeypatch.setattr(model.net, "generate", noted)
    return rows


def test_a_batch_of_images_gets_the_answers_of_each_alone(tmp_path, monkeypatch):
    model = tiny_llava(tmp_path)
    with torch.no_grad():
        for weight in model.net.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)  # so that it looks at the images
    images = torch.randint(0, 255, (5, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0] //= torch.tensor([1, 2, 4, 8, 200], dtype=torch.uint8)[:, None, None]
    alone = [model.answer(image[None], "is there a dog?", 4)[0] for image in images]
    rows = asked_of(monkeypatch, model)
    monkeypatch.setattr(vlm, "BATCH", 4)
    assert model.answer(images, "is there a dog?", 4) == alone and rows == [4, 1]
    assert len(set(alone)) > 2 and len({len(answer.split()) for answer in alone}) > 1, "else any order, and any end, would do"


def test_an_answer_that_ends_early_is_not_filled_up(tmp_path, monkeypatch):
    model = tiny_llava(tmp_path)
    images = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    length = model.processor(images=[[images[0]]], text=["<image>is there a dog?"], return_tensors="pt")["input_ids"].shape[1]
    told = torch.tensor([[9, 2, 0, 0], [10, 8, 7, 9]])  # yes </s> <pad> <pad>; no dog a yes
    monkeypatch.setattr(model.net, "generate", lambda **_: torch.cat([torch.full((2, length), 5), told], 1))
    assert model.answer(images, "is there a dog?", 4) == ["yes", "no dog a yes"]


def test_questions_of_other_lengths_are_padded_on_the_left(tmp_path):
    model = tiny_llava(tmp_path)
    assert model.words.padding_side == "left"
    model.words.pad_token = None
    assert vlm.Vlm(model.net, model.processor).words.pad_token == "</s>"


def test_precision_is_part_of_the_name(tmp_path):
    tiny_llava(tmp_path)
    assert vlm.load(str(tmp_path), "test").net.dtype == torch.float32, "also of weights that are stored in less"
    half = vlm.load(f"{tmp_path}@bfloat16", "test")
    assert half.net.dtype == torch.bfloat16 and len(half.answer(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), "is there a dog?", 2)) == 1
    plain, named = (judges.inputs(f"vlm:{tmp_path}{precision}") for precision in ("", "@bfloat16"))
    assert plain["judge"] == named["judge"] and plain != named, "the same weights under another setting"
    judges.check(f"vlm:{tmp_path}@bfloat16")
    with pytest.raises(ValueError, match=r"@bfloat16 or @float16; float32 is written without"):
        judges.check(f"vlm:{tmp_path}@int8")


def test_a_style_is_asked_for_as_a_style(concept):
    judge = asking.VlmJudge(None, "vlm:x").about([concept("van_gogh", kind="style", name="Vincent van Gogh"), concept("dog")])
    assert judge.wording == {"van_gogh": "the style of Vincent van Gogh", "dog": "dog"}


def tiny_llava(folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "is", "there", "a", "dog", "yes", "no", "?"]
    base = Tokenizer(WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, additional_special_tokens=["<image>"], **special)
    images = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    layout = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(image_processor=images, tokenizer=tokenizer, **layout)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
    text = LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=4)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return vlm.load(str(folder), "test")
