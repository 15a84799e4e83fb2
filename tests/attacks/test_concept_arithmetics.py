"""Composed guidance: the sum it promises, through the method's own rule, and a search that stops."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.attacks.concept_arithmetics import ConceptArithmetics, composed
from vestige.bench.contract.plugin import Victim
from vestige.bench.models.sampling import Step, classifier_free
from vestige.bench.run.generate import draw
from vestige.methods.original import Original

SMALL = ConceptArithmetics(compositions={"plain": {"{prompt}": 1.0}, "undo": {"{prompt}": -1.0}}, scales=[3.0, 5.0], about="concept")


@pytest.fixture
def loud(tiny):
    for name, parameter in tiny.denoiser.named_parameters():
        if "attn2.to_v" in name:
            parameter.data *= 50
    return tiny


def drawn(pipe, asked, sampler, terms=None):
    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]]
    if terms is None:
        return pipe(asked.prompts, seeds, sampler).pixels
    with composed(pipe, asked, terms):
        return pipe(asked.prompts, seeds, sampler).pixels


def test_one_prompt_at_the_samplers_scale_is_ordinary_guidance_bit_for_bit(loud, prompts, sampler):
    asked = prompts(2)
    terms = [[[sampler.guidance, text]] for text in asked.prompts]
    assert torch.equal(drawn(loud, asked, sampler, terms), drawn(loud, asked, sampler))
    assert not torch.equal(drawn(loud, asked, sampler, [[[5.0, text]] for text in asked.prompts]), drawn(loud, asked, sampler))


def test_a_term_less_itself_is_the_unconditional_image(loud, prompts, sampler):
    asked = prompts(1)
    nothing = asked.with_prompts([""])
    zero = drawn(loud, asked, sampler, [[[3.0, "a dog"], [-3.0, "a dog"]]])
    assert (zero.int() - drawn(loud, nothing, replace(sampler, guidance=1.0)).int()).abs().max() <= 1


@torch.no_grad()
def test_the_sum_is_that_of_the_paper_row_by_row_whatever_the_order(loud, prompts):
    asked = prompts(3)
    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]]
    terms = [[[3.0, "a cat"], [-2.0, "a tree"]], [[4.0, "a dog"]], [[-3.0, "red"], [2.0, "sky"], [2.0, "sea"]]]
    x, t, null = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500), loud.null(3)

    def out(terms):
        with composed(loud, asked, terms):
            rule = loud.guidance()
            return rule(Step(loud, x, t, 0, 2, loud.encode(asked.prompts), null, 3.0, tuple(seeds)))

    e_null = loud.predict(x, t, null)
    wanted = e_null.clone()
    for k, some in enumerate(terms):
        for w, text in some:
            wanted[k] += w * (loud.predict(x[k : k + 1], t, loud.encode([text])) - e_null[k : k + 1])[0]
    assert torch.allclose(out(terms), wanted, atol=1e-4)
    assert torch.allclose(out([some[::-1] for some in terms]), wanted, atol=1e-4)
    assert not torch.allclose(wanted, e_null, atol=1e-2)


@torch.no_grad()
def test_a_negative_weight_undoes_a_reversed_direction_exactly(tiny, prompts, monkeypatch):
    """eps_er(c) = eps_0 - eta d(c): with w = 1 / eta the negative term is the original conditional prediction."""
    eta, asked = 0.5, prompts(1)
    table = {"": torch.full((1, 4, 8, 8), 0.2), asked.prompts[0]: torch.full((1, 4, 8, 8), 1.0)}
    d = table[asked.prompts[0]] - table[""]
    empty = tiny.text.ids([""])[0]
    erased = lambda self, x, t, cond, module=None: torch.cat(  # noqa: E731
        [table[""] if torch.equal(ids, empty) else table[""] - eta * d for ids in cond.ids]
    )
    monkeypatch.setattr(type(tiny), "predict", erased)
    step = Step(
        tiny, torch.zeros(1, 4, 8, 8), torch.tensor(5), 0, 2, tiny.encode(asked.prompts), tiny.null(1), 3.0, (asked.seed("0000", 0),)
    )
    with composed(tiny, asked, [[[-1 / eta, asked.prompts[0]]]]):
        assert torch.allclose(tiny.guidance()(step), table[asked.prompts[0]])


def test_every_term_passes_the_methods_own_rule_with_a_state_of_its_own(loud, prompts, sampler):
    calls = []

    def defence():
        inner, mine = classifier_free(), []
        calls.append(mine)

        def rule(step):
            mine.append((step.index, step.scale, len(step.x)))
            return inner(step)

        return rule

    asked = prompts(2)
    with loud.guided_by(defence):
        drawn(loud, asked, sampler, [[[3.0, "a cat"], [-2.0, "a tree"]], [[3.0, "a dog"]]])
    assert calls == [[(0, 3.0, 2), (1, 3.0, 2)], [(0, 2.0, 1), (1, 2.0, 1)]]


def test_the_search_stops_per_row_and_what_it_found_is_drawn_again(loud, concept, prompts, sampler, context):
    asked, verdicts = prompts(2), [[False, True], [False], [True]]
    seen = []

    def judge(pixels, expect):
        seen.append(pixels)
        return torch.tensor(verdicts[len(seen) - 1])

    found = SMALL.attack(Victim(loud, [concept()], Original(), sampler, judge), asked, context())
    assert found.prompts.table["found_at"].tolist() == [3, 1]
    assert found.prompts.table["which"].tolist() == ["undo 3", "plain 3"]
    assert loud.counts["images"] == 2 + 1 + 1
    assert found.meta["rate_at_first"] == 0.5 and found.meta["rate_at_last"] == 1
    seeds = [asked.seed(row, 0) for row in asked.table["row_id"]]
    with SMALL.attach(loud, found) as pipe:
        again = pipe(found.prompts.prompts, seeds, sampler).pixels
    assert (again[1].int() - seen[0][1].int()).abs().max() <= 1 and (again[0].int() - seen[2][0].int()).abs().max() <= 1


def test_the_control_asks_for_unrelated_things_only(concept, prompts):
    attack = replace(SMALL, compositions={"x": {"{prompt} {alias}": 1.0, "{name} and {sibling}": -1.0}}, about="unrelated")
    row = prompts(1).table.to_dict("records")[0]
    assert attack.terms(row, [concept()], "x", 3.0) == [(3.0, "a car apple"), (-3.0, "car and apple")]


def test_weights_without_guidance_unknown_fields_and_missing_helpers_are_refused(concept):
    with pytest.raises(ValueError, match=r"weighs 0\.9"):
        replace(SMALL, scales=[0.9])
    with pytest.raises(ValueError, match="sibling"):
        replace(SMALL, compositions={"x": {"{friend}": 1.0}})
    attack = replace(SMALL, compositions={"x": {"{alias}": 1.0}})
    assert "aliases" in attack.supports(tiny_spec(), [concept(aliases=[])], Original())


def shared_seeds(prompts, repeats=1):
    """Three rows of different words, all drawn from the same seed."""
    asked = prompts(3, repeats=repeats)
    return replace(asked, table=asked.table.assign(prompt=["a cat", "a red car", "a tree"], seed=7))


def test_rows_that_share_a_seed_get_their_own_words(loud, sampler, tmp_path, prompts):
    """Protocols ask every subject from the same seeds (speed_instance): each image still follows the terms of its own row."""
    asked = shared_seeds(prompts)
    terms = [[[sampler.guidance, text]] for text in asked.prompts]
    plain = draw(loud, asked, sampler, tmp_path / "plain", 2).pixels()
    with composed(loud, asked, terms):
        own = draw(loud, asked, sampler, tmp_path / "own", 2).pixels()
    assert torch.equal(own, plain), "one prompt at the sampler's scale is ordinary guidance, row by row"
    assert not torch.equal(own[0], own[1])
    with composed(loud, asked, terms), pytest.raises(ValueError, match="a seed that several of its rows share"):
        loud(asked.prompts, [7, 7, 7], sampler)
