"""The digest of the code of a stage: what changes it, what does not, and that it covers all that really runs."""

import re
import sys
from pathlib import Path

import pytest

from vestige.bench.places import CONF, PACKAGE
from vestige.bench.run import code, composing, contract_checks, resolvers, runner, store
from vestige.bench.run.code import Code, source
from vestige.bench.run.stage_code import model_of

UCE = [*model_of("sd1"), ("vestige.methods.uce", "UCE.erase")]
DRAWN = [
    *model_of("sd1"),
    ("vestige.bench.run.generate", "draw"),
    ("vestige.bench.models.pipe", "Pipe.__call__"),
    ("vestige.methods.uce", "UCE.attach"),
]


def with_texts(**changed: str) -> Code:
    """The project as if these modules (dots as __) had another text; None: as if they were not there."""
    texts = {name.replace("__", "."): text for name, text in changed.items()}
    return Code(lambda module: (texts[module], False) if module in texts else source(module))


def edited(module: str, old: str, new: str) -> Code:
    text, _ = source(module)
    assert text.count(old) >= 1, f"{module} no longer holds {old!r}"
    return with_texts(**{module.replace(".", "__"): text.replace(old, new, 1)})


CHANGES = [  # module, old, new, what it changes
    ("vestige.bench.models.pipe", "/ 2 + 0.5)", "/ -2 + 0.5)", DRAWN),  # inverted colours
    ("vestige.bench.models.sampling", "return e_null + step.scale", "return e_null - step.scale", DRAWN),
    ("vestige.bench.run.generate", 'prompts.seed(row["row_id"], rep), (row', 'prompts.seed(row["row_id"], 0), (row', DRAWN),
    ("vestige.bench.contract.types", ">> 1", ">> 2", DRAWN),  # seeds
    ("vestige.methods.uce", "self.erase_scale, self.kept_rows", "0 * self.erase_scale, self.kept_rows", UCE),  # the identity
    ("vestige.methods._text_rows", "def all_rows(", "def all_rows(_, ", UCE),
    ("vestige.methods._closed_form", "def merged(", "def merged(_, ", DRAWN),
    ("vestige.metrics.presence", "present.float()", "1 - present.float()", [("vestige.metrics.presence", "Presence.score")]),
    ("vestige.metrics._rows", "float(table[name].mean())", "float(table[name].max())", [("vestige.metrics.presence", "Presence.score")]),
    (
        "vestige.bench.world.models.judges",
        "def forward(",
        "def forward(_, ",
        [("vestige.bench.judges.emoji", "EmojiJudge.load")],
    ),  # called by torch, not by name
    (
        "vestige.bench.world.models.clip_emoji",
        "def image(",
        "def image(_, ",
        [("vestige.bench.vision.features", "extract")],
    ),  # imported inside a function
    (
        "vestige.attacks.ledits",
        "super().__init__(pipe",
        "super().__init__(None",
        [("vestige.attacks.ledits", "Ledits.attach")],
    ),  # a class in a function
    ("vestige.bench.judges.presence", "def present(", "def present(_, ", code.judge("emoji_b")),  # asked by the harness for an attack
    (
        "vestige.bench.models.diffusion",
        "import torch",
        "import numpy as torch",
        [("vestige.methods.esd", "ESD.erase")],
    ),  # one name, another package
]


@pytest.mark.parametrize("module, old, new, roots", CHANGES)
def test_what_changes_a_result_changes_the_digest(module, old, new, roots):
    assert edited(module, old, new).digest(roots) != Code().digest(roots)


SAME = [
    ("vestige.bench.models.pipe", '"""Latents to images', '"""Other words'),
    (
        "vestige.bench.models.pipe",
        "def decode(self, latents: Tensor) -> Tensor:",
        "def decode(self, latents: 'Tensor') -> object:  # said otherwise\n",
    ),
    ("vestige.bench.models.pipe", "def fingerprint(self)", "def fingerprint(self, more=None)"),  # nothing that draws asks for it
    ("vestige.bench.models.pipe", "import hashlib", "import hashlib\nimport json"),
    ("vestige.bench.run.generate", "import io\n", "import io as io\n"),
    ("vestige.bench.world.content.sprites", "import", "import sys\nimport"),
    ("vestige.methods.esd", "import", "X = 1\nimport"),  # another method
]


@pytest.mark.parametrize("module, old, new", SAME)
def test_words_about_the_code_and_code_that_is_not_called_change_nothing(module, old, new):
    for roots in (UCE, DRAWN):
        assert edited(module, old, new).digest(roots) == Code().digest(roots)


def moved(text: str, name: str) -> tuple[str, str]:
    """The text without a function, and the function."""
    found = re.search(rf"^def {name}\(.*?(?=^\S(?!\s*->))", text, re.M | re.S)
    return text.replace(found[0], ""), found[0]


def test_a_family_dates_the_images_of_its_own_models():
    old, new = "*side, 0, 0, *side", "*side, 1, 1, *side"
    changed = edited("vestige.bench.models.families.sdxl", old, new)
    drawn = [("vestige.bench.models.pipe", "Pipe.__call__")]
    assert changed.digest([*model_of("sdxl"), *drawn]) != Code().digest([*model_of("sdxl"), *drawn])
    assert changed.digest([*model_of("sd1"), *drawn]) == Code().digest([*model_of("sd1"), *drawn])


def test_a_function_may_move_to_another_file():
    rest, rule = moved(source("vestige.bench.models.sampling")[0], "classifier_free")
    user, _ = source("vestige.bench.models.pipe")
    assert ", classifier_free\n" in user, "it imports the function together with others"
    user = user.replace(", classifier_free\n", "\nfrom vestige.bench.guiding import classifier_free as plain_rule\n")
    user = user.replace("= classifier_free", "= plain_rule").replace("is classifier_free", "is plain_rule")
    head = "from __future__ import annotations\nfrom vestige.bench.models.sampling import GuidanceRule, Step\nimport torch\n"
    changed = {"vestige__bench__models__sampling": rest, "vestige__bench__models__pipe": user}
    there = with_texts(vestige__bench__guiding=head + rule, **changed)
    assert ("vestige.bench.guiding", "classifier_free") in there.reach(DRAWN)
    assert there.digest(DRAWN) == Code().digest(DRAWN)


def test_a_file_may_be_renamed():
    """methods/_closed_form.py under another name, with everyone who imports it."""
    users = ["uce"]
    text, _ = source("vestige.methods._closed_form")
    changed = {
        f"vestige__methods__{user}": source(f"vestige.methods.{user}")[0].replace(
            "vestige.methods._closed_form", "vestige.methods.linear_maps"
        )
        for user in users
    }
    renamed = with_texts(vestige__methods__linear_maps=text, **changed)
    assert renamed.digest(UCE) == Code().digest(UCE) and renamed.digest(DRAWN) == Code().digest(DRAWN)


def test_a_function_imported_as_a_name_or_through_its_module_is_the_same():
    one = "from vestige.bench.models import diffusion\ndef f():\n    return diffusion.choose_parameters"
    two = "from vestige.bench.models.diffusion import choose_parameters as chosen\ndef f():\n    return chosen"
    three = "def f():\n    from vestige.bench.models import diffusion as d\n    return d.choose_parameters"
    assert len({with_texts(vestige__bench__mine=text).digest([("vestige.bench.mine", "f")]) for text in (one, two, three)}) == 1


def test_a_plugin_of_ones_own_is_followed_into_its_own_modules_and_no_package(tmp_path, monkeypatch):
    (tmp_path / "my_eraser.py").write_text(
        "import torch, my_numbers\nfrom vestige.bench.contract.plugin import Method\n"
        "class Mine(Method):\n    def erase(self, pipe, concepts, ctx):\n        return pipe.encode([str(my_numbers.N)])\n"
    )
    (tmp_path / "my_numbers.py").write_text("N = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code, "_PLACES", {})
    roots = [("my_eraser", "Mine.erase")]
    before, reached = Code().digest(roots), Code().reach(roots)
    assert ("my_numbers", "N") in reached and ("vestige.bench.models.pipe", "Pipe.encode") in reached, "the pipe is known from the contract"
    assert {module.split(".")[0] for module, _ in reached} <= {code.HOME, "my_eraser", "my_numbers"}
    (tmp_path / "my_numbers.py").write_text("N = 2  # more\n")
    assert Code().digest(roots) != before


def test_an_eraser_that_is_given_another_one_is_that_one_too():
    mine = contract_checks.build("method", "sequential_uce")
    reached = Code().reach(code.part(mine, "erase"))
    assert {
        ("vestige.methods.sequential", "Sequential.erase"),
        ("vestige.methods.uce", "UCE.erase"),
        ("vestige.methods._closed_form", "low_rank_edit"),
    } <= reached


def test_a_root_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"methods\.uce has no 'Uce'"):
        Code().digest([("vestige.methods.uce", "Uce.erase")])


# A run

JOB = [
    *("concept=[dog]", "method=uce", "attack=[none,circumventing]", "split=[target]", "model.sampler.steps=2"),
    *("attack.circumventing.images=1", "attack.circumventing.steps=1", "split.target.rows=2", "split.target.repeats=1"),
]
HARNESS_FILES = ("code", "syntax", "cost", "provenance", "stages", "stage_code", "shared_work", "models_of_job", "loaded_model")
HARNESS_FILES += ("store", "store_folder", "store_locks")
HARNESS = {f"bench/run/{name}.py" for name in HARNESS_FILES}
HARNESS |= {
    "bench/models/fingerprints.py",
    "bench/models/digests.py",
    *(f"bench/contract/{name}.py" for name in ("flags", "resume", "screen", "shared")),
}
HARNESS |= {("bench/contract/plugin.py", "Attack.transfers"), ("bench/judges/emoji.py", "EmojiJudge.check")}
HARNESS |= {"bench/contract/building.py", "bench/places.py", "bench/judges/registry.py", ("bench/judges/__init__.py", "inputs")}
HARNESS |= {("bench/models/folders.py", name) for name in ("loaded_files", "_settings_of", "_there")}  # which files are hashed
HARNESS |= {("bench/models/device.py", "on"), ("bench/contract/batches.py", "noted")}  # where it computes; that a batch was halved
HARNESS |= {("bench/models/origin.py", "Origin.changed")}  # after a stage: whether the model may be used again
HARNESS |= {("bench/contract/types.py", "Adversary.load_prompts"), ("bench/vision/features.py", "inputs")}
HARNESS |= {("bench/vision/clip_models.py", "inputs")}  # they decide keys, which is where their answers stand


def job(place, *words):
    from hydra import compose, initialize_config_dir

    resolvers.register_resolvers()
    places = [f"runtime.store={place}/store", f"runtime.records={place}/records"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composing.build_job(compose("run", [*JOB, *places, *words]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of a finished job, kind -> (file, function) that ran while a stage was made, kind -> what the digest reaches)."""
    place, ran, reached, inside = tmp_path_factory.mktemp("finished"), {}, {}, []
    patch = pytest.MonkeyPatch()
    honest_stage, honest_digest = store.Store.stage, Code.digest
    by_digest = {}

    def stage(self, kind, spec, words, make, by=None, usable=lambda stage: True):
        def watched(folder):
            inside.append((kind, by))
            try:
                return make(folder)
            finally:
                inside.pop()

        return honest_stage(self, kind, spec, words, watched, by, usable)

    def digest(self, roots):
        roots = list(roots)
        made = honest_digest(self, roots)
        by_digest[made] = self.reach(roots)
        return made

    def watch(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and inside and file.startswith(f"{PACKAGE}/"):
            name = frame.f_code.co_qualname.split(".<locals>")[0]
            ran.setdefault(inside[-1], set()).add((str(Path(file).relative_to(PACKAGE)), name))

    patch.setattr(store.Store, "stage", stage)
    patch.setattr(Code, "digest", digest)
    sys.setprofile(watch)
    try:
        made = runner.run_job(job(place))
    finally:
        sys.setprofile(None)
        patch.undo()
    assert made["status"] == "done", made["error"]
    for (_, by), _ in ran.items():
        reached[by] = by_digest[by]
    return place, ran, reached


def test_everything_that_runs_while_a_stage_is_made_is_in_its_digest(finished):
    _, ran, reached = finished
    assert {kind for kind, _ in ran} == {"erase", "attack", "images", "score", "features"}
    for (kind, by), calls in ran.items():
        files = {(f"{m.removeprefix('vestige.').replace('.', '/')}{end}", n) for m, n in reached[by] for end in (".py", "/__init__.py")}
        lost = {(f, n) for f, n in calls if not n.startswith("<") and f not in HARNESS and (f, n) not in HARNESS} - files
        assert not lost, f"{kind}: {sorted(lost)}"


def test_inverted_colours_and_an_eraser_that_does_nothing_are_called_stale(finished, monkeypatch):
    place, *_ = finished
    assert runner.run_job(job(place))["stale"] == []
    texts = {
        "vestige.bench.models.pipe": source("vestige.bench.models.pipe")[0].replace("/ 2 + 0.5)", "/ -2 + 0.5)"),
        "vestige.methods.uce": source("vestige.methods.uce")[0].replace("self.artefact(pipe, u, v,", "self.artefact(pipe, 0 * u, v,"),
    }
    for module, kinds in (("vestige.methods.uce", {"erase"}), ("vestige.bench.models.pipe", {"images", "attack"})):
        only = texts[module]
        monkeypatch.setattr(code, "PROJECT", Code(lambda name, m=module, t=only: (t, False) if name == m else source(name)))
        kept = runner.run_job(job(place))
        assert kept["status"] == "done" and kinds <= {reference.partition("/")[0] for reference in kept["stale"]}
        with pytest.raises(store.Stale, match=r"the code that makes it has changed since.*runtime\.stale=refuse"):
            runner.run_job(job(place, "runtime.stale=refuse"))


def test_recompute_makes_the_stale_stage_and_what_was_made_from_it_again(finished, monkeypatch):
    place, *_ = finished
    monkeypatch.setattr(code, "PROJECT", edited("vestige.bench.run.generate", "buffer.getvalue()", "buffer.getvalue() + b''"))
    made = runner.run_job(job(place, "runtime.stale=recompute"))
    assert made["status"] == "done" and made["stale"] == []
    assert runner.run_job(job(place, "runtime.stale=refuse"))["stale"] == []
