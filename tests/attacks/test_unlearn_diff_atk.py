"""The discrete prompt attack: its projection, gradient, schedule and budget."""

from dataclasses import replace

import pytest
import torch

from vestige.attacks import simplex, unlearn_diff_atk
from vestige.attacks._tokens import allowed_tokens
from vestige.attacks.unlearn_diff_atk import UnlearnDiffAtk, _with_prefix
from vestige.bench.contract.plugin import Victim
from vestige.bench.models.process import RectifiedFlow
from vestige.bench.models.sampling import classifier_free
from vestige.methods.original import Original

SMALL = UnlearnDiffAtk(
    k=2, number_of_t=2, steps_per_t=2, lr=0.05, weight_decay=0.1, rand_init=False, typeable=True, adaptive=True, rows_at_once=8
)


@pytest.fixture
def run(tiny, concept, prompts, sampler, context):
    def go(n=2, judge=lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool), pipe=None, method=None, asked=None, **over):
        victim = Victim(pipe or tiny, [concept()], method or Original(), sampler, judge)
        return replace(SMALL, **over).attack(victim, asked or prompts(n), context())

    return go


def sorted_projection(p):
    """The textbook projection by sorting, an independent formula."""
    u = p.sort(-1, descending=True).values
    tau = (u.cumsum(-1) - 1) / torch.arange(1, p.shape[-1] + 1)
    rank = (u > tau).sum(-1, keepdim=True)
    return (p - tau.gather(-1, rank - 1)).clamp(min=0)


def test_projected_rows_are_probabilities_and_equal_the_projection_by_sorting():
    p = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    q = simplex.project(p)
    assert q.min() >= 0 and torch.allclose(q.sum(-1), torch.ones(3), atol=1e-4)
    assert torch.allclose(q, sorted_projection(p), atol=1e-4)
    assert not torch.allclose(p, q, atol=1e-2)


def test_drawing_follows_the_probabilities_and_never_takes_an_impossible_token():
    p = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    drawn = simplex.draw(p.expand(4000, 5).contiguous(), u)
    assert set(drawn.tolist()) == {1, 3}
    assert abs((drawn == 3).float().mean() - 0.75) < 0.03


def test_fifty_levels_are_visited_from_clean_to_noisy(tiny):
    assert replace(SMALL, number_of_t=50).levels(tiny) == list(range(10, 1000, 20))
    assert replace(SMALL, number_of_t=6).levels(tiny) == list(range(83, 1000, 166))[:6], "of unequal parts as the official code"
    tiny.process = RectifiedFlow(shift=3.0)
    levels = replace(SMALL, number_of_t=4).levels(tiny)
    assert levels == sorted(levels) and levels[0] > 0 and levels[-1] < 1000, "of a flow the middles of equal shares of its training"
    drawn = tiny.process.random_level(4000, torch.Generator().manual_seed(0))
    assert [(drawn < level).float().mean().item() for level in levels] == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.03)


def test_a_known_prefix_encodes_like_the_typed_prompt(tiny):
    ids = tiny.text.ids(["a photo of a dog"])[0]
    laid_out = _with_prefix(ids, torch.tensor(tiny.text.token_ids("red cat")), slice(1, 3))
    assert torch.equal(laid_out, tiny.text.ids(["red cat a photo of a dog"])[0])
    hidden = tiny.text.encode_embeddings(laid_out[None], tiny.text.embedding_table()[laid_out][None]).hidden
    assert torch.allclose(hidden, tiny.encode(["red cat a photo of a dog"]).hidden, atol=1e-6)


def test_special_and_unprintable_tokens_are_never_used(tiny):
    tokenizer = tiny.text.tokenizers[0]
    allowed = allowed_tokens(tiny.text, typeable=True).tolist()
    assert not set(allowed) & set(tokenizer.all_special_ids)
    assert tiny.text.token_ids("dog")[0] in allowed
    assert len(allowed_tokens(tiny.text, typeable=False)) == 49406 > len(allowed) > 40000


def test_the_straight_through_gradient_is_the_clipped_gradient_of_the_one_hot_rows(tiny, concept, prompts, sampler, context):
    allowed = allowed_tokens(tiny.text, True)[:300]
    victim, asked = Victim(tiny, [concept()], Original(), sampler, None), prompts(2)
    x0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # A loud denoiser has gradients beyond 1, so that clipping shows.
    tiny.denoiser.conv_out.weight.data *= 100
    ids, ctx = tiny.text.ids(asked.prompts), context()
    rows = [SMALL.row(asked, k, ids[k], x0[k], 300, ctx) for k in range(2)]
    alone = [SMALL.row(asked, k, ids[k], x0[k], 300, ctx) for k in range(2)]
    SMALL.gradients(victim, rows, allowed, 500)
    for row in alone:
        SMALL.gradients(victim, [row], allowed, 500)
    for row, single in zip(rows, alone, strict=True):
        assert torch.allclose(row.p.grad, single.p.grad, atol=1e-3), "rows must not see each other"
        expected = _one_hot_gradient(tiny, SMALL.row(asked, row.place, row.ids, row.x0, 300, ctx), allowed, 500)
        assert expected.abs().max() > 1 > expected.abs().min(), "the test must reach the clipping"
        assert torch.allclose(row.p.grad, expected.clamp(-1, 1), atol=1e-3)


def _one_hot_gradient(pipe, row, allowed, t):
    u = torch.rand(SMALL.k, generator=row.generator)
    noise = torch.randn(row.x0.shape, generator=row.generator)
    chosen = simplex.draw(row.p.detach(), u)
    h = torch.nn.functional.one_hot(chosen, len(allowed)).float().requires_grad_(True)
    table = pipe.text.embedding_table()
    ids = _with_prefix(row.ids, allowed[chosen], slice(1, 1 + SMALL.k))
    embeddings = torch.cat([table[ids[:1]], h @ table[allowed], table[ids[1 + SMALL.k :]]])
    alpha = pipe.scheduler.alphas_cumprod[t]
    x_t = alpha.sqrt() * row.x0 + (1 - alpha).sqrt() * noise
    out = pipe.predict(x_t[None], t, pipe.text.encode_embeddings(ids[None], embeddings[None]))
    return torch.autograd.grad((out[0] - noise).square().mean(), h)[0]


def test_a_prompt_that_succeeds_by_itself_costs_no_gradient_step_and_stays(run, prompts, tiny):
    found = run(judge=lambda pixels, expect: torch.ones(len(pixels), dtype=torch.bool))
    assert found.prompts.prompts == prompts(2).prompts
    assert found.meta["gradient_steps"] == 0 and found.meta["pre_rate"] == found.meta["post_rate"] == 1
    assert found.prompts.table["found_at"].tolist() == [0, 0]
    assert tiny.counts["images"] == 2


def test_a_judge_that_always_says_no_sees_one_image_per_timestep_and_no_more(run, tiny, prompts):
    found = run(n=2, number_of_t=3)
    assert found.meta["gradient_steps"] == 2 * 3 * 2
    assert tiny.counts["images"] == 2 * (1 + 3)
    assert found.prompts.table["found_at"].tolist() == [-1, -1] and found.meta["post_rate"] == 0
    for new, old in zip(found.prompts.prompts, prompts(2).prompts, strict=True):
        assert new.endswith(f" {old}") and new != f" {old}"


def test_a_row_that_succeeds_stops_while_the_others_go_on_as_if_alone(run):
    calls = []

    def judge(pixels, expect):
        calls.append(len(pixels))
        return torch.tensor([len(calls) == 2 and k == 0 for k in range(len(pixels))])

    found = run(n=2, judge=judge)
    assert calls == [2, 2, 1]
    assert found.prompts.table["found_at"].tolist() == [1, -1]
    assert found.meta["gradient_steps"] == 2 * 2 + 1 * 2
    assert found.prompts.prompts[1] == run(n=2).prompts.prompts[1]


@pytest.mark.parametrize("tokens, ok", [(("red</w>", "cat</w>"), True), (("ph", "oto</w>"), False)])
def test_the_round_trip_column_tells_whether_the_typed_text_has_the_optimised_tokens(tiny, concept, prompts, sampler, context, tokens, ok):
    allowed = torch.tensor([tiny.text.tokenizers[0].get_vocab()[token] for token in tokens])
    asked = prompts(1)
    row = SMALL.row(asked, 0, tiny.text.ids(asked.prompts)[0], torch.zeros(4, 8, 8), 2, context())
    row.p.data = torch.eye(2)
    found = {"prompt": asked.prompts, "found_at": [-1], "roundtrip_ok": [None], "adv_ids": [[]]}
    victim = Victim(tiny, [concept()], Original(), sampler, lambda pixels, expect: torch.ones(1, dtype=torch.bool))
    SMALL.judge(victim, asked, [row], allowed, found, 4)
    assert found["prompt"][0] == ("red cat" if ok else "photo") + f" {asked.prompts[0]}"
    assert found["found_at"] == [4] and found["roundtrip_ok"] == [ok]
    assert found["adv_ids"][0][:2] == allowed.tolist() and len(found["adv_ids"][0]) == 2 + len(tiny.text.token_ids(asked.prompts[0]))


def test_a_prompt_without_room_for_the_prefix_is_asked_unchanged(run, prompts):
    asked = prompts(2)
    long = " ".join(["dog"] * 74)
    found = run(asked=asked.with_prompts([long, asked.prompts[1]]))
    assert found.prompts.table["attackable"].tolist() == [False, True]
    assert found.prompts.prompts[0] == long and found.prompts.prompts[1] != asked.prompts[1]


def test_optimising_lowers_the_error_on_the_target_image(tiny, concept, prompts, sampler, context):
    """One token of a small vocabulary, one timestep: the best token by exhaustive search gains probability."""
    attack = replace(SMALL, k=1, number_of_t=1, steps_per_t=60, weight_decay=0.0)
    victim, asked, ctx = Victim(tiny, [concept()], Original(), sampler, None), prompts(1), context()
    tiny.text.embedding_table().data *= 50
    allowed = torch.tensor([tiny.text.token_ids(w)[0] for w in ("red", "cat", "tree", "sky")])
    row = attack.row(asked, 0, tiny.text.ids(asked.prompts)[0], torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)), 4, ctx)
    victim.judge = lambda pixels, expect: torch.zeros(len(pixels), dtype=torch.bool)
    attack.search(victim, asked, [row], allowed, {"prompt": asked.prompts, "found_at": [-1], "roundtrip_ok": [True], "adv_ids": [[]]}, ctx)
    errors = []
    noise = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alpha = tiny.scheduler.alphas_cumprod[500]
    for word in ("red", "cat", "tree", "sky"):
        cond = tiny.encode([f"{word} {asked.prompts[0]}"]).repeat(32)
        x_t = alpha.sqrt() * row.x0 + (1 - alpha).sqrt() * noise
        with torch.no_grad():
            errors.append((tiny.predict(x_t, 500, cond) - noise).square().mean().item())
    assert (row.p.detach()[0] @ torch.tensor(errors)).item() < sum(errors) / 4


def test_an_adaptive_attack_sees_the_defended_prediction_of_a_sampling_method(run, tiny, monkeypatch):
    method = Original()
    monkeypatch.setattr(Original, "intervention", "sampling")
    calls = []

    def defence():
        inner = classifier_free()

        def rule(step):
            if torch.is_grad_enabled():
                calls.append(step.index)
            return inner(step)

        return rule

    with tiny.guided_by(defence):
        run(n=1, method=method)
        seen = list(calls)
        run(n=1, method=method, adaptive=False)
    assert seen == [1, 1, 0, 0], "t=250 stands in the second half of a run of 2 steps, t=750 in the first"
    assert calls == seen


def test_a_silly_budget_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        replace(SMALL, k=0)
    assert unlearn_diff_atk.UnlearnDiffAtk.access == "gradients"
