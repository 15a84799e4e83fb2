"""Plugins against their interface, on a tiny model of every family. A new YAML file is composed and typed; a new class, or a class whose
settings choose another way (`train: xattn`, `loss: null`), also keeps its contract. So forty more files of known classes cost little.

The order changes from day to day, so that nothing rests on what ran before; VESTIGE_ORDER=20 repeats the order of a test's id.
VESTIGE_SEEDS=3 gives the plugins three seeds instead of one (`make contracts`).
"""

import dataclasses
import os
import random
import re
from datetime import date
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from vestige.bench.models import capabilities, families, loading
from vestige.bench.models.encodings import Encodings
from vestige.bench.models.hooks import own_hooks
from vestige.bench.places import CONF
from vestige.bench.run import contract_checks

ORDER = int(os.environ.get("VESTIGE_ORDER", date.today().toordinal()))  # by the day: all processes of a run must agree
SEEDS = range(int(os.environ.get("VESTIGE_SEEDS", 1)))


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@cache
def settings(group: str, name: str) -> dict:
    """What the file says, over the files that it starts from. Read without Hydra, which takes half a second for each."""
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    started = [settings(group, entry) for entry in content.pop("defaults", []) if entry in names(group)]
    merged = {}
    for part in (*started, content.get(name, content)):
        merged |= part
    return merged


def way(group: str, name: str) -> tuple:
    """The class, and the settings that choose: single words, yes or no, null. Numbers, sentences and lists are no choice."""
    read = settings(group, name)
    chosen = [(key, value) for key, value in sorted(read.items()) if value is None or isinstance(value, bool) or is_word(value)]
    return (group, read["_target_"], *((key, value) for key, value in chosen if key not in ("name", "_target_")))


def target(group: str, name: str) -> str:
    return settings(group, name)["_target_"]


def is_word(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w+", value) is not None


FILES = [(group, name) for group in contract_checks.KINDS for name in names(group)]
WAYS = {way(group, name): (group, name) for group, name in reversed(FILES)}  # the first file of each
CHECKED = sorted(WAYS.values())
CLASSES = {target(group, name): (group, name) for group, name in reversed(CHECKED)}  # the first file of each


ELSEWHERE = {"timestep_alignment": "exact"}  # the other ways are those of programs for Stable Diffusion 1


def cases() -> list[tuple[str, str, str, int]]:
    """(family, group, file, seed): every way on sd1, every class on the other families, shuffled."""
    others = [family for family in families.names() if family != "sd1"]
    pairs = [("sd1", *file) for file in CHECKED] + [(family, *file) for family in others for file in CLASSES.values()]
    found = [(*pair, seed) for seed in SEEDS for pair in pairs]
    random.Random(ORDER).shuffle(found)
    return found


def told(case: tuple) -> str:
    family, _, name, seed = case
    return f"{name}-{family}-seed{seed}-order{ORDER}"


@cache
def plugins(group: str) -> dict:
    return contract_checks.build_all(group, [name for kind, name in CHECKED if kind == group])


def variants(family: str, group: str, name: str):
    """The plugin of this file; on the other families also those of its class's other files, and with what refusals say to set."""
    if family == "sd1":
        return [plugins(group)[name]]
    found = [plugins(group)[other] for kind, other in CHECKED if kind == group and target(kind, other) == target(group, name)]
    settable = {key: value for key, value in ELSEWHERE.items() if hasattr(found[0], key)}
    return [*found, *(dataclasses.replace(plugin, **settable) for plugin in found if settable)]


def checks(family: str, group: str, name: str, folder: Path, seed: int):
    """Of the first variant that applies."""
    reasons = []
    for k, plugin in enumerate(variants(family, group, name)):
        (folder / str(k)).mkdir()
        try:
            yield from contract_checks.KINDS[group][1](plugin, folder / str(k), family, seed)
            return
        except contract_checks.NotApplicable as reason:
            reasons.append(str(reason))
    raise contract_checks.NotApplicable(reasons[0])


@pytest.mark.slow
@pytest.mark.parametrize("family, group, name, seed", cases(), ids=map(told, cases()))
def test_every_class_keeps_its_contract_on_every_family_it_claims(family, group, name, seed, tmp_path):
    try:
        for _promise, check in checks(family, group, name, tmp_path, seed):
            check()
    except contract_checks.NotApplicable as reason:
        assert len(str(reason)) > 20, "a refusal must be a sentence"
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("group, name", [file for file in FILES if file not in CHECKED])
def test_every_other_file_is_composed_and_typed(group, name):
    plugin = contract_checks.build(group, name)
    module, _, kind = target(group, name).rpartition(".")
    assert (type(plugin).__module__, type(plugin).__name__) == (module, kind)


def test_every_class_that_a_file_names_is_checked_on_every_family():
    named = {target(group, name) for group, name in FILES}
    for family in families.names():
        assert named == {target(group, name) for where, group, name, _ in cases() if where == family}
    assert len(CHECKED) < len(FILES)


def test_what_chooses_a_way_is_told_from_what_does_not():
    assert way("method", "esd_u") != way("method", "esd_x")
    assert way("method", "sld_weak") == way("method", "sld_max")


@pytest.mark.slow
def test_twenty_methods_and_five_attacks_apply_to_sdxl():
    """So the contract is no empty promise there."""
    model, dog = contract_checks.tiny_of("sdxl"), contract_checks.DOG
    methods = [plugin for plugin in plugins("method").values() if not capabilities.unsupported(plugin, model, [dog])]
    attacks = [p for p in plugins("attack").values() if not capabilities.unsupported(p, model, [dog], contract_checks.original())]
    assert len(methods) >= 20 and len(attacks) >= 5


def library_hooks(pipe) -> int:
    every = [m for part in pipe.parts.values() for m in part.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in every) - sum(1 for m in every for _ in own_hooks(m))


def test_hooks_that_a_library_sets_on_first_use_are_not_a_plugins(sampler):
    """transformers sets some where states of inner layers are read, as SDXL does."""
    pipe = loading.load(contract_checks.tiny_of("sdxl"))
    before = pipe.fingerprint()
    pipe(["a dog"], [0], sampler)
    assert library_hooks(pipe) > 0 and pipe.fingerprint() == before
    with pipe.hooked({"text_encoder": lambda *_: None}):
        assert pipe.fingerprint() != before, "our own are counted"


@torch.no_grad()
@pytest.mark.parametrize("family", families.names())
def test_encodings_are_kept_on_every_family(family, monkeypatch):
    fresh = Encodings()
    monkeypatch.setattr("vestige.bench.models.text.KEPT", fresh)
    first, second = contract_checks.tiny_pipe(family), contract_checks.tiny_pipe(family)
    for pipe in (first, first, second):
        pipe.encode(["a dog"])
    assert fresh.hits == 2


def test_tiny_models_share_nothing_that_a_plugin_could_change(sampler):
    first, second = contract_checks.tiny_pipe(), contract_checks.tiny_pipe()
    before = second.fingerprint()
    with torch.no_grad():
        first.denoiser.conv_in.weight.zero_()
    first.text.words["<word>"] = torch.zeros(1, 32)
    first.denoiser.register_forward_hook(lambda *_: None)
    assert first.fingerprint() != before and second.fingerprint() == before == contract_checks.tiny_pipe().fingerprint()


@pytest.mark.parametrize("name", names("method"))
def test_method_files_are_named_like_their_name_key(name):
    text = (CONF / "method" / f"{name}.yaml").read_text()
    assert f"\nname: {name}\n" in f"\n{text}\n"


def test_files_that_are_slow_as_a_whole_exist():
    from conftest import SLOW

    assert {file.stem for file in Path(__file__).parent.rglob("test_*.py")} >= SLOW
