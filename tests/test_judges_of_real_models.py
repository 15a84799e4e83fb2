"""Judges that need downloaded weights, on tiny random models of the same architecture: loading, labels, preprocessing, refusals."""

import csv
import dataclasses

import pytest
import torch
from fake_gpu import NAME
from made_images import in_memory
from PIL import Image
from torch import nn

from vestige.bench import judges
from vestige.bench.contract.plugin import MetricContext
from vestige.bench.judges import canvas, celebrity, imagenet
from vestige.bench.judges.presence import PresenceJudge
from vestige.metrics.answers import Answers
from vestige.metrics.presence import Presence


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def fresh(judge_id: str):
    return judges.load.__wrapped__(judge_id)


# transformers' classifiers


@pytest.fixture
def resnet(tmp_path):
    def make(labels: list[str]):
        from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

        shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        config = ResNetConfig(**shape, id2label=dict(enumerate(labels)), label2id={name: k for k, name in enumerate(labels)})
        torch.manual_seed(0)
        ResNetForImageClassification(config).save_pretrained(tmp_path)
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(tmp_path)
        return tmp_path

    return make


def test_a_resnet_of_the_hub_answers_with_the_first_synonym_through_its_own_preprocessing(resnet, images):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = resnet(["tench, Tinca tinca", "church, church building", "gas pump, petrol pump"])
    judge = fresh(f"resnet50_hf:{folder}")
    assert judge.labels == {"object": ["tench", "church", "gas_pump"]} and judge.family == "imagenet"
    as_files = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in images]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=as_files, return_tensors="pt")
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()(**pixels).logits.softmax(-1)
    verdict = judge(images, ["church"] * 3, [1] * 3)
    assert torch.allclose(verdict.probability, theirs[:, 1], atol=1e-5)
    assert verdict.present.tolist() == (theirs.argmax(-1) == 1).tolist()


def test_a_thousand_labels_must_stand_in_imagenets_order(resnet):
    synonyms = [f"{name}, another word" for name in imagenet.labels()]
    judge = fresh(f"resnet50_hf:{resnet(synonyms)}")
    assert judge.labels["object"] == imagenet.labels() and judge.place("dog")[1][0] == 151
    with pytest.raises(ValueError, match="classes have another order"):
        fresh(f"resnet50_hf:{resnet(sorted(synonyms))}")


def test_the_artist_classifier_knows_a_concept_by_its_files_label(tmp_path, images, concept):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    names = ["Unknown Artist", "claude-monet", "vincent-van-gogh"]
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 8,
    }
    ViTForImageClassification(ViTConfig(**shape, id2label=dict(enumerate(names)))).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    judge = fresh(f"artist:{tmp_path}").about([concept("van_gogh", "style", labels={"artist": "vincent-van-gogh"})])
    assert judge.place("van_gogh") == ("style", [2]) and judge.place("claude_monet") == ("style", [1])
    assert judge(images, ["van_gogh"] * 3, [1] * 3).present.shape == (3,)


def test_a_classifier_of_the_hub_computes_on_a_gpu_what_its_processor_prepares(resnet, images, gpu):
    folder = resnet(["tench, Tinca tinca", "church, church building"])
    with gpu.loading():
        judge = fresh(f"resnet50_hf:{folder}")
    with pytest.MonkeyPatch.context() as patched, gpu.loading():  # its processor reads real images
        patched.setattr(torch.Tensor, "cpu", lambda answer: answer)
        with torch.no_grad():
            assert str(judge._answers(images)["object"].device) == NAME


# UnlearnCanvas


@pytest.fixture
def canvas_folder(tmp_path, monkeypatch):
    import timm

    monkeypatch.setattr(canvas, "ARCHITECTURE", "test_vit")
    monkeypatch.setattr(canvas, "SIDE", 160)
    for head, labels in canvas.NAMES.items():
        torch.manual_seed(len(labels))
        net = timm.create_model("test_vit", pretrained=False, num_classes=len(labels))
        torch.save({"model_state_dict": net.state_dict(), "epoch": 3}, tmp_path / canvas.FILES[head])
    return tmp_path


def test_unlearncanvas_has_a_style_and_an_object_head(canvas_folder, images, concept):
    judge = fresh(f"canvas:{canvas_folder}").about([concept("canvas_van_gogh", "style", labels={"canvas": "Van_Gogh"})])
    assert judge.place("canvas_van_gogh") == ("style", [45]) and judge.place("waterfalls") == ("object", [19])
    shares = judge.shares(images)
    assert shares["style"].shape == (3, 51) and shares["object"].shape == (3, 20)
    verdict = judge(images, ["canvas_van_gogh", "seed_images", "dogs"], [1] * 3)
    picked = torch.stack([shares["style"][0, 45], shares["style"][1, 38], shares["object"][2, 5]])
    assert torch.allclose(verdict.probability, picked)


def test_both_heads_compute_on_a_gpu(canvas_folder, images, gpu):
    with gpu.loading():
        judge = fresh(f"canvas:{canvas_folder}")
    with gpu.computing():
        assert {str(answer.device) for answer in judge.logits(images).values()} == {NAME}
        assert {str(answer.device) for answer in judge._answers(images).values()} == {"cpu"}


def test_exchanged_checkpoints_are_named(canvas_folder):
    style, thing = (canvas_folder / canvas.FILES[head] for head in ("style", "object"))
    kept = style.read_bytes()
    style.write_bytes(thing.read_bytes())
    thing.write_bytes(kept)
    with pytest.raises(ValueError, match=r"exchanged\?"):
        fresh(f"canvas:{canvas_folder}")


# The celebrity detector


class OneValue(nn.Sequential):
    """Names person 0 for a dark face and person 1 for a bright one."""

    def forward(self, faces):
        bright = faces.mean((1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5], -1) * 10


@pytest.fixture
def two_names():
    boxes = [torch.tensor([4.0, 4.0, 24.0, 24.0]), None, torch.tensor([4.0, 4.0, 24.0, 24.0])]
    logits = celebrity.named(OneValue(nn.Linear(1, 2)), lambda images: boxes[: len(images)])
    return PresenceJudge(logits, {"celebrity": ["ada_one", "bea_two"]}, "celebrity:x", family="celebrity", abstains=True)


@pytest.fixture
def dark_faceless_bright():
    return torch.stack([torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (20, 100, 250)])


def test_an_image_without_a_face_is_not_judged(two_names, dark_faceless_bright):
    verdict = two_names(dark_faceless_bright, ["ada_one", "ada_one", "ada_one"], [1] * 3)
    assert verdict.present.tolist() == [True, False, False] and verdict.judged.tolist() == [True, False, True]
    assert two_names.present(dark_faceless_bright, ["ada_one"] * 3).tolist() == [True, False, False]


def test_lost_faces_leave_the_denominator_and_are_counted(two_names, dark_faceless_bright, tmp_path, monkeypatch, concept):
    monkeypatch.setattr(judges, "load", lambda name: two_names)

    shown = in_memory(dark_faceless_bright, tmp_path, prompt="ada one", expect="ada_one")
    context = MetricContext([concept("ada_one", "celebrity", name="Ada One", labels={"celebrity": "Ada One"})], None, None)
    scores = Presence("celebrity:x", 8).score(shown, context)
    assert scores.totals["present"] == 0.5 and scores.totals["judged"] == pytest.approx(2 / 3)
    assert scores.per_image["present"].isna().tolist() == [False, True, False]
    answers = Answers("celebrity:x", 8).score(shown, context)
    for column in ("rank", "seen", "celebrity_right", "confidence"):
        assert answers.per_image[column].isna().tolist() == [False, True, False], column
    assert answers.per_image["rank"].tolist()[::2] == [1, 2] and answers.per_image["celebrity_answer"].tolist() == [
        "ada_one",
        "",
        "bea_two",
    ]


def test_faces_are_cut_with_half_the_margin_on_each_side_inside_the_image():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 18:62, 28:72] = 200
    face = celebrity.cropped(image, torch.tensor([30.0, 20.0, 70.0, 60.0]))  # 40 x 40: four pixels more on every side
    assert face.shape == (3, 224, 224) and face.max() == pytest.approx(200 / 255)
    inside = (face > 100 / 255).float().mean().item()
    assert inside == pytest.approx((44 / 48) ** 2, abs=0.02)
    assert celebrity.cropped(image, torch.tensor([-5.0, -5.0, 3.0, 3.0])).shape == (3, 224, 224)


def test_giphys_checkpoint_fits_the_recogniser_and_its_labels_are_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr(celebrity.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(celebrity, "mtcnn", lambda: None)
    (tmp_path / "face_recognition").mkdir()
    with open(tmp_path / celebrity.LABELS, "w", newline="") as handle:
        csv.writer(handle).writerows([["Labels", "Index"], ["Zoe_Last_[m.2]", "0"], ["Ada_One_[m.1]", "7"], ["Cher_[m.0]", "3"]])
    net = celebrity.recogniser(3)
    theirs = {"0.": "model.stem.", "2.": "model.fc1.", "3.": "model.fc2."}
    state = {theirs[key[:2]] + key[2:]: tensor for key, tensor in net.state_dict().items()}
    torch.save({"model_state": state | {"center_loss_criterion.centers": torch.zeros(3, 256)}, "epoch": 1}, tmp_path / celebrity.WEIGHTS)
    judge = fresh(f"celebrity:{tmp_path}")
    assert judge.labels == {"celebrity": ["ada_one", "cher", "zoe_last"]} and judge.abstains
    assert "model.stem.4.0.conv1.weight" in state and state["model.fc1.weight"].shape == (256, 2048)


def test_the_face_finder_finds_the_face_of_a_portrait(tmp_path):
    pytest.importorskip("facenet_pytorch", reason="optional package: pip install --no-deps facenet-pytorch")
    from pathlib import Path

    import numpy as np

    image = Image.open(Path(__file__).parent / "data" / "astronaut.jpg").convert("RGB")
    portrait = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    box, nothing = celebrity.mtcnn()(torch.stack([portrait, torch.zeros_like(portrait)]))
    assert nothing is None and torch.allclose(box.float(), torch.tensor([134.5, 46.1, 201.7, 130.7]), atol=2)


# GroundingDINO


@pytest.fixture
def dino(tmp_path):
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "garbage", "truck"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"), model_max_length=32)
    size = {"height": 128, "width": 128}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size, do_pad=False), tokenizer).save_pretrained(tmp_path)
    swin = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2, image_size=128, out_indices=[2, 3, 4])
    bert = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config={"model_type": "bert", **bert},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=5,
        **heads,
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).eval().save_pretrained(tmp_path)
    return tmp_path


def test_grounding_dino_asks_for_the_concepts_name_and_any_box_counts(dino, images, concept):
    judge = fresh(f"gdino:{dino}").about([concept("garbage_truck")])
    verdict = judge(images, ["garbage_truck", "dog", "dog"], [1] * 3)
    assert ((verdict.probability > 0) & (verdict.probability < 1)).all()
    assert verdict.present.tolist() == (verdict.probability > 0.5).tolist()
    low, high = (float(f(verdict.probability)) for f in (torch.min, torch.max))
    for threshold, present in ((low - 1e-3, True), (high + 1e-3, False)):
        judge = dataclasses.replace(judges.judge_of(f"gdino:{dino}"), threshold=threshold).load("gdino:x")
        assert judge(images, ["garbage_truck", "dog", "dog"], [1] * 3).present.tolist() == [present] * 3
    asked = []
    judge.ask = lambda images, label: (asked.append(label), (torch.ones(len(images), dtype=torch.bool), torch.ones(len(images))))[1]
    judge(images, ["garbage_truck", "golf_ball", "golf_ball"], [1] * 3)
    assert asked == ["garbage truck", "golf ball"]


@pytest.mark.parametrize(
    "judge_id, says",
    [
        ("resnet50_hf:/nowhere", "microsoft/resnet-50"),
        ("resnet50_hf:", "microsoft/resnet-50"),
        ("artist:/nowhere", "Diffusion-MU-Attack"),
        ("canvas:/nowhere", "style.pth and object.pth"),
        ("celebrity:/nowhere", "resources.tar.gz"),
        ("gdino:/nowhere", "is no folder"),
        ("resnet50", "IMAGENET1K_V2"),
    ],
)
def test_a_judge_without_weights_says_how_to_get_them(judge_id, says, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=says):
        judges.check(judge_id)


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        judges.check(f"artist:{tmp_path}")
