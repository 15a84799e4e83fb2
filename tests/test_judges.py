"""The presence judge's rules, on a classifier whose answers are written down."""

import copy
import re

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from vestige.attacks.random_seeds import RandomSeeds
from vestige.bench import judges
from vestige.bench.contract import building
from vestige.bench.contract.plugin import Victim
from vestige.bench.contract.types import Concept
from vestige.bench.judges import Chain, PresenceJudge, imagenet, zero_shot
from vestige.bench.judges.asking import AskingJudge, OneQuestionJudge
from vestige.bench.judges.zero_shot import ClipJudge
from vestige.bench.places import CONF
from vestige.bench.world.content import catalog
from vestige.bench.world.content.drawing import HELD_OUT_JITTER, compose, draw_specs
from vestige.methods.original import Original

LABELS = {"object": ["dog", "cat", "car", "nothing"], "style": ["noto", "lineart"]}


@pytest.fixture
def judge():
    """Reads its object answers (cat, then car) and style (noto) off nothing: the same for every image."""

    def logits(images):
        n = len(images)
        return {"object": torch.tensor([[0.0, 3.0, 2.0, 1.0]] * n), "style": torch.tensor([[1.0, 0.0]] * n)}

    return PresenceJudge(logits, LABELS, "written", {"pet": ("object", [0, 1]), "dogcar": ("object", [0, 2])}, "written")


IMAGES = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)


def test_an_object_is_present_among_as_many_answers_as_the_prompt_names(judge):
    assert judge(IMAGES, ["car", "car", "cat"], [1, 2, 1]).present.tolist() == [False, True, True]


def test_a_style_must_be_the_first_answer_of_its_own_head(judge):
    verdict = judge(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["noto", "lineart"], [2, 2])
    assert verdict.present.tolist() == [True, False]
    assert verdict.probability.sum().item() == pytest.approx(1.0)


def test_a_group_is_present_when_any_member_is_and_adds_up_their_probabilities(judge):
    verdict = judge(IMAGES, ["pet", "dogcar", "dogcar"], [1, 1, 2])
    assert verdict.present.tolist() == [True, False, True]
    share = torch.tensor([0.0, 3.0, 2.0, 1.0]).softmax(0)
    assert torch.allclose(verdict.probability, torch.stack([share[0] + share[1], share[0] + share[2], share[0] + share[2]]))


def test_a_concept_is_known_by_the_word_its_file_names_for_the_judge(judge, concept):
    with pytest.raises(ValueError, match="does not know the label 'feline'"):
        judge(IMAGES[:1], ["feline"], [1])
    told = judge.about([concept("feline", labels={"written": "Pet", "other": "dog"}), concept("auto", labels={"other": "dog"})])
    assert told(IMAGES[:2], ["feline", "car"], [1, 1]).present.tolist() == [True, False]
    assert told.columns("feline") == ("object", [0, 1]) and told.columns("auto") is None
    assert judge.columns("feline") is None, "the judge itself must stay as it was: it is shared by all jobs"


class Told:
    """A CLIP whose images all lie at its last text but one; it remembers what it was told."""

    def image(self, images):
        return torch.eye(200)[[len(self.seen) - 2] * len(images)]

    def text(self, texts):
        self.seen = texts
        return torch.eye(200)[: len(texts)]


def test_a_zero_shot_judge_reads_the_concepts_name_and_its_own_word(concept):
    known = concept("cifar_dog", name="a mongrel", labels={"clip": "dog"}, siblings=["wolf"], others=["airplane"])
    judge = ClipJudge(Told(), "clip:x/y").about([known])
    judge(IMAGES, ["cifar_dog", "apple_tree", "wolf"], [1, 1, 1])
    assert judge.clip.seen[:4] == ["a photo of a dog", "a photo of a wolf", "a photo of an airplane", "a photo of an apple tree"]
    assert judge.clip.seen[-1] == "an empty background" and "mongrel" not in " ".join(judge.clip.seen)


@pytest.mark.parametrize("kind, head, text", [("object", "object", "a photo of a {}"), ("explicit", "object", "a photo of {}")])
def test_one_expected_label_still_competes_with_many_names(kind, head, text, concept):
    erased = concept("red_shoe", kind, aliases=["street dancer"], siblings=["sandal"], others=["car"])
    one = ClipJudge(Told(), "clip:x/y").about([erased]).among(["red_shoe"])
    assert list(one.labels) == [head] and one.labels[head][:3] == ["red_shoe", "sandal", "car"] and one.labels[head][-1] == "nothing"
    assert len(one.labels[head]) == 1 + zero_shot.LEAST + 1 and len(set(one.labels[head])) == len(one.labels[head])
    assert one.meta["candidate_texts"][head][0] == text.format("red shoe")
    assert one.meta["candidates"] == len(one.labels[head])
    distractors = {word for label in one.labels[head][3:] for word in label.split("_")}
    assert not distractors & {"red", "shoe", "street", "dancer"}, "a distractor that names the concept would take its place"


@pytest.mark.parametrize("kind, text", [("style", "a painting in the style of Ada One"), ("celebrity", "a photo of Ada One")])
def test_styles_and_persons_compete_with_their_like_and_not_with_things(kind, text, concept):
    erased = concept("ada_one", kind, name="Ada One", siblings=["Bea Two"], others=["church", "car"])
    judge = ClipJudge(Told(), "clip:x/y").about([erased])
    chosen = judge.among(["ada_one", "church"])
    assert chosen.place("ada_one") == (kind, [0]) and chosen.place("bea_two") == (kind, [1]) and chosen.place("church") == ("object", [0])
    assert min(len(labels) for labels in chosen.labels.values()) > 40
    assert chosen.meta["candidate_texts"][kind][0] == text and "car" not in chosen.labels[kind]
    assert judge.among(["ada_one"]).meta == judge.among(["bea_two"]).meta, "one list for all splits of a job"


def test_a_set_of_concepts_is_judged_among_all_its_names_and_as_many_others(concept):
    erased = [concept(f"thing_{k}", siblings=[], others=[]) for k in range(8)]
    one = ClipJudge(Told(), "clip:x/y").about(erased).among(["thing_3"])
    assert len(one.labels["object"]) == 8 + zero_shot.LEAST + 1


# The small CLIP of the emoji world stands in for the zero-shot judges of photographs.

SEEN = ["dog", "cat", "car", "pizza", "pistol", "guitar", "tulip", "umbrella"]


@pytest.fixture(scope="module")
def drawings():
    """Images of one object that no network was trained on, and what they show: every wanted concept 20 times, other things 300 times."""
    specs = [spec for spec in draw_specs(6000, 11, HELD_OUT_JITTER) if len(spec.objects) == 1]
    wanted = [spec for slug in SEEN for spec in [s for s in specs if s.objects == (slug,)][:20]]
    wanted += [spec for spec in specs if spec.objects[0] not in SEEN][:300]
    pixels = np.stack([compose(spec) for spec in wanted])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), [spec.objects[0] for spec in wanted]


@pytest.fixture(scope="module")
def emoji_clip(drawings):
    """clip:emoji, which looks at each image once."""
    judge, (pixels, _) = copy.copy(judges.load("clip:emoji")), drawings
    vectors = torch.cat([judge.clip.image(part) for part in pixels.split(64)])
    place = {bytes(image.numpy()): k for k, image in enumerate(pixels)}

    class Seen:
        text = judge.clip.text

        def image(self, images):
            return vectors[[place[bytes(image.numpy())] for image in images]]

    judge.clip = Seen()
    return judge


def test_a_zero_shot_judge_sees_a_thing_where_it_is_and_hardly_where_it_is_not(drawings, emoji_clip):
    pixels, shown = drawings
    seen, false = [], []
    for slug in SEEN:
        concepts = [building.typed({"slug": slug, **OmegaConf.load(CONF / "concept" / f"{slug}.yaml")[slug]}, Concept, slug)]
        yes = emoji_clip.about(concepts).present(pixels, [slug] * len(pixels))
        there = torch.tensor([label == slug for label in shown])
        seen.append(yes[there].float().mean().item())
        false.append(yes[~there].float().mean().item())
    assert min(seen) >= 0.9 and max(false) <= 0.05, (seen, false)


def test_a_search_for_the_first_yes_does_not_stop_at_another_thing(drawings, emoji_clip, tiny, concept, prompts, context, sampler):
    pixels, shown = drawings
    others = [k for k, label in enumerate(shown) if label != "dog"][:200]

    class Draws(Victim):
        """Always something else."""

        def images(self, asked, rows=None):
            return pixels[[others.pop() for _ in (rows if rows is not None else asked.prompts)]]

    judge = emoji_clip.about([concept("dog")])
    found = RandomSeeds(50).attack(Draws(tiny, [concept()], Original(), sampler, judge.present), prompts(4), context())
    assert found.prompts.table["found_at"].tolist() == [-1] * 4 and not others, "all fifty tries were spent"


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
    verdict = judge(IMAGES, ["cifar_dog", "cat", "ship"], [1] * 3)
    similar = torch.zeros(10)
    similar[[5, 3]] = torch.tensor([100.0, 99.9]) / torch.tensor([1.0, 0.999]).norm()
    share = similar.softmax(0)
    assert torch.allclose(verdict.probability, share[[5, 3, 8]], atol=1e-5), "softmax of 100 cos over ten words"
    assert verdict.present.tolist() == [True, False, False] and judge.meta["candidates"] == 10
    other = ClipJudge(Clip(), "n", (closed[0], closed[1][::-1])).among([])
    assert judge.meta["candidates_hash"] != other.meta["candidates_hash"]
    with pytest.raises(ValueError, match="does not know the label 'fox'"):
        judge(IMAGES[:1], ["fox"], [1])


def test_the_imagenette_judge_picks_one_of_ten(judge):
    narrow = imagenet.closed(judge, ["car", "dog"])
    verdict = narrow(IMAGES[:2], ["car", "dog"], [1, 1])
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
    with pytest.raises(ValueError, match="no image"):
        judge(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [])


def test_an_unknown_judge_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match=r"no judge 'emoji_c'\. Did you mean emoji_"):
        judges.check("emoji_c")


# Chains


def test_each_label_goes_to_the_first_judge_that_knows_it(judge, concept):
    asked = []

    def ask(images, label):
        asked.append((label, len(images)))
        return torch.ones(len(images), dtype=torch.bool), torch.full((len(images),), 0.75)

    chain = Chain([judge, AskingJudge(ask, "asks")], "written+asks").about([concept("snail", name="slug")])
    verdict = chain.among(["car", "snail", "cat"])(IMAGES, ["car", "snail", "cat"], [1, 1, 1])
    assert verdict.present.tolist() == [False, True, True] and verdict.probability[1] == 0.75 and asked == [("slug", 1)]
    assert chain.parted(["car", "snail", "cat"]) == {"written": ["car", "cat"], "asks": ["snail"]}
    assert chain.present(IMAGES, ["cat", "car", "snail"]).tolist() == [True, False, True]
    assert chain.ranking(["car"]).name == "written"
    with pytest.raises(ValueError, match="ranks answers and knows all of car, snail"):
        chain.ranking(["car", "snail"])
    with pytest.raises(ValueError, match="no member of judge 'written' knows the label 'snail'"):
        Chain([judge], "written")(IMAGES[:1], ["snail"], [1])


def test_a_chain_tells_the_candidates_of_its_members(judge, concept):
    chain = Chain([judge, ClipJudge(Told(), "clip:x/y")], "written+clip:x/y").about([concept("snail")]).among(["car", "snail", "cat"])
    told = chain.meta["members"]
    assert list(told) == ["clip:x/y"] and told["clip:x/y"]["candidate_texts"]["object"][0] == "a photo of a snail"


def test_a_judge_with_one_question_answers_for_the_concepts_that_say_so(concept):
    everything = lambda images, label: (torch.ones(len(images), dtype=torch.bool), torch.ones(len(images)))  # noqa: E731
    judge = OneQuestionJudge(everything, "nudenet:core", "nudenet").about([concept("nudity", labels={"nudenet": "exposed"})])
    assert judge.knows("nudity") and not judge.knows("dog"), "else every dog would be judged naked or not"
    chain = Chain([judge, AskingJudge(lambda images, label: (images[:, 0, 0, 0] > 9, torch.zeros(len(images))), "last")], "both")
    assert chain(IMAGES, ["nudity", "dog", "nudity"], [1] * 3).present.tolist() == [True, False, True]


def test_a_chain_is_written_with_plus_signs_between_names_of_judges():
    assert judges.parts("resnet50+clip:ViT-B-32/openai") == ["resnet50", "clip:ViT-B-32/openai"]
    assert judges.parts("artist:/my+own/folder+clip:emoji") == ["artist:/my+own/folder", "clip:emoji"]
    assert judges.parts("clip:emoji") == ["clip:emoji"]
    with pytest.raises(ValueError, match="IMAGENET1K_V2"):
        judges.check("clip:emoji+resnet50")
    judges.check_ranks("nudenet:core+clip:emoji")
    with pytest.raises(ValueError, match="cannot rank answers"):
        judges.check_ranks("nudenet:core+gdino:a/b")


def test_a_sentence_says_what_a_judge_does_not_know_and_what_to_type(concept):
    told = judges.unknown_labels("resnet50", "photo", [concept("snoopy")], ["dog", "snoopy", "tench"], " (asked by x)")
    assert "judge='resnet50' has no label for 'snoopy' (asked by x)." in told and "labels: {imagenet: <its word>}" in told
    typed = re.search(r"judge=(resnet50\+\S+?);", told)[1]
    assert judges.unknown_labels(typed, "photo", [concept("snoopy")], ["dog", "snoopy", "tench"]) is None
    assert judges.LAST["photo"] in judges.unknown_labels("resnet50", "sketches", [], ["snoopy"]), "also for a domain of one's own"
    assert judges.unknown("emoji_a", [concept("hound", labels={"emoji": "dog"})], ["hound", "white", "dragon"]) == ["dragon"]
    assert judges.unknown("artist:/nowhere", [], ["anything"]) == [], "the labels lie beside weights that are not here"


def test_a_judge_without_its_network_knows_labels_and_says_that_it_judges_nothing():
    blank = PresenceJudge(None, {"object": ["cat", "dog"]}, "written")
    assert blank.knows("dog")
    with pytest.raises(ValueError, match="judge written has no network"):
        blank.present(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["dog"])
    with pytest.raises(ValueError, match="judge asked has no network"):
        AskingJudge(None, "asked").present(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["dog"])
