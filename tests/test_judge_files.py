"""Judges are files: what is shipped, and a judge of one's own, which is a file and a class outside the repository."""

import json
import sys

import pytest
from newcomer import vestige

from vestige.bench import judges, places
from vestige.bench.cli import listing
from vestige.bench.judges import registry
from vestige.bench.judges.promises import judge_checks
from vestige.bench.papers import reproduce
from vestige.bench.places import CONF
from vestige.bench.run import code, contract_checks

CLASS = """
from dataclasses import dataclass
from typing import ClassVar
from vestige.bench.judges import AskingJudge, Judge

CHANNELS = ("red", "green", "blue")

@dataclass
class Colour(Judge):
    argument: ClassVar[str] = "channel"
    ranks: ClassVar[bool] = False
    channel: str
    least: float

    def check(self, name):
        if self.channel not in CHANNELS:
            raise ValueError(f"judge={name}: allowed are {', '.join(CHANNELS)}.")

    def blank(self, name):
        return AskingJudge(None, name)

    def load(self, name):
        return AskingJudge(self.ask, name)

    def ask(self, images, label):
        share = images[:, CHANNELS.index(self.channel)].float().mean((1, 2)) / 255
        return share > self.least, share
"""
FILE = "# colour:<channel>: is the image of this colour?\n_target_: my_colours.Colour\nchannel: ???\nleast: 0.001\n"


@pytest.fixture
def outside(tmp_path):
    """A user's folder: a module, and a configuration folder with the judge's file."""
    (tmp_path / "conf" / "judges").mkdir(parents=True)
    (tmp_path / "my_colours.py").write_text(CLASS)
    (tmp_path / "conf" / "judges" / "colour.yaml").write_text(FILE)
    return tmp_path


@pytest.fixture
def here(outside, monkeypatch):
    """The same folder as the configuration folder of this process."""
    monkeypatch.syspath_prepend(outside)
    monkeypatch.setattr(places, "_OWN", [])
    monkeypatch.setattr(code, "_PLACES", {})
    places.use_config_folders([outside / "conf"])
    yield outside
    sys.modules.pop("my_colours", None)


def test_every_shipped_judge_is_listed_with_its_first_comment(capsys):
    assert listing.main(["judges"]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert said.keys() == {file.stem for file in (CONF / "judges").glob("*.yaml")} >= {"emoji_a", "clip", "nudenet"}
    takes = {name for name in said if registry.judge_of(f"{name}:x" if said[name].startswith(f"{name}:") else name).argument}
    assert takes == {name for name, comment in said.items() if comment.startswith(f"{name}:")}, "a comment shows how the judge is typed"


@pytest.mark.slow
def test_a_judge_from_outside_is_a_file_and_a_class(outside):
    words = ["model=tiny", "method=original", "split=[target]", "split.target.rows=2", "split.target.repeats=1"]
    words += [f"~split.target.metrics.{name}" for name in ("answers", "clip_score", "image_change")]
    words += [f"runtime.store={outside}/store", f"runtime.records={outside}/records", f"hydra.run.dir={outside}/hydra"]
    done = vestige("run", "--config-dir", str(outside / "conf"), "judge=colour:red", *words, path=outside)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(file.read_text()) for file in (outside / "records").glob("*.json")]
    (present,) = [cell for cell in record["cells"] if cell["column"] == "present"]
    assert present["judge"] == "colour:red" and present["value"] == 1.0, "the random model draws no black image"
    refused = vestige("run", "--config-dir", str(outside / "conf"), "judge=colour:pink", *words, path=outside)
    assert refused.returncode == 2 and "judge=colour:pink: allowed are red" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_contract_of_a_judge_from_outside_is_checked(outside):
    checked = vestige("check", "judge=colour:red", "--config-dir", str(outside / "conf"), path=outside)
    assert checked.returncode == 0 and checked.stdout.count("ok ") == 4, checked.stdout + checked.stderr
    (outside / "my_colours.py").write_text(CLASS.replace("/ 255", "/ 2"))
    broken = vestige("check", "judge=colour:red", "--config-dir", str(outside / "conf"), path=outside)
    assert broken.returncode == 1 and "probability must be one per image, from 0 to 1" in broken.stdout
    (outside / "elsewhere").mkdir()
    nowhere = vestige("check", "judge=colour:red", path=outside / "elsewhere")
    assert nowhere.returncode == 2 and "there is no judge 'colour'" in nowhere.stderr


@pytest.mark.parametrize("judge_id", ["emoji_a", "emoji_b", "clip:emoji"])
def test_the_shipped_judges_keep_the_contract(judge_id):
    for _, promise in judge_checks(judge_id, [contract_checks.DOG]):
        promise()


def test_a_judge_of_ones_own_joins_a_chain_of_shipped_ones(here, concept):
    assert judges.parts("emoji_a+colour:red") == ["emoji_a", "colour:red"]
    chain = judges.blank("emoji_a+colour:red").about([concept("dog"), concept("snail")])
    assert chain.parted(["dog", "snail"]) == {"emoji_a": ["dog"], "colour:red": ["snail"]}
    with pytest.raises(ValueError, match="cannot rank answers"):
        judges.check_ranks("colour:red")
    judges.check_ranks("emoji_a+colour:red")


def test_published_tables_are_planned_with_the_judges_of_a_configuration_folder(outside, monkeypatch):
    monkeypatch.setattr(places, "_OWN", [])
    assert "colour" not in registry.files()
    assert reproduce.main(["--config-dir", str(outside / "conf")]) == 0
    assert registry.files()["colour"] == outside / "conf" / "judges" / "colour.yaml"


def test_a_judge_is_known_by_its_settings_and_its_code(here):
    def known():
        return judges.inputs("colour:red"), code.Code().digest(code.judge("colour:red"))

    before = known()
    (here / "conf" / "judges" / "colour.yaml").write_text(FILE.replace("0.001", "0.002"))
    settings = known()
    assert settings[0] != before[0] and settings[1] == before[1]
    (here / "my_colours.py").write_text(CLASS.replace("share > self.least", "share >= self.least"))
    assert known()[0] == settings[0] and known()[1] != before[1], "also a method that only `load` hands over"
    assert ("my_colours", "Colour.ask") in code.Code().reach(tuple(code.judge("emoji_a+colour:red")))


def test_what_is_wrong_with_a_judge_is_a_sentence(here, tmp_path):
    file = here / "conf" / "judges" / "mine.yaml"
    for typed, said in {
        "emoji": r"there is no judge 'emoji'\. Did you mean emoji_",
        "resnet50+colourr:red": r"no judge 'colourr'\. Did you mean colour\?",
        "emoji_a:b": r"emoji_a takes nothing after a colon\. Write judge=emoji_a\.",
        "colour": r"judge='colour' lacks its channel\. Write judge=colour:<channel>\. colour:<channel>: is the image",
        "gdino:": r"lacks its folder\. Write judge=gdino:<folder>\.",
    }.items():
        with pytest.raises(ValueError, match=said):
            judges.check(typed)
    for text, said in {
        "_target_: my_colours.Colour\nchannel: red\nmost: 1": r"judge\.mine\.most is not a setting of Colour.*least",
        "_target_: my_colours.Colour\nchannel: red": r"judge\.mine lacks least",
        "_target_: my_colours.Color\nchannel: red": r"judge\.mine\._target_='my_colours\.Color' cannot be imported",
        "_target_: vestige.methods.uce.UCE": r"is not a Judge \(see vestige\.bench\.judges\.plugin\)",
        "channel: red": r"judge\.mine has no _target_",
        "a: [1": r"mine\.yaml cannot be read",
        "- words": r"mine\.yaml holds no settings",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            judges.check("mine")


def test_a_name_that_exists_twice_is_refused(here):
    (here / "conf" / "judges" / "clip.yaml").write_text(FILE)
    with pytest.raises(ValueError, match=r"two judges 'clip': .*conf/judges/clip\.yaml and .*Rename your own file"):
        judges.check("emoji_a")
