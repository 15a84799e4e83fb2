"""`conf` and modules in the user's own folder: found by every verb without a word, and never ignored without one."""

import os
import subprocess
import sys

import pytest
from newcomer import vestige

from vestige.bench.places import CHECKOUT, CONF, config_folders
from vestige.bench.reports import stores
from vestige.bench.run.user_folders import check_folders

GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and any(folder.glob("*.yaml")))


def write(folder, **files: str):
    """files: place in `conf`, with __ for a slash -> text."""
    for name, text in files.items():
        file = folder / "conf" / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def here(folder, *words: str) -> subprocess.CompletedProcess:
    """As the installed command: -P leaves the current folder off the path of imports."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1", "VESTIGE_RESULTS": str(folder / "results")}
    command = [sys.executable, "-P", "-m", "vestige", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=240)


@pytest.mark.slow
def test_what_stands_in_the_current_folder_is_listed_checked_planned_and_run(outside):
    assert here(outside, "ls", "methods", "min*").stdout.startswith("mine ")
    checked = here(outside, "check", "method=mine")
    assert checked.returncode == 0 and "ok " in checked.stdout, checked.stderr
    words = ["method=mine", "model=tiny", "split=[small]", "attack=[none,shout]"]
    planned = here(outside, "plan", *words)
    assert planned.returncode == 0 and "erase missing" in planned.stdout, planned.stderr
    done = here(outside, "run", *words)
    assert done.returncode == 0 and len(list((outside / "results" / "records").glob("*.json"))) == 1, done.stderr


def test_a_paper_can_be_planned_on_a_model_of_the_current_folder(tmp_path):
    write(tmp_path, model__mine="defaults: [sd14, _self_]\nname: mine\nrepo: /nowhere\n")
    done = here(tmp_path, "reproduce", "mace_celebrity", "--model", "mine")
    assert done.returncode == 0 and "model=mine" in done.stdout, done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_a_name_that_comes_with_vestige_is_refused(group, tmp_path, monkeypatch):
    shipped = sorted((CONF / group).glob("*.yaml"))[0]
    write(tmp_path, **{f"{group}__{shipped.stem}": shipped.read_text() + "# mine\n"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{group}/{shipped.stem} is already the name of a file that comes with Vestige.*Rename your file"):
        check_folders(config_folders())
    (tmp_path / "conf" / group / shipped.name).write_bytes(shipped.read_bytes())
    check_folders(config_folders())  # a copy means the same


def test_every_verb_refuses_it_and_so_does_a_folder_that_a_command_names(tmp_path):
    write(tmp_path, method__uce="name: uce\n_target_: mine.Mine\n")
    for words in (["run"], ["plan"], ["ls"], ["check", "method=uce"], ["reproduce"]):
        done = here(tmp_path, *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "method/uce is already the name" in done.stderr, done.stderr
    named = vestige("plan", "--config-dir", str(tmp_path / "conf"))
    assert named.returncode == 2 and "method/uce is already the name" in named.stderr


@pytest.mark.parametrize(
    "files, said",
    [
        ({"tuned__emoji__mine": "lr: 1\n"}, "tuned numbers for method 'mine', which does not exist"),
        ({"tuned__emojo__esd": "lr: 1\n"}, "tuned numbers for model 'emojo', which does not exist. Did you mean emoji"),
        (
            {"model__m": "name: m\n", "tuned__m__attacks": "memorra: {lr: 1}\n"},
            "attack 'memorra', which does not exist. Did you mean memora",
        ),
        ({"method__mine": "_target_: mine.Mine\n"}, "Write `name: mine` in it"),
        ({"method__mine": "defaults: [esd, _self_]\nname: esd\n"}, "its name is 'esd'"),
        ({"attack__mine": "_target_: mine.Mine\n"}, "settings of attacks stand below a name of their own"),
        ({"attack__mine": "mine: {steps: 1}\n"}, "`mine: {_target_: my_module.MyClass, ...}`"),
        ({"metric__mine": "_target_: mine.Mine\n"}, "settings of metrics stand below a name of their own"),
        ({"method__mine": "name: [\n"}, "is no YAML"),
        ({"method__mine": "mine\n"}, "holds no settings"),
    ],
)
def test_a_file_that_would_do_nothing_is_refused_with_its_place(files, said, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, **files))
    with pytest.raises(ValueError) as refused:
        check_folders(config_folders())
    assert said in str(refused.value) and str(tmp_path) in str(refused.value)


def test_the_shipped_folder_is_named_once_and_the_current_one_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    assert config_folders() == [CONF] == config_folders(CHECKOUT / "conf")
    monkeypatch.chdir(write(tmp_path, method__mine="name: mine\n"))
    assert config_folders(tmp_path / "conf", tmp_path / "nowhere") == [CONF, tmp_path / "conf"]


def test_defaults_of_this_machine_are_read_from_the_current_folder(tmp_path, monkeypatch):
    text = "# @package _global_\nruntime: {threads: 3, read_from: [more]}\n"
    monkeypatch.chdir(write(tmp_path, local__default=text))
    from vestige.bench.run import tree

    assert tree.composed(["split=[]"]).runtime.threads == 3
    assert [str(place) for place in stores.read_from()] == ["more"]
