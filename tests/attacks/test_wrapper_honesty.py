"""Erasers that work while sampling must not look robust because an attack cannot see them: their gradients reach what is
searched, and the loss of every white-box attack is that of the defended model. Adding a method's YAML adds its tests.
"""

import functools
import importlib
from dataclasses import replace

import pytest
import torch
import yaml

from vestige.bench.contract.plugin import Victim
from vestige.bench.contract.types import Sampler
from vestige.bench.models import loading
from vestige.bench.models.sampling import classifier_free
from vestige.bench.places import CONF
from vestige.bench.run import contract_checks
from vestige.methods.original import Original

WRAPPED = ("sampling", "adapter", "filter")
SAMPLER = Sampler("DDIMScheduler", {}, 50, 3.0, 16, 16)
LATE = 100  # a level late in the run: warm-ups of defences are over
ATTACKS = ("unlearn_diff_atk", "p4d", "circumventing", "dori_embedding")


def settings(name: str) -> dict:
    """A method's YAML with those it is derived from."""
    own = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    inherited = [parent for parent in own.pop("defaults", []) if isinstance(parent, str) and parent != "_self_" and "@" not in parent]
    parents = [settings(parent) for parent in inherited]
    return {key: value for part in [*parents, own] for key, value in part.items()}


def is_wrapper(name: str) -> bool:
    """Changed at inference: by its intervention, or because its edit is applied by hooks."""
    found = settings(name)
    module, _, cls = found["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), cls).intervention in WRAPPED or found.get("form") == "hook"


CONTROLS = {"another_seed"}  # no defence: other noise, so there is nothing to be in force
METHODS = [name for name in sorted(file.stem for file in (CONF / "method").glob("*.yaml")) if is_wrapper(name)]
METHODS = [name for name in METHODS if name not in CONTROLS]


def loud():
    """The tiny model with a denoiser that hears its text: a random one hardly does."""
    pipe = loading.load(contract_checks.tiny_of())
    with torch.no_grad():
        for name, parameter in pipe.denoiser.named_parameters():
            if "attn2.to_v" in name:
                parameter.mul_(50)
    return pipe


@functools.cache
def erased(name: str, folder):
    method = contract_checks.quick(contract_checks.build("method", name))
    unsupported_reason = method.supports(contract_checks.tiny_of(), [contract_checks.DOG])
    if unsupported_reason:
        return method, None, unsupported_reason
    pipe = loud()
    ctx = replace(contract_checks.context(folder, "sd1", name), original=loud)
    with pipe.preserved():
        return method, method.erase(pipe, [contract_checks.DOG], ctx), None


@functools.cache
def images(folder):
    return contract_checks.context(folder, "sd1", "images").generate(["a photo of a dog"] * 2, 1, contract_checks.sampler_of())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wrappers")


@functools.cache
def attack_of(name: str):
    return replace(
        contract_checks.quick(contract_checks.build("attack", name, model="emoji")), **{"circumventing": {"captions": "own"}}.get(name, {})
    )


def loss_of(attack_name: str, attack, victim, shown):
    """(loss as a function of what the attack optimises, the point where its search begins), noise and levels fixed."""
    pipe, draw = victim.pipe, torch.Generator().manual_seed(0)
    x0 = pipe.encode_images(shown)
    noise, t = torch.randn(x0.shape, generator=draw), torch.tensor(LATE)
    texts = ["red sky a photo of a dog"] * len(x0)
    ids, table = pipe.text.ids(texts), pipe.text.embedding_table()
    if attack_name.startswith("unlearn_diff_atk"):
        return lambda e: attack.losses(victim, ids, e, x0, noise, t).sum(), table[ids].clone()
    if attack_name.startswith("p4d"):
        target = torch.zeros_like(x0)
        return lambda e: attack.losses(victim, noise, t, ids, e, target).sum(), table[ids].clone()
    if attack_name.startswith("dori"):
        cond = pipe.encode(texts).detach()

        def loss(y):
            rows = [torch.Generator().manual_seed(k) for k in range(len(x0))]
            return attack.losses(victim, x0, cond, y, rows, torch.Generator().manual_seed(4)).sum()

        return loss, cond.hidden.clone()
    from vestige.attacks.circumventing import placeholder
    from vestige.attacks.training_images import TrainingImages

    training_images = TrainingImages(shown, ["a photo of a {name}"] * len(shown), ["dog"] * len(shown))
    of = attack.guided_loss if victim.method.intervention == "sampling" else attack.training_loss

    def loss(word):
        with pipe.with_learned_tokens({placeholder("dog"): word}):
            return of(victim, contract_checks.DOG, training_images, torch.Generator().manual_seed(4))

    return loss, attack.initial(pipe)["clip"]


@torch.no_grad()
def slope_errors(loss, start, value: float, gradient) -> list[float]:
    """How far the loss along its gradient is from what the gradient says, relative, for steps that move it by `share`.

    Several, because a rule with thresholds (SLD) jumps within large steps, and float32 is too coarse for small ones.
    """
    errors = []
    for share in (1e-3, 1e-4, 3e-5, 1e-5):
        step = share * value / gradient.norm() ** 2 * gradient
        errors.append(abs((loss(start + step) - loss(start - step)).item() / (2 * share * value) - 1))
    return errors


@pytest.mark.parametrize("attack_name", ATTACKS)
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_defended_model_and_its_gradient_is_whole(name, attack_name, folder):
    method, erasure, unsupported_reason = erased(name, folder)
    if unsupported_reason:
        pytest.skip(unsupported_reason)
    attack, pipe, shown = attack_of(attack_name), loud(), images(folder)
    victim = Victim(pipe, [contract_checks.DOG], method, SAMPLER, None)
    with method.attach(pipe, erasure):
        loss, start = loss_of(attack_name, attack, victim, shown)
        start = start.detach().requires_grad_(True)
        value = loss(start)
        (gradient,) = torch.autograd.grad(value, start)
        assert gradient.isfinite().all() and gradient.norm() > 0, "the gradient is cut"
        assert min(slope_errors(loss, start.detach(), value.item(), gradient)) < 0.1, "part of the gradient is cut"
        if method.intervention == "filter":
            assert pipe.filters and method.limits, "a filter that an attack cannot see must say so"
            return
        with torch.no_grad():
            loss, start = loss_of(attack_name, attack, Victim(loud(), [contract_checks.DOG], method, SAMPLER, None), shown)
            bare = loss(start).item()
        assert abs(bare - value.item()) > 1e-5 * abs(bare), "the defence is not in the loss"


@pytest.mark.parametrize("kept, noticed", [(1.0, False), (0.8, True), (0.0, True)])
def test_a_cut_in_a_defence_is_noticed(kept, noticed, folder, monkeypatch):
    """A made-up defence that lets only a part of the gradient through."""

    def factory():
        inner = classifier_free()

        def rule(step):
            out = inner(step)
            return kept * out + (1 - kept) * out.detach()

        return rule

    method, pipe = Original(), loud()
    monkeypatch.setattr(Original, "intervention", "sampling")
    with pipe.guided_by(factory):
        loss, start = loss_of("p4d", attack_of("p4d"), Victim(pipe, [contract_checks.DOG], method, SAMPLER, None), images(folder))
        start = start.detach().requires_grad_(True)
        value = loss(start)
        (gradient,) = torch.autograd.grad(value, start)
        cut = gradient.norm() == 0 or min(slope_errors(loss, start.detach(), value.item(), gradient)) > 0.1
    assert cut == noticed


@pytest.mark.parametrize("name", METHODS)
def test_the_judge_an_attack_asks_sees_what_the_defence_lets_through(name, folder):
    """And whoever holds the weights can take it off: the table must say so."""
    method, erasure, unsupported_reason = erased(name, folder)
    if unsupported_reason:
        pytest.skip(unsupported_reason)
    assert method.detachable, "an owner of the weights leaves a wrapper out: `detachable` must be true"
    pipe, asked = loud(), contract_checks.prompts_about(contract_checks.DOG, 2)
    victim = Victim(pipe, [contract_checks.DOG], method, replace(SAMPLER, steps=20), None)
    plain = victim.images(asked)
    if method.intervention == "filter":
        strict = {"filter.thresholds": torch.full_like(erasure.tensors["filter.thresholds"], -2.0)}  # below every cosine
        with method.attach(pipe, replace(erasure, tensors={**erasure.tensors, **strict})):
            seen = victim.drawn(asked)
        assert seen.status == ["blocked"] * 2 and seen.pixels.max() == 0 < plain.max()
        return
    with method.attach(pipe, erasure):
        assert not torch.equal(victim.images(asked), plain)
