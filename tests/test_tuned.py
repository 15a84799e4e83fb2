"""Numbers tuned for a model: merged because that model is chosen, over the paper's and below whatever is typed."""

import pytest
from newcomer import vestige

from vestige.bench.contract import building
from vestige.bench.contract.plugin import Attack
from vestige.bench.places import CONF
from vestige.bench.run import choices, composing, contract_checks, tree
from vestige.bench.run.user_folders import check_tuned

FILES = sorted(file for file in CONF.glob("tuned/*/*.yaml") if file.stem != "attacks")
ATTACKS = sorted(choices.tuned_attacks(CONF / "tuned" / "emoji" / "attacks.yaml", (CONF,)))
QUIET = ["concept=[dog]", "split=[]"]


def test_shipped_numbers_are_of_models_methods_and_attacks_that_there_are():
    check_tuned(CONF, [CONF])


def test_no_name_repeats_the_model_that_it_is_tuned_for():
    models = {folder.name for folder in (CONF / "tuned").iterdir()}
    names = choices.known("method", [CONF]) + choices.known("attack", [CONF])
    assert "esd" in names and not [name for name in names if name.rpartition("_")[2] in models]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_tuned_method_is_typed_for_objects_and_styles(file):
    model = file.parent.name
    tuned, style = (contract_checks.build("method", file.stem, concept=c, model=model) for c in ("dog", "pixel_art"))
    assert type(tuned) is type(style)
    assert tuned != contract_checks.build("method", file.stem), "a tuned file changes something"


@pytest.mark.parametrize("concept", ["dog", "pixel_art"])
def test_tuned_attacks_are_typed_and_those_that_are_not_chosen_are_dropped(concept):
    settings = tree.composed([f"concept=[{concept}]", "split=[]", f"attack=[{','.join(ATTACKS)}]"])
    made = {name: building.plugin(entry, Attack, name) for name, entry in choices.chosen_attacks(settings).items()}
    assert sorted(made) == ATTACKS
    job = composing.build_job(tree.composed([f"concept=[{concept}]", "split=[target]", "method=original", "attack=[none,memora]"]))
    assert list(job.attacks) == ["none", "memora"] and job.attacks["memora"] == made["memora"]


def test_the_model_chooses_the_numbers_and_the_command_line_wins():
    def learning_rate(*words: str) -> float:
        return tree.composed([*QUIET, "method=esd", *words]).method.lr

    assert learning_rate() == 2.0e-4 and learning_rate("model=tiny") == learning_rate("model=sd14") == 1.0e-5
    assert learning_rate("method.lr=3") == 3
    assert learning_rate("tuned@method=none") == 1.0e-5, "the paper's own numbers can be asked for"
    assert learning_rate("model=tiny", "tuned@method=emoji/esd") == 2.0e-4, "and the tuned ones on another model"


def test_an_experiment_wins_over_tuned_numbers(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [override /attack: [none, memora]]\nmethod: {lr: 7}\nattack: {memora: {pairs: 2}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    settings = tree.composed([*QUIET, "method=esd", "experiment=mine"], tmp_path)
    assert settings.method.lr == 7 and settings.method.bins == 8
    assert settings.attack.memora.pairs == 2 and settings.attack.memora.between == 5


def test_another_embedded_model_takes_files_alone_and_starts_from_the_numbers_of_the_first(tmp_path):
    for name, text in {
        "model/other": "defaults: [emoji, _self_]\nname: other\n",
        "tuned/other/esd": "defaults: [/tuned/emoji/esd@_here_, _self_]\nlr: 0.5\n",
        "tuned/other/attacks": "defaults: [/tuned/emoji/attacks@_here_, _self_]\nmemora: {steps: 9}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    settings = tree.composed([*QUIET, "model=other", "method=esd", "attack=[none,memora]"], tmp_path)
    assert (settings.method.name, settings.method.lr, settings.method.bins) == ("esd", 0.5, 8)
    assert (settings.attack.memora.steps, settings.attack.memora.between) == (9, 5)
    assert (
        choices.tuned_for("method", "esd", [CONF, tmp_path]) == choices.tuned_for("attack", "p4d", [CONF, tmp_path]) == ["emoji", "other"]
    )


def test_another_level_of_tuning_is_a_folder_and_one_file_that_chooses_it(tmp_path):
    for name, text in {
        "tuned/emoji/budget/esd": "defaults: [/tuned/emoji/esd@_here_, _self_]\niterations: 7\n",
        "experiment/budget": "# @package _global_\ndefaults: [override /tuned@method: '${model}/budget/${method}']\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    plain, tuned = (tree.composed([*QUIET, "method=esd", *words], tmp_path).method for words in ([], ["experiment=budget"]))
    assert (plain.iterations, tuned.iterations, tuned.lr) == (120, 7, plain.lr)


def test_a_table_of_prompts_is_replaced_and_not_merged_with_the_papers():
    photo, emoji = (contract_checks.build("attack", "concept_arithmetics", model=model) for model in ("tiny", "emoji"))
    assert list(photo.compositions["difference"]) == ["{prompt} and a {other}", "a {other}"]
    assert list(emoji.compositions["difference"]) == ["a {name} and a {other}", "a {other}"]


def test_a_step_of_a_sequence_is_tuned_as_the_method_itself():
    sequence = contract_checks.build("method", "sequential_uce", model="emoji")
    assert sequence.methods["uce"] == contract_checks.build("method", "uce", model="emoji")


@pytest.mark.parametrize(
    "words, said",
    [
        (["method=esd_emoji"], "Say method=esd: with model=emoji it has the numbers tuned for that model"),
        (["attack=[none,memora_emoji]"], "Say attack=memora:"),
        (["method=esd_emojo"], "there is no method 'esd_emojo'"),
        (["tuned@method=emoji/essd"], "Did you mean emoji/esd"),
        (["+method@method.steps.second=sped"], "Did you mean speed"),
        (["metric@split.target.metrics=[presense]"], "Did you mean presence"),
    ],
)
def test_a_name_that_is_gone_or_mistyped_is_refused_with_the_one_to_say(words, said):
    with pytest.raises(ValueError) as refused:
        choices.check_names(words, [CONF])
    assert said in str(refused.value)


def test_a_number_for_an_attack_that_is_not_chosen_is_refused():
    done = vestige("plan", "method=original", "attack=[none,paraphrase]", "attack.memora.steps=3")
    assert done.returncode == 2 and "'attack.memora.steps=3': attack 'memora' is not chosen" in done.stderr, done.stderr
    choices.check_settings(["attack.memora.steps=3", "attack=[none,memora]", "+attack.memora.more=1"], ["none", "memora"])


def test_a_list_says_for_which_models_a_row_is_tuned():
    shown = vestige("ls", "methods", "esd*").stdout
    assert shown.count("tuned for model emoji") == 1 and shown.index("esd ") < shown.index("tuned for") < shown.index("esd_released")
    assert "tuned for model emoji" in vestige("ls", "attacks", "memora").stdout
