"""Concepts erased together: nobody preserves, anchors to or asks for what another one erases."""

import pytest

from vestige.bench.prompts import prompt_sets
from vestige.bench.run import concept_sets
from vestige.bench.run.job import Split


def test_erased_names_leave_the_lists_of_the_others(concept):
    dog = concept("dog", siblings=["cat", "kitten", "frog"], others=["car", "apple"])
    cat = concept("cat", aliases=["kitten"], siblings=["dog", "frog", "penguin"], others=["penguin", "pizza", "frog"])
    first, second = concept_sets.as_one_set([dog, cat])
    assert first.siblings == ["frog"] and second.siblings == ["frog", "penguin"]
    assert first.others == ["car", "apple"] and second.others == ["pizza"]  # siblings of one are unrelated to none


def test_a_single_concept_stays_as_its_file_says(concept):
    assert concept_sets.as_one_set([concept()]) == [concept()]


def test_the_limit_spreads_prompts_over_concepts(concept):
    split = Split("target", "target", rows=40, repeats=1, attacked=True, limit=80)
    assert [split.rows_for([concept()] * n) for n in (1, 2, 5, 40, 200)] == [40, 40, 16, 2, 1]


def test_a_concept_whose_siblings_are_all_erased_has_no_sibling_prompts(concept):
    both = concept_sets.as_one_set([concept("dog", siblings=["cat"]), concept("cat", siblings=["dog", "frog"])])
    asked = prompt_sets.build("siblings", "siblings", 2, 1, both, "photo").table
    assert set(asked["row_id"].str.split("-").str[0]) == {"cat"}
    with pytest.raises(ValueError, match="do not list for dog, cat"):
        prompt_sets.build(
            "siblings",
            "siblings",
            2,
            1,
            concept_sets.as_one_set([concept("dog", siblings=["cat"]), concept("cat", siblings=["dog"])]),
            "photo",
        )


def test_a_set_made_of_a_set_is_the_same(concept):
    """A job with one step makes its concepts one set for the step and again for the whole: its keys rest on this."""
    dog = concept("dog", siblings=["cat", "fox", "frog"], others=["car", "pear", "lion"], held_out=["fox", "pear"])
    cat = concept("cat", siblings=["dog", "pear", "lion"], others=["fox", "car", "dog"], held_out=["lion", "car"])
    once = concept_sets.as_one_set([dog, cat])
    assert concept_sets.as_one_set(once) == once != [dog, cat]
    assert concept_sets.in_order([[dog, cat]]) == [once] and concept_sets.whole([once], ["cat", "dog"]) == once[::-1]
