"""A model that draws token by token, behind the interface of all models: its tokens are those of transformers, its rows independent."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec

from vestige.bench.contract.types import Sampler
from vestige.bench.models import loading
from vestige.bench.models.families import _tokens
from vestige.bench.models.families.janus import tiny_net
from vestige.bench.models.sampling import classifier_free

PROMPTS, SEEDS = ["a photo of a dog", "cat"], [1, 2]
DRAWN = Sampler("tokens", {}, 16, 3.0, 16, 16)
GREEDY = replace(DRAWN, arguments={"temperature": 0})
SPEC = tiny_spec("janus")


@pytest.fixture
def janus():
    return loading.load(SPEC)


def drawn(pipe, prompts=PROMPTS, seeds=SEEDS, sampler=DRAWN):
    with torch.no_grad():
        return pipe.sample(pipe.encode(prompts), seeds, sampler)


def tokens_of_transformers(net, reader, ids, guidance: float):
    settings = net.generation_config
    settings.bos_token_id, settings.pad_token_id = reader.tokenizer.bos_token_id, reader.tokenizer.pad_token_id
    settings.generation_kwargs = {"boi_token_id": reader.ending[-1]}
    mask = reader.mask(ids).long()
    return net.generate(ids, attention_mask=mask, generation_mode="image", guidance_scale=guidance, do_sample=False)


# Drawing


@pytest.mark.parametrize("guidance", [1.5, 3.0, 7.0])
def test_greedy_tokens_and_images_equal_those_of_transformers(janus, guidance):
    reader, net = janus.text.readers[0], tiny_net()
    wanted = tokens_of_transformers(net, reader, reader.ids(PROMPTS), guidance)
    ours = drawn(janus, sampler=replace(GREEDY, guidance=guidance))
    assert torch.equal(ours, wanted) and len(wanted.unique()) > 10
    pixels = net.decode_image_tokens(wanted).permute(0, 3, 1, 2)
    assert torch.equal(janus.decode(ours), (pixels / 2 + 0.5).clamp(0, 1))


def test_tokens_do_not_depend_on_how_much_padding_stands_before_a_prompt(janus):
    """The library pads to the longest prompt of a batch, we always to the same length."""
    reader = janus.text.readers[0]
    ids = reader.ids(PROMPTS)
    shortest = ids[:, reader.mask(ids).int().argmax(-1).min() :]
    assert shortest.shape[1] < 30 < ids.shape[1]
    assert torch.equal(tokens_of_transformers(tiny_net(), reader, shortest, 3.0), drawn(janus, sampler=GREEDY))


def test_without_guidance_the_prompt_alone_is_read(janus):
    before = janus.counts["forward_rows"]
    alone = drawn(janus, sampler=replace(GREEDY, guidance=1.0))
    assert janus.counts["forward_rows"] - before == 2 * 16
    cond, tokens = janus.encode(PROMPTS), alone[:, :0]
    for k in range(16):
        with torch.no_grad():
            tokens = torch.cat([tokens, janus.predict(tokens, k, cond).argmax(-1, keepdim=True)], 1)
    assert torch.equal(alone, tokens)


def test_an_image_follows_its_own_seed_and_not_its_batch_mates(janus):
    together = janus(PROMPTS * 2, [1, 2, 3, 4], DRAWN).pixels
    assert torch.equal(janus(PROMPTS[1:], [4], DRAWN).pixels, together[3:])
    assert torch.equal(janus(PROMPTS * 2, [1, 2, 3, 4], DRAWN).pixels, together)
    assert not torch.equal(together[0], together[2])
    assert together.shape == (4, 3, 16, 16) and together.dtype == torch.uint8


def test_one_likeliest_token_is_greedy_and_more_are_not(janus):
    greedy = drawn(janus, sampler=GREEDY)
    assert torch.equal(drawn(janus, sampler=replace(DRAWN, arguments={"top_k": 1})), greedy)
    assert torch.equal(drawn(janus, sampler=replace(DRAWN, arguments={"temperature": 1e-4})), greedy)
    assert not torch.equal(drawn(janus, sampler=replace(DRAWN, arguments={"top_k": 8})), greedy)


def test_tokens_outside_of_top_k_are_never_drawn():
    logits = torch.arange(10.0)[None].repeat(50, 1) / 100
    generators = [torch.Generator().manual_seed(seed) for seed in range(50)]
    scheduler = _tokens.TokenScheduler(top_k=3)
    found = scheduler.step(logits, torch.tensor(0), torch.empty((50, 0), dtype=torch.long), generators).prev_sample
    assert sorted(found.unique().tolist()) == [7, 8, 9]


# Guidance rules


def test_a_guidance_rule_is_given_logits_and_decides_which_tokens_are_drawn(janus):
    seen = []

    def only_even():
        def rule(step):
            null, cond = step.predict_both()
            seen.append((step.index, int(step.t), step.x.shape[1], tuple(cond.shape), step.scale))
            out = null + step.scale * (cond - null)
            out[:, 1::2] = -torch.inf
            return out

        return rule

    with janus.guided_by(only_even):
        tokens = drawn(janus)
    assert (tokens % 2 == 0).all() and (drawn(janus) % 2).any()
    assert seen == [(k, k, k, (2, 64), 3.0) for k in range(16)]


def test_the_unconditional_rows_are_the_prompts_with_padding_for_words(janus):
    rows = []

    def look():
        def rule(step):
            rows.append(step.null.ids)
            return classifier_free()(step)

        return rule

    with janus.guided_by(look):
        drawn(janus)
    reader = janus.text.readers[0]
    begin, pad, end = (reader.tokenizer.convert_tokens_to_ids(t) for t in ("<begin>", "<pad>", "<begin_of_image>"))
    assert rows[0][1].tolist() == [pad] * 123 + [begin, pad, pad, pad, end]


def test_hooks_see_how_many_tokens_there_are_and_which_rows_are_unconditional(janus):
    calls = []
    with janus.before_denoiser(
        lambda call: calls.append((call.step, call.steps, tuple(call.x.shape), int(call.level), call.cond.branches.tolist()))
    ):
        drawn(janus)
    assert calls == [(k, 16, (4, k), k, [1, 1, 0, 0]) for k in range(16)]


# What was read before


def positions_read(pipe, **how) -> int:
    counted = []
    hook = lambda module, args, kwargs, out: counted.append(kwargs["inputs_embeds"].shape[1])  # noqa: E731
    handle = pipe.denoiser.register_forward_hook(hook, with_kwargs=True)
    try:
        drawn(pipe, **how)
    finally:
        handle.remove()
    return sum(counted)


def test_every_token_is_read_once(janus):
    assert positions_read(janus) == 128 + 15


def uneven():
    """Separate calls, another order in every other step, one call twice, and one conditioning that changes with every step."""

    def rule(step):
        cond, null = step.cond, step.null
        order = [cond, null, cond] if step.index % 2 else [null, cond, cond]
        outs = {id(c): step.predict([c])[0] for c in order}
        faded = replace(cond, hidden=cond.hidden * (1 - step.index / 16))
        return outs[id(null)] + step.scale * (outs[id(cond)] - outs[id(null)]) + step.predict([faded])[0]

    return rule


def changing():
    """The model is changed inside a step: by a hook, by other weights, and by taking hooks out of force."""

    def rule(step):
        pipe, halved = step.pipe, step.pipe.parameter("language_model.layers.0.mlp.up_proj.weight") / 2
        with pipe.replaced({"language_model.layers.0.mlp.up_proj.weight": halved}):
            other = step.predict([step.cond])[0]
        with pipe.hooked({"language_model.layers.1.mlp": lambda module, args, kwargs, out: out * 2}):
            hooked = step.predict([step.cond])[0]
            with pipe.off():
                plain = step.predict([step.cond])[0]
        return step.predict([step.cond])[0] + plain - other - hooked

    return rule


@pytest.mark.parametrize("rule", [uneven, changing])
def test_memory_changes_no_token_whatever_a_rule_asks(janus, monkeypatch, rule):
    with janus.guided_by(rule):
        remembered = drawn(janus)
        monkeypatch.setattr(_tokens.Remembered, "goes_on_as", lambda *asked: False)
        assert torch.equal(remembered, drawn(janus))


# Images and training


def test_images_are_whole_numbers_to_encode_and_tokens_to_decode(janus):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = janus.encode_images(images)
    assert tokens.shape == (3, 16) and tokens.dtype == torch.long and tokens.max() < 64
    with torch.no_grad():
        theirs = tiny_net().model.vqmodel.encode(images * 2 - 1).image_tokens
    assert torch.equal(tokens.flatten(), theirs)
    assert janus.decode(tokens).shape == (3, 3, 16, 16)


def test_the_loss_is_the_cross_entropy_of_each_token_told_those_before_it(janus):
    tokens, cond = drawn(janus), janus.encode(PROMPTS)
    at = janus.corruption(tokens, torch.Generator())
    assert at.noise.numel() == at.level.numel() == 0
    loss = janus.loss(tokens, cond, at)
    by_hand = torch.zeros(2)
    for k in range(16):
        by_hand -= janus.predict(tokens[:, :k], k, cond).log_softmax(-1).gather(1, tokens[:, k : k + 1])[:, 0]
    assert loss.shape == (2,) and torch.allclose(loss, by_hand / 16, atol=1e-5)
    assert torch.allclose(janus.loss(tokens[1:], cond.rows([1]), at), loss[1:], atol=1e-6)


def test_the_loss_is_differentiable_in_weights_text_and_another_module(janus):
    tokens, cond = drawn(janus), janus.encode(PROMPTS)
    at = janus.corruption(tokens, torch.Generator())
    weight = janus.group("text_kv")["layers.0.self_attn.k_proj.weight"].requires_grad_(True)
    hidden = cond.hidden.clone().requires_grad_(True)
    janus.loss(tokens, replace(cond, hidden=hidden), at).sum().backward()
    assert weight.grad.abs().max() > 0
    read = janus.text.readers[0].mask(cond.ids)
    assert (hidden.grad.abs().amax(-1) > 0).equal(read)  # padding before a prompt is not read
    other = tiny_net(1).model.language_model
    assert not torch.allclose(janus.loss(tokens, cond, at, other), janus.loss(tokens, cond, at))


def test_training_on_an_image_makes_it_likelier(janus):
    tokens, cond = drawn(janus), janus.encode(PROMPTS).detach()
    at = janus.corruption(tokens, torch.Generator())
    weights = [p.requires_grad_(True) for p in janus.group("mlp").values()]
    optimiser = torch.optim.Adam(weights, 1e-3)
    first = janus.loss(tokens, cond, at).mean()
    for _ in range(5):
        optimiser.zero_grad()
        janus.loss(tokens, cond, at).mean().backward()
        optimiser.step()
    assert janus.loss(tokens, cond, at).mean() < first - 0.1


# Words


def test_a_learnt_word_equal_to_a_known_one_gives_the_same_conditioning(janus):
    vectors = janus.text.embedding_table()[janus.text.token_ids("cat")]
    assert len(vectors) == 3
    with janus.with_learned_tokens({"<word>": vectors}):
        learnt = janus.encode(["a <word> in the rain"])
    # A piece of text is tokenised alone: with one token for each byte its spaces stay as they are
    known = janus.encode(["a cat in the rain"])
    assert torch.equal(learnt.hidden, known.hidden) and torch.equal(learnt.mask, known.mask)
    with pytest.raises(ValueError, match="beyond the 128 tokens"), janus.with_learned_tokens({"<word>": vectors}):
        janus.encode(["a" * 200 + "<word>"])


def test_a_learnt_word_draws_other_tokens(janus):
    with janus.with_learned_tokens({"<word>": torch.randn(1, 64, generator=torch.Generator().manual_seed(0))}):
        one = drawn(janus, ["<word>", "cat"])
    assert not torch.equal(one, drawn(janus, ["x", "cat"]))


def test_the_layout_ends_with_the_text_and_the_begin_of_image(janus):
    reader = janus.text.readers[0]
    ids = reader.ids(["dog", "", "d" * 500])
    assert reader.tokenizer.decode(ids[0, -5:].tolist()) == "<begin>dog<begin_of_image>"
    assert ids.shape == (3, 128) and (reader.mask(ids).sum(1)).tolist() == [5, 2, 128]
    assert (ids[:, -1] == reader.ending[-1]).all()
    last = ids[torch.arange(3), reader.last_token(ids)].tolist()
    assert last == [*reader.token_ids("g"), reader.tokenizer.bos_token_id, *reader.token_ids("d")]
    assert torch.equal(reader.layout([*reader.beginning, *reader.token_ids("dog")]), ids[0])


# Weights, devices and precision


def test_weights_have_roles_and_names(janus):
    for group in ("text_kv", "attention", "mlp", "text_input", "joint", "all"):
        assert janus.group(group)
    assert set(janus.group("text_input")) == {"embed_tokens.weight"}
    assert len(janus.layers("text_kv")) == 4
    names = {name for name, _ in janus.named_parameters()}
    assert "language_model.layers.1.self_attn.v_proj.weight" in names and "generation_head.vision_head.weight" in names
    with pytest.raises(ValueError, match="has no weights called 'cross_kv'; it has: text_kv"):
        janus.group("cross_kv")


def test_an_erased_weight_changes_the_image_and_comes_back(janus):
    before, clean = janus.fingerprint(), drawn(janus)
    name = "language_model.layers.0.self_attn.v_proj.weight"
    with janus.replaced({name: torch.zeros_like(janus.parameter(name))}):
        assert not torch.equal(drawn(janus), clean)
    assert janus.fingerprint() == before and torch.equal(drawn(janus), clean)


def test_half_precision_draws_too():
    pipe = loading.load(replace(SPEC, dtype="bfloat16"))
    assert pipe.dtype == torch.bfloat16 and pipe.device.type == "cpu"
    assert pipe(PROMPTS, SEEDS, DRAWN).status == ["ok", "ok"]
