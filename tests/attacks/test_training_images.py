"""Images of an attacker and of its controls: other images, the same captions."""

from collections import Counter

import pytest
import torch

from vestige.attacks.training_images import check_source, concept_images, row_images, shuffled, unsupported_source
from vestige.bench.contract.controls import CONTROLS, SOURCES


def test_controls_show_other_images_under_the_same_captions(context, concept):
    dog, cat = concept(), concept("cat", aliases=["kitten"], siblings=["dog"])
    made = {source: concept_images(context(), ["a {name}"], [dog, cat], 4, source) for source in SOURCES}
    for training_images in made.values():
        assert [training_images.caption(k) for k in range(4)] == ["a dog", "a cat", "a dog", "a cat"]
    for source in CONTROLS:
        assert not torch.equal(made[source].pixels, made["target"].pixels)
    drawn = context().generate(["a cat", "a dog", "a cat", "a dog"], 1)
    assert torch.equal(made["wrong_concept"].pixels, drawn), "the first sibling of each concept"


def test_images_of_rows_are_not_the_models_answers_to_the_rows_own_seeds(context, prompts, concept, tiny, sampler):
    asked = prompts(2, repeats=2)
    images = row_images(context(), asked, [concept()], "target", 2)
    seeds = [asked.seed(row, rep) for row in asked.table["row_id"] for rep in range(2)]
    answers = tiny([text for text in asked.prompts for _ in range(2)], seeds, sampler).pixels
    assert images.shape == answers.shape and not torch.equal(images, answers)
    wrong = row_images(context(), asked, [concept()], "wrong_concept", 2)
    assert torch.equal(wrong, context().generate(["a photo of a cat 0", "a photo of a cat 1"], 2))


def test_scrambling_moves_squares_and_keeps_every_pixel():
    pixels = torch.arange(2 * 3 * 18 * 16).view(2, 3, 18, 16)
    mixed = shuffled(pixels, torch.Generator().manual_seed(0))
    assert not torch.equal(mixed, pixels)
    for one, other in zip(mixed, pixels, strict=True):
        assert Counter(one.flatten().tolist()) == Counter(other.flatten().tolist())
    piece = mixed[0, 0, :4, :4]
    assert (piece[1] - piece[0] == 16).all() and (piece[:, 1] - piece[:, 0] == 1).all(), "a square stays whole"
    assert torch.equal(mixed[..., 16:, :], pixels[..., 16:, :]), "rows that fit into no square stay"


def test_made_up_images_differ_among_themselves_and_repeat(context, concept):
    one, again = (concept_images(context(), ["a {name}"], [concept()], 3, "never_knew").pixels for _ in range(2))
    assert torch.equal(one, again) and one.dtype == torch.uint8
    assert not torch.equal(one[0], one[1])


def test_unknown_sources_and_missing_siblings_are_refused(concept):
    with pytest.raises(ValueError, match="wrong_concept, scrambled, never_knew"):
        check_source("memora", "stolen")
    assert "siblings" in unsupported_source("wrong_concept", [concept(siblings=[])])
    assert unsupported_source("scrambled", [concept(siblings=[])]) is None
