"""Concept inversion: only the word learns, at the stated rate, and it stands where the name stood."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.attacks.circumventing import Circumventing
from vestige.attacks.training_images import original_images
from vestige.bench.contract.plugin import Victim
from vestige.bench.models import loading
from vestige.bench.models.families.sd1 import SD1
from vestige.bench.models.sampling import classifier_free
from vestige.methods.original import Original

SMALL = Circumventing(
    vectors=1,
    initialiser="object",
    templates=["a photo of a {name}", "a {name}"],
    captions="own",
    images=2,
    source="target",
    steps=3,
    batch=2,
    accumulation=2,
    lr=0.01,
    scale_lr=True,
    weight_decay=0.01,
    flip=0.5,
    target_text="concept",
    chain=1,
    chain_range=1,
)


@pytest.fixture
def victim(tiny, concept, sampler):
    # A random denoiser hardly hears its text: let cross-attention speak up.
    for name, parameter in tiny.denoiser.named_parameters():
        if "attn2.to_v" in name:
            parameter.data *= 50
    return Victim(tiny, [concept()], Original(), sampler, None)


def test_only_the_word_changes_and_the_same_seed_gives_the_same_word(victim, prompts, context):
    before = victim.pipe.fingerprint()
    first = SMALL.attack(victim, prompts(2), context())
    again = SMALL.attack(victim, prompts(2), context())
    assert victim.pipe.fingerprint() == before
    assert torch.equal(first.tensors["dog"], again.tensors["dog"])
    assert not torch.equal(first.tensors["dog"], SMALL.initial(victim.pipe)["clip"])
    other = SMALL.attack(victim, prompts(2), context("another seed"))
    assert not torch.equal(first.tensors["dog"], other.tensors["dog"])


def test_the_word_stands_in_every_prompt_and_changes_the_image(victim, prompts, context, sampler):
    asked = prompts(2).with_prompts(["a photo of a dog", "something in a garden"])
    found = SMALL.attack(victim, asked, context())
    assert found.prompts.prompts == ["a photo of a <dog>", "<dog> something in a garden"]
    with SMALL.attach(victim.pipe, found) as pipe:
        drawn = pipe(found.prompts.prompts, [1, 2], sampler).pixels
        layout = pipe.encode(found.prompts.prompts).hidden
    assert not torch.equal(drawn, victim.pipe(asked.prompts, [1, 2], sampler).pixels)
    with victim.pipe.with_learned_tokens({"<dog>": SMALL.initial(victim.pipe)["clip"]}):
        assert not torch.equal(layout, victim.pipe.encode(found.prompts.prompts).hidden)


def test_with_the_concepts_own_word_the_first_loss_is_the_base_loss(victim, context, concept):
    attack = replace(SMALL, initialiser="dog")
    training_images = original_images(context(), attack.templates, ["dog"], 2)
    loss = {}
    for name, word in (("learnt", attack.initial(victim.pipe)["clip"]), ("other", -attack.initial(victim.pipe)["clip"])):
        with victim.pipe.with_learned_tokens({"<dog>": word}):
            loss[name] = attack.training_loss(victim, concept(), training_images, torch.Generator().manual_seed(3)).item()
    base = _plain_loss(victim.pipe, attack, training_images, torch.Generator().manual_seed(3))
    assert loss["learnt"] == pytest.approx(base, rel=1e-5)
    assert loss["other"] != pytest.approx(base, rel=1e-5)


def _plain_loss(pipe, attack, training_images, generator):
    places = training_images.draw(attack.batch, generator)
    x0 = training_images.latents(pipe, places, attack.flip, generator)
    noise = torch.randn(x0.shape, generator=generator)
    t = torch.randint(1000, (attack.batch,), generator=generator)
    alpha = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    cond = pipe.encode([training_images.caption(place) for place in places])
    with torch.no_grad():
        out = pipe.predict(alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, t, cond)
    return (out - pipe.process.target(x0, noise, t)).square().mean().item()


def test_training_lowers_the_loss_on_the_concepts_images(victim, concept, prompts, context):
    attack = replace(SMALL, steps=40, lr=0.05, scale_lr=False, accumulation=1, batch=4)
    ctx = context()
    word = attack.learn(victim, concept(), ctx)
    training_images = original_images(context(), attack.templates, ["dog"], 2)
    losses = []
    for candidate in (attack.initial(victim.pipe), word):
        with victim.pipe.with_learned_tokens({"<dog>": candidate}), torch.no_grad():
            shared = torch.Generator().manual_seed(9)
            losses.append(sum(attack.training_loss(victim, concept(), training_images, shared).item() for _ in range(10)))
    assert losses[1] < losses[0]


def test_the_effective_learning_rate_counts_batch_and_accumulation(victim, prompts, context):
    assert SMALL.effective_lr == pytest.approx(0.01 * 2 * 2)
    assert replace(SMALL, scale_lr=False).effective_lr == 0.01
    assert SMALL.attack(victim, prompts(1), context()).meta["effective_lr"] == pytest.approx(0.04)


def test_an_initialiser_of_several_tokens_is_their_mean_and_the_report_says_so(victim, prompts, context):
    attack = replace(SMALL, initialiser="red object", vectors=3, steps=0)
    found = attack.attack(victim, prompts(1), context())
    ids = victim.pipe.text.token_ids("red object")
    assert found.meta["initialiser_tokens"] == len(ids) == 2
    mean = victim.pipe.text.embedding_table()[ids].mean(0)
    assert torch.allclose(found.tensors["dog"], mean.expand(3, -1))


def test_against_a_negative_prompt_the_loss_has_the_closed_form_of_the_paper(victim, concept, context, monkeypatch):
    """With v = the concept's own word, student = eps_n and target = eps_0 + w (eps_n - eps_0): zero only for w = 1."""
    monkeypatch.setattr(Original, "intervention", "sampling")
    pipe = victim.pipe

    def negative_prompt():
        def rule(step):
            negative = pipe.encode(["a dog"] * len(step.cond))
            e_negative, e_cond = (pipe.predict(step.x, step.t, c) for c in (negative, step.cond))
            return e_negative + step.scale * (e_cond - e_negative)

        return rule

    named = concept(name="a dog")
    attack = replace(SMALL, templates=["{name}"], initialiser="dog", captions="own")
    training_images = original_images(context(), ["{name}"], ["a dog"], 2)
    word = pipe.text.embedding_table()[pipe.text.token_ids("a dog")]
    losses = {}
    for w in (1.0, 3.0):
        victim.sampler = replace(victim.sampler, guidance=w)
        with pipe.guided_by(negative_prompt), pipe.with_learned_tokens({"<dog>": word}):
            losses[w] = attack.guided_loss(victim, named, training_images, torch.Generator().manual_seed(0)).item()
    assert losses[1.0] == pytest.approx(0, abs=1e-9)
    assert losses[3.0] > 1e-9


def test_a_sampling_defence_is_inside_the_loss_and_carries_its_state_over_the_chain(victim, concept, prompts, context, monkeypatch):
    monkeypatch.setattr(Original, "intervention", "sampling")
    seen = []

    def counting():
        inner, steps = classifier_free(), []

        def rule(step):
            steps.append(int(step.t))
            seen.append(list(steps))
            return inner(step)

        return rule

    with victim.pipe.guided_by(counting):
        replace(SMALL, steps=1, accumulation=1, chain=3, chain_range=20).learn(victim, concept(), context())
    assert [len(run) for run in seen] == [1, 2, 3], "one rule must see the whole chain"
    assert seen[-1] == sorted(seen[-1], reverse=True)


def test_a_chain_has_distinct_descending_levels_within_its_range(tiny):
    attack = replace(SMALL, chain=35, chain_range=90)
    ends = []
    for seed in range(200):
        times = attack.levels(tiny, torch.Generator().manual_seed(seed)).tolist()
        assert times == sorted(set(times), reverse=True) and len(times) == 35
        assert max(times) - min(times) < 90 and min(times) >= 0 and max(times) <= 999
        ends.append(max(times))
    assert max(ends) - min(ends) > 700, "n must move over the whole training range"


def test_several_erased_concepts_get_a_word_each(tiny, concept, sampler, prompts, context):
    cat = concept("cat", aliases=["kitten"])
    victim = Victim(tiny, [concept(), cat], Original(), sampler, None)
    asked = prompts(2).with_prompts(["a photo of a dog", "a photo of a cat"])
    found = replace(SMALL, steps=1).attack(victim, asked, context())
    assert found.prompts.prompts == ["a photo of a <dog>", "a photo of a <cat>"]
    assert set(found.tensors) == {"dog", "cat"}


def test_unknown_options_and_impossible_chains_are_refused():
    with pytest.raises(ValueError, match="own, any"):
        replace(SMALL, captions="none")
    with pytest.raises(ValueError, match="chain_range"):
        replace(SMALL, chain=3, chain_range=2)


def test_a_control_learns_another_word_from_other_images(victim, prompts, context):
    words = [replace(SMALL, source=source).attack(victim, prompts(1), context()).tensors["dog"] for source in ("target", "never_knew")]
    assert not torch.equal(*words)


@pytest.fixture
def two_encoders(concept, sampler):
    pipe = loading.load(tiny_spec("sdxl"))
    for parameter in pipe.group("cross_v").values():
        parameter.data *= 50
    return Victim(pipe, [concept()], Original(), sampler, None)


def test_with_two_text_encoders_the_word_has_rows_for_each_and_both_are_heard(two_encoders, prompts, context):
    pipe, ctx = two_encoders.pipe, context(spec=tiny_spec("sdxl"))
    found = SMALL.attack(two_encoders, prompts(1), ctx)
    assert set(found.tensors) == {"dog", "dog.clip_2"}
    start = SMALL.initial(pipe)
    assert not torch.equal(found.tensors["dog"], start["clip"]) and not torch.equal(found.tensors["dog.clip_2"], start["clip_2"])

    def heard(tensors):
        with SMALL.attach(pipe, replace(found, tensors=tensors)), torch.no_grad():
            return pipe.encode(found.prompts.prompts)

    both = heard(found.tensors)
    without = heard(found.tensors | {"dog.clip_2": start["clip_2"]})
    assert torch.equal(both.hidden[..., :32], without.hidden[..., :32]), "the first encoder reads its own rows"
    assert not torch.equal(both.hidden[..., 32:], without.hidden[..., 32:]) and not torch.equal(both.pooled, without.pooled)


def test_against_changed_sampling_a_model_without_levels_is_refused(concept, monkeypatch):
    monkeypatch.setattr(SD1, "offers", tuple(word for word in SD1.offers if word != "levels"))
    assert SMALL.supports(tiny_spec(), [concept()], Original()) is None
    monkeypatch.setattr(Original, "intervention", "sampling")
    assert "noise level" in SMALL.supports(tiny_spec(), [concept()], Original())
