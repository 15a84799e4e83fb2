"""The presence judge's rules, on a classifier whose answers are written down."""

import pytest
import torch

from bench import judges
from bench.judges import PresenceJudge, imagenet, zero_shot
from bench.judges.zero_shot import ClipJudge
from bench.world import catalog

LABELS = {"object": ["dog", "cat", "car", "nothing"], "style": ["noto", "lineart"]}


@pytest.fixture
def judge():
    """Reads its object answers (cat, then car) and style (noto) off nothing: the same for every picture."""

    def logits(images):
        n = len(images)
        return {"object": torch.tensor([[0.0, 3.0, 2.0, 1.0]] * n), "style": torch.tensor([[1.0, 0.0]] * n)}

    return PresenceJudge(logits, LABELS, "written", {"pet": ("object", [0, 1]), "dogcar": ("object", [0, 2])}, "written")


PICTURES = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)


def test_an_object_is_present_among_as_many_answers_as_the_prompt_names(judge):
    assert judge(PICTURES, ["car", "car", "cat"], [1, 2, 1]).present.tolist() == [False, True, True]


def test_a_style_must_be_the_first_answer_of_its_own_head(judge):
    verdict = judge(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["noto", "lineart"], [2, 2])
    assert verdict.present.tolist() == [True, False]
    assert verdict.probability.sum().item() == pytest.approx(1.0)


def test_a_group_is_present_when_any_member_is_and_adds_up_their_probabilities(judge):
    verdict = judge(PICTURES, ["pet", "dogcar", "dogcar"], [1, 1, 2])
    assert verdict.present.tolist() == [True, False, True]
    share = torch.tensor([0.0, 3.0, 2.0, 1.0]).softmax(0)
    assert torch.allclose(verdict.probability, torch.stack([share[0] + share[1], share[0] + share[2], share[0] + share[2]]))


def test_a_concept_is_known_by_the_word_its_file_names_for_the_judge(judge, concept):
    with pytest.raises(ValueError, match="does not know the label 'feline'"):
        judge(PICTURES[:1], ["feline"], [1])
    told = judge.about([concept("feline", labels={"written": "Pet", "other": "dog"}), concept("auto", labels={"other": "dog"})])
    assert told(PICTURES[:2], ["feline", "car"], [1, 1]).present.tolist() == [True, False]
    assert told.columns("feline") == ("object", [0, 1]) and told.columns("auto") is None
    assert judge.columns("feline") is None, "the judge itself must stay as it was: it is shared by all jobs"


def test_a_zero_shot_judge_reads_the_concepts_name_and_its_own_word(concept):
    class Clip:
        def image(self, images):
            return torch.eye(4)[[0] * len(images)]

        def text(self, texts):
            self.seen = texts
            return torch.eye(4)[: len(texts)]

    judge = ClipJudge(Clip(), "clip:x/y").about(
        [concept("cifar_dog", labels={"clip": "dog"}), concept("van_gogh", name="Vincent van Gogh")]
    )
    assert judge(PICTURES, ["cifar_dog", "van_gogh", "cat"], [1, 1, 1]).present.tolist() == [False, False, True]
    assert judge.clip.seen == ["a photo of a cat", "a photo of a dog", "a photo of a vincent van gogh", "an empty background"]


def test_a_closed_list_competes_whole_with_its_own_template_and_its_hash_is_told(concept):
    class Clip:
        def image(self, images):
            return torch.nn.functional.normalize(torch.eye(10)[[5] * len(images)] + 0.999 * torch.eye(10)[[3] * len(images)], dim=-1)

        def text(self, texts):
            self.seen = texts
            return torch.eye(10)

    closed = zero_shot.closed_list("cifar10")
    clip = Clip()
    judge = ClipJudge(clip, "clip_cifar10:x/y", closed).about([concept("cifar_dog", name="dog")]).among(["cifar_dog"])
    assert len(clip.seen) == 10 and clip.seen[:2] == ["a photo of the airplane", "a photo of the automobile"]
    verdict = judge(PICTURES, ["cifar_dog", "cat", "ship"], [1] * 3)
    similar = torch.zeros(10)
    similar[[5, 3]] = torch.tensor([100.0, 99.9]) / torch.tensor([1.0, 0.999]).norm()
    share = similar.softmax(0)
    assert torch.allclose(verdict.probability, share[[5, 3, 8]], atol=1e-5), "softmax of 100 cos over ten words"
    assert verdict.present.tolist() == [True, False, False] and judge.meta["candidates"] == 10
    other = ClipJudge(Clip(), "n", (closed[0], closed[1][::-1])).among([])
    assert judge.meta["candidates_hash"] != other.meta["candidates_hash"]
    with pytest.raises(ValueError, match="does not know the label 'fox'"):
        judge(PICTURES[:1], ["fox"], [1])


def test_the_imagenette_judge_picks_one_of_ten(judge):
    narrow = imagenet.closed(judge, ["car", "dog"])
    verdict = narrow(PICTURES[:2], ["car", "dog"], [1, 1])
    assert verdict.present.tolist() == [True, False] and verdict.probability.sum().item() == pytest.approx(1)
    assert set(zero_shot.closed_list("imagenette")[1]) <= set(imagenet.labels()) and narrow.meta["candidates"] == 2


@pytest.mark.parametrize(
    "judge_id, says", [("clip:ViT-B-32", "pretrained tag or file"), ("clip_cifar10:ViT-B-32", "clip_cifar10:ViT-B-32/openai")]
)
def test_a_clip_judge_names_model_and_weights(judge_id, says):
    with pytest.raises(ValueError, match=says):
        judges.check(judge_id)


def test_groups_of_the_emoji_world_are_those_of_its_catalogue():
    judge = judges.load("emoji_a")
    head, columns = judge.place("danger")
    assert head == "object" and len(columns) == 8
    assert [judge.labels["object"][k] for k in columns] == catalog.groups()["danger"]
    known = {label for names in judge.labels.values() for label in names}
    assert not known & set(catalog.groups()), "a label goes before a group: no group may be hidden by one"


def test_everyday_words_cover_classes_of_imagenet():
    names, groups = imagenet.labels(), imagenet.groups()
    assert len(names) == 1000 and not set(names) & set(groups)
    within = {word: [names[k] for k in columns] for word, (_, columns) in groups.items()}
    assert within["dog"][0] == "chihuahua" and within["dog"][-1] == "mexican_hairless" and len(within["dog"]) == 118
    assert within["cat"] == ["tabby", "tiger_cat", "persian_cat", "siamese_cat", "egyptian_cat"] and within["horse"] == ["sorrel"]
    assert within["frog"] == ["bullfrog", "tree_frog", "tailed_frog"] and within["airplane"] == ["airliner", "warplane"]
    assert len(within["bird"]) == 59 and {"cock", "great_grey_owl", "black_swan", "white_stork", "albatross"} <= set(within["bird"])
    assert {"beach_wagon", "cab", "minivan", "sports_car"} <= set(within["automobile"]) and "garbage_truck" in within["truck"]
    assert {"container_ship", "liner", "pirate"} <= set(within["ship"]) and "canoe" not in within["ship"]


def test_unknown_labels_and_empty_sets_are_refused(judge):
    with pytest.raises(ValueError, match="does not know the label 'dragon'"):
        judge(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["dragon"], [1])
    with pytest.raises(ValueError, match="no picture"):
        judge(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [])


def test_an_unknown_judge_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="Allowed: emoji_a"):
        judges.check("emoji_c")
