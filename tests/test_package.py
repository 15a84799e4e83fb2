"""The wheel: one name in site-packages, all data files in it, and a working command in any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vestige.bench.places import CHECKOUT

pytestmark = pytest.mark.slow

SHIPPED = ("bench", "conf", "methods", "attacks", "metrics", "prompts", "results/published", "vestige")
OWN = shutil.ignore_patterns("__pycache__", "oracles_seed*")  # what only this machine has


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files beside the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=OWN)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source / name)
    (source / "conf/local").mkdir(exist_ok=True)
    (source / "conf/local/default.yaml").write_text("runtime: {device: cuda}\n")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("vestige-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def installed(site: Path, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """The installed command in another folder, beside the packages of this machine."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "VESTIGE_RESULTS"}
    environment = {**kept, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([str(site / "bin/vestige"), *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_one_name_and_nothing_of_this_machine(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vestige"}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vestige"}
    assert not [name for name in names if "conf/local" in name or "oracles_seed" in name]
    assert {"vestige/conf/run.yaml", "vestige/bench/world/weights/generator/model_index.json"} <= set(names)


def test_the_installed_command_plans_the_demo_in_an_empty_folder(site, tmp_path):
    done = installed(site, tmp_path / "empty", "plan", "experiment=demo", "concept=dog")
    assert done.returncode == 0, done.stderr
    assert "in all: 9 jobs" in done.stdout and "missing here" not in done.stdout
    assert [entry.name for entry in (tmp_path / "empty").iterdir()] == ["results"]


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_the_installed_command_runs_a_job_and_its_results_lie_in_the_current_or_the_chosen_folder(site, tmp_path, chosen):
    words = ["run", "model=tiny", "method=uce", "concept=dog", "split=[target]", "split.target.rows=2", "until=generate"]
    done = installed(site, tmp_path / "empty", *words, **({"VESTIGE_RESULTS": str(tmp_path / chosen)} if chosen else {}))
    assert done.returncode == 0, done.stderr
    results = tmp_path / (chosen or "empty/results")
    (record,) = (results / "records").glob("*.json")
    assert json.loads(record.read_text())["status"] == "done" and list((results / "store/images").glob("*/png/*.png"))


def test_an_install_without_its_data_files_says_so(site, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(site, bare, ignore=shutil.ignore_patterns("conf", "weights"))
    done = installed(bare, tmp_path / "empty", "plan", "model=tiny")
    assert done.returncode == 2
    assert "lacks its data files" in done.stderr and "Traceback" not in done.stderr
    shutil.copytree(site / "vestige/conf", bare / "vestige/conf")
    done = installed(bare, tmp_path / "empty", "plan", "model=emoji", "concept=dog", "split=[target]")
    assert done.returncode == 2 and "bench/world/weights/generator" in done.stderr and "Traceback" not in done.stderr


def test_only_the_tests_need_pytest():
    for file in (file for name in ("bench", "methods", "attacks", "metrics", "vestige") for file in (CHECKOUT / name).rglob("*.py")):
        assert "import pytest" not in file.read_text(), file
