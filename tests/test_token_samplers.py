"""What applies to a model that draws token by token, and which samplers it takes."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_spec
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_janus import DRAWN, SPEC, drawn

from vestige.bench.contract.types import Sampler
from vestige.bench.models import capabilities, loading
from vestige.bench.models.families import family
from vestige.bench.places import CONF
from vestige.bench.run import checks, composing, resolvers
from vestige.bench.run.contract_checks import build, quick


@pytest.fixture
def janus():
    return loading.load(SPEC)


def test_levels_are_refused_in_a_sentence(janus):
    with pytest.raises(ValueError, match=r"janus draw token by token: they have no noise levels"):
        janus.process.random_level(1, torch.Generator())


def asking(*needs: str):
    return type("Asking", (), {"needs": needs, "supports": lambda self, *asked: None})()


def test_what_a_plugin_needs_decides_whether_it_applies():
    for word in ("draw", "outputs", "loss", "words", "states", "groups", "tokens", "text_kv", "joint", "mlp", "text_input"):
        assert capabilities.unsupported(asking(word), SPEC) is None
    sentence = r"Asking needs 'levels', which models of family janus do not offer (model 'tiny')."
    assert capabilities.unsupported(asking("draw", "levels"), SPEC) == sentence
    assert "the weights 'cross_kv'" in capabilities.unsupported(asking("cross_kv"), SPEC)
    assert capabilities.unsupported(asking("tokens"), tiny_spec()).startswith("Asking needs 'tokens'")


def test_methods_that_only_draw_apply(janus, concept, context):
    method = quick(build("method", "another_seed"))
    clean = drawn(janus)
    with method.attach(janus, method.erase(janus, [concept()], context())):
        other = drawn(janus)
    assert not torch.equal(other, clean) and torch.equal(drawn(janus), clean)


@pytest.fixture(scope="module")
def job():
    """A job whose sampler is one of diffusers."""
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composing.build_job(compose("run", ["method=original", "model=tiny"]), planned=True)


def test_tokens_are_a_sampler_of_this_family_alone(job):
    checks.check(replace(job, model=SPEC, sampler=DRAWN), planned=True)
    with pytest.raises(ValueError, match=r"scheduler='DDIMScheduler': models of family janus draw with: tokens"):
        checks.check(replace(job, model=SPEC), planned=True)
    with pytest.raises(ValueError, match=r"scheduler='tokens' is no scheduler of diffusers"):
        checks.check(replace(job, sampler=DRAWN), planned=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"eta": 1}, r"arguments\.eta is not known; a model that draws tokens takes: temperature, top_k"),
        ({"temperature": -1}, r"temperature=-1 must be a number from 0"),
        ({"temperature": "hot"}, r"temperature='hot' must be a number"),
        ({"temperature": float("nan")}, r"temperature=nan must be a number"),
        ({"top_k": 0}, r"top_k=0 must be a whole number from 1 on, or null"),
        ({"top_k": 1.5}, r"top_k=1\.5 must be a whole number"),
    ],
)
def test_wrong_arguments_of_the_sampler_are_refused(job, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        checks.check(replace(job, model=SPEC, sampler=replace(DRAWN, arguments=arguments)), planned=True)


@pytest.mark.parametrize("wrong", [{"steps": 2}, {"height": 32}])
def test_another_size_or_number_of_tokens_is_refused_with_what_to_type(janus, wrong):
    with pytest.raises(ValueError, match=r"draws 16 tokens for 16 x 16 pixels.*Type model\.sampler\.steps=16 model\.sampler\.height=16"):
        drawn(janus, sampler=replace(DRAWN, **wrong))


def test_the_published_model_has_a_sampler_that_its_family_takes():
    told = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "janus_1b.yaml"))
    assert told["family"] == "janus" and told["sampler"]["steps"] == (384 // 16) ** 2
    family("janus").check_sampler(Sampler(**told["sampler"]))
