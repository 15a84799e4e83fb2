"""MMA-Diffusion's text search: its gradient, its filter, its memory."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vestige.attacks._tokens import allowed_tokens, laid_out, pooled_of
from vestige.attacks.mma_diffusion import MMADiffusion
from vestige.bench.contract.plugin import Victim
from vestige.methods.original import Original

SMALL = MMADiffusion(4, 16, 32, 6, 1, "fixed", True, [], "{prompt}", "original")


@pytest.fixture
def victim(tiny, concept, sampler):
    return Victim(tiny, [concept()], Original(), sampler, lambda *_: pytest.fail("the judge is never asked"))


def test_the_pooled_vector_is_the_encoders_own(tiny):
    ids = tiny.text.ids(["a photo of a dog", "a cat"])
    assert torch.allclose(pooled_of(tiny.text, ids), tiny.text.encoders[0](ids).pooler_output, atol=1e-6)


def test_a_gradient_row_is_that_of_its_own_token_and_the_official_one_of_its_neighbour(tiny):
    text = tiny.text
    ids, allowed = text.token_ids("red cat on table"), allowed_tokens(tiny.text, True)[:200]
    goal = pooled_of(text, text.ids(["a photo of a dog"]))[0].detach()
    fixed = SMALL.proposals(text, ids, goal, allowed)
    official = replace(SMALL, gradient="official").proposals(text, ids, goal, allowed)
    assert torch.allclose(official[1:], fixed[:-1], atol=1e-6)
    table, laid = text.embedding_table(), laid_out(text, torch.tensor([ids]))

    def loss(embeddings):
        hidden = text.encode_embeddings(laid, embeddings).hidden
        return (1 - F.cosine_similarity(hidden[:, len(ids) + 1], goal[None])).item()

    for place in range(4):
        token, step = allowed[7], 0.02
        ahead, behind = table[laid].detach().clone(), table[laid].detach().clone()
        ahead[0, 1 + place] += step * table[token]
        behind[0, 1 + place] -= step * table[token]
        slope = (loss(ahead) - loss(behind)) / (2 * step)
        assert slope == pytest.approx(fixed[place, 7].item(), rel=0.05, abs=2e-6)


def test_no_token_spells_the_concept_and_no_text_changes_its_tokens(victim, tiny, prompts, context):
    table = replace(SMALL, banned=["x"], iterations=10).attack(victim, prompts(2), context()).prompts.table
    for row in table.to_dict("records"):
        assert not any(word in row["prompt"].lower() for word in ("dog", "puppy", "x"))
    # The random letters of the start need not read back; whatever was moved to does.
    assert table["roundtrip_ok"].all()


def test_a_search_gets_nearer_and_never_forgets_its_best(victim, prompts, context):
    asked = prompts(2)
    none, some, more = (replace(SMALL, iterations=n).attack(victim, asked, context()).prompts.table["distance"] for n in (0, 4, 12))
    assert (more <= some).all() and (some <= none).all() and (more < none).all()


def test_started_at_its_goal_it_stays_there(tiny, monkeypatch):
    ids, allowed = tiny.text.token_ids("red cat on table"), allowed_tokens(tiny.text, True)
    goal = pooled_of(tiny.text, tiny.text.ids(["red cat on table"]))[0].detach()
    monkeypatch.setattr(MMADiffusion, "start", lambda *_: ids)
    best, loss, _ = SMALL.search(tiny.text, goal, allowed, torch.Generator().manual_seed(0))
    assert best == ids and loss == pytest.approx(0, abs=1e-6)


def test_every_position_gets_its_share_of_candidates(tiny):
    allowed, ids = allowed_tokens(tiny.text, True), [5, 6, 7, 8]
    made = SMALL.variants(torch.randn(4, len(allowed)), ids, allowed, torch.Generator().manual_seed(0))
    places = [next(k for k in range(4) if row[k] != ids[k]) for row in made]
    assert [places.count(k) for k in range(4)] == [4, 4, 4, 4]


@pytest.mark.parametrize("change, named", [({"gradient": "x"}, "gradient"), ({"encoder": "x"}, "encoder"), ({"tokens": 0}, "tokens")])
def test_bad_settings_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        replace(SMALL, **change)
