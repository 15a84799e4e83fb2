"""Maskers: the plain background is found, and the grounded one reads boxes and masks as transformers' own post-processing does."""

import pytest
import torch

from vestige.bench.vision.masks import Grounded, background_difference, largest_part, masker


def test_a_square_on_a_plain_ground_is_found_whatever_touches_the_border():
    images = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
    images[:, 1, 4:9, 5:12] = 120
    images[1, 0, 0, :4] = 0  # less than half of the border
    found = background_difference(images, 0.15)
    wanted = torch.zeros(2, 16, 16, dtype=torch.bool)
    wanted[:, 4:9, 5:12] = True
    wanted[1, 0, :4] = True
    assert torch.equal(found, wanted)
    assert not background_difference(images[:1], 0.4).any()  # 80 / 255 = 0.31
    assert masker("whole", 0, "", "")(images, "dog").all()


def test_only_the_largest_part_is_kept_and_filled():
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False
    mask[8, 8:] = True
    wanted = torch.zeros(10, 10, dtype=torch.bool)
    wanted[1:6, 1:6] = True
    assert torch.equal(largest_part(mask), wanted)
    assert not largest_part(torch.zeros(3, 3, dtype=torch.bool)).any()


def test_missing_weights_are_named_with_a_way_out():
    with pytest.raises(ValueError, match=r"no/detector.*fields detector.*background_difference"):
        masker("grounded", 0.3, "no/detector", "no/segmenter")


@pytest.fixture(scope="module")
def random_grounded():
    """Grounding DINO and SAM with random weights, as small as their classes allow."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SamConfig,
        SamImageProcessor,
        SamModel,
        SamProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "cat"]
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    bert = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    small = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    dino = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, **small
    )
    narrow = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    sam = SamConfig(
        vision_config={
            **narrow,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "mlp_dim": 16,
            "num_pos_feats": 8,
            "global_attn_indexes": [0],
            "window_size": 2,
        },
        prompt_encoder_config={**narrow, "image_embedding_size": 4, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    size = {"height": 64, "width": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Grounded(
            GroundingDinoForObjectDetection(dino).eval(),
            GroundingDinoProcessor(
                GroundingDinoImageProcessor(size={"shortest_edge": 160, "longest_edge": 160}),
                BertTokenizer(vocab={word: k for k, word in enumerate(words)}),
            ),
            SamModel(sam).eval(),
            SamProcessor(
                SamImageProcessor(
                    size={"longest_edge": 64},
                    pad_size=size,
                    mask_size={"longest_edge": 16},
                    mask_pad_size={"height": 16, "width": 16},
                )
            ),
            0.0,
        )


def test_grounded_takes_the_best_box_and_the_union_of_its_masks(random_grounded):
    images = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = random_grounded(images, "Dog")
    assert found.shape == (2, 40, 48) and found.dtype == torch.bool and found.any()
    with torch.no_grad():
        question = random_grounded.reader(images=images[0], text="dog.", return_tensors="pt")
        answer = random_grounded.detector(**question)
        boxes = random_grounded.reader.post_process_grounded_object_detection(answer, question["input_ids"], 0.0, 0.0, [(40, 48)])[0]
        assert random_grounded.box(images[0], "dog") == pytest.approx(boxes["boxes"][boxes["scores"].argmax()].tolist(), rel=1e-4)


def test_grounded_masks_nothing_where_no_box_is_sure_enough(random_grounded):
    images = torch.zeros(1, 3, 40, 48, dtype=torch.uint8)
    sure = Grounded(*(getattr(random_grounded, part) for part in ("detector", "reader", "segmenter", "prompter")), 1.0)
    assert not sure(images, "dog").any()
