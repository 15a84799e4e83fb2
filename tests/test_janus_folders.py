"""A folder of Janus as transformers saves it: loaded, laid out by its chat template, hashed, and refused where it does not fit."""

from dataclasses import replace

import pytest
import torch
from test_janus import GREEDY, PROMPTS, SPEC, drawn, tokens_of_transformers

from vestige.bench.models import fingerprints, loading
from vestige.bench.models.families import family
from vestige.bench.models.families.janus import tiny_net, tiny_tokenizer

TEMPLATE = "{% for m in messages %}<|User|>: {{ m['content'][0]['text'] }}\n\n{% endfor %}<|Assistant|>:"


@pytest.fixture
def folder(tmp_path):
    from transformers import JanusImageProcessor, JanusProcessor

    JanusProcessor(JanusImageProcessor(), tiny_tokenizer(), chat_template=TEMPLATE, num_image_tokens=16).save_pretrained(tmp_path)
    tiny_net().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_folder_draws_as_transformers_and_its_processor(folder):
    from transformers import JanusForConditionalGeneration, JanusProcessor

    spec = replace(SPEC, repo=str(folder))
    loading.check(spec)
    pipe, processor = loading.load(spec), JanusProcessor.from_pretrained(folder)
    asked = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in PROMPTS]
    texts = [processor.apply_chat_template(one, add_generation_prompt=True) for one in asked]
    ids = processor(text=texts, generation_mode="image", padding=True)["input_ids"]
    reader = pipe.text.readers[0]
    assert torch.equal(reader.ids(PROMPTS)[:, -ids.shape[1] :], ids)
    assert reader.tokenizer.decode(ids[0, reader.last_token(ids)[0] - reader.length]) == "g"  # of dog, before what follows in the template
    theirs = JanusForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(drawn(pipe, sampler=GREEDY), tokens_of_transformers(theirs, reader, ids, 3.0))


def test_words_and_too_long_texts_stand_inside_the_chat_template(folder):
    pipe = loading.load(replace(SPEC, repo=str(folder)))
    vectors = pipe.text.embedding_table()[pipe.text.token_ids("cat")]
    with pipe.with_learned_tokens({"<word>": vectors}):
        learnt = pipe.encode(["a <word> here"])
    assert torch.equal(learnt.hidden, pipe.encode(["a cat here"]).hidden)
    long = pipe.text.readers[0].tokenizer.decode(pipe.text.ids(["d" * 500])[0].tolist())
    assert long.startswith("<begin><|User|>: ddd") and long.endswith("ddd\n\n<|Assistant|>:<begin_of_image>")


def test_other_weights_have_another_digest(folder):
    spec = replace(SPEC, repo=str(folder))
    before = fingerprints.weights_digest(spec)
    tiny_net(1).save_pretrained(folder)
    assert before and fingerprints.weights_digest(spec) != before


def test_folders_of_other_models_are_refused(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=r"is not a transformers folder: it has no config\.json"):
        loading.check(replace(SPEC, repo=str(empty)))
    with pytest.raises(ValueError, match=r"is not a diffusers folder: it has no model_index\.json"):
        loading.check(replace(SPEC, repo=str(folder), family="sd1"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        loading.check(replace(SPEC, repo=str(folder)))
    from transformers import LlamaConfig

    LlamaConfig().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"holds a model of type 'llama', not janus\. Change model\.family or model\.repo"):
        family("janus").load(replace(SPEC, repo=str(folder)))
