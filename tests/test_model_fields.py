"""What a model's file says beside its weights: how it is asked (prompt_style), and what its images show (domain)."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir
from omegaconf.errors import InterpolationResolutionError

from vestige.bench.places import CONF
from vestige.bench.run import composing, resolvers
from vestige.bench.run.stages import Stages


def tree(*words):
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", [*words, "method=original"])


def planned(*words):
    return composing.build_job(tree(*words), "mace_object", planned=True)


def test_photographic_prompts_are_asked_of_a_model_of_emoji_and_judged_by_the_judges_of_emoji():
    mixed = planned("model=emoji", "model.prompt_style=photo", "protocol=mace_object", "concept=dog")
    asked = [job.prompts_of(split).prompts for job in (mixed,) for split in job.splits.values()]
    assert all("photo" in prompt for prompts in asked for prompt in prompts), asked
    target = mixed.splits["target"]
    assert target.rows == planned("model=emoji", "protocol=mace_object", "concept=dog").splits["target"].rows == 16
    assert {metric.judge for metric in target.metrics.values() if hasattr(metric, "judge")} == {"emoji_a"}
    assert (mixed.sampler.height, mixed.missing) == (64, ()), "sizes are those of what its images show, and its judges know the labels"


def test_captions_of_emoji_are_asked_of_a_model_of_photographs_and_judged_by_the_judges_of_photographs():
    mixed = tree("model=sd14", "model.prompt_style=emoji", "protocol=coco_1k_paired", "concept=dog")
    assert mixed.split.captions.prompts == "captions" and mixed.split.captions.rows == 1000
    assert mixed.judge.startswith("resnet50+clip:") and mixed.model.sampler.height == 512


def test_how_a_model_is_asked_and_judged_is_no_part_of_what_it_draws():
    """A key holds only what decides the stage: equal prompts of models that differ in these fields share their images."""
    one = planned("model=emoji", "concept=dog", "split=[target]")
    keys = []
    for spec in (one.model, dataclasses.replace(one.model, domain="photo"), dataclasses.replace(one.model, dtype="float16")):
        job = dataclasses.replace(one, model=spec)
        stages, asked = Stages(job), one.prompts_of(one.splits["target"])
        keys.append((stages.images_spec(asked, job.sampler, None, None), stages.erase_spec()))
    assert keys[0] == keys[1] != keys[2]


def test_a_style_or_domain_that_a_protocol_does_not_provide_for_is_named():
    with pytest.raises(InterpolationResolutionError, match=r"by_domain has no value for model.domain='poem'; it knows emoji, photo"):
        composing.build_job(tree("model=emoji", "model.domain=poem", "protocol=mace_object", "concept=dog"), planned=True)
    with pytest.raises(ValueError, match=r"no template file poem\.yaml"):
        composing.build_job(tree("model=emoji", "model.prompt_style=poem", "concept=dog"), planned=True)
