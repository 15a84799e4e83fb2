"""Digests of large files are remembered across processes, and never believed where the file may have changed."""

import json
import os
import subprocess
import sys
import time

import pytest

from vestige.bench.models import digests
from vestige.bench.models.digests import file_digest, read_digest
from vestige.bench.places import CHECKOUT


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and was written a while ago; its cache is empty and this process has read nothing."""
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setattr(digests, "TICK", 0)
    monkeypatch.setattr(digests, "_READ", {})
    file = tmp_path / "weights.safetensors"
    file.write_text("the first weights")
    return file


def note_of(large):
    (note,) = (large.parent / "cache" / "digests").glob("*.json")
    return note


def in_another_process(monkeypatch):
    monkeypatch.setattr(digests, "_READ", {})


def forged(large):
    """A note that says something else, to see whether it is believed."""
    note = note_of(large)
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "f" * 64}))


def test_another_process_does_not_read_a_large_file_again(large, monkeypatch):
    assert file_digest(large) == read_digest(large)
    forged(large)
    in_another_process(monkeypatch)
    assert file_digest(large) == "f" * 64


def test_a_real_second_process_takes_the_note(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(digests.LARGE))
    time.sleep(2 * digests.TICK / 1e9)
    code = f"from pathlib import Path; from vestige.bench.models.digests import file_digest; print(file_digest(Path({str(file)!r})))"
    environment = {**os.environ, "VESTIGE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", code]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert first == read_digest(file)
    forged(file)
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip() == "f" * 64


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(large, monkeypatch):
    before, facts = file_digest(large), large.stat()
    large.write_text("the other weights")
    os.utime(large, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    in_another_process(monkeypatch)
    assert large.stat().st_size == facts.st_size and file_digest(large) != before


def test_a_check_of_stored_bytes_reads_them(large, monkeypatch):
    before = file_digest(large)
    forged(large)
    in_another_process(monkeypatch)
    assert file_digest(large) == "f" * 64
    assert read_digest(large) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"mark": 1}', b"\xff\xfe", '{"sha256": 5}'])
def test_a_damaged_note_is_ignored_and_written_anew(large, monkeypatch, damage):
    before, note = file_digest(large), note_of(large)
    whole = note.read_text()
    note.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    in_another_process(monkeypatch)
    assert file_digest(large) == before and note.read_text() == whole


def test_a_note_with_the_right_mark_and_a_wrong_digest_is_ignored(large, monkeypatch):
    before, note = file_digest(large), note_of(large)
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "none"}))
    in_another_process(monkeypatch)
    assert file_digest(large) == before


@pytest.mark.parametrize("place", ["/proc/nowhere", "a file", "no home"])
def test_a_cache_that_cannot_be_written_costs_only_time(large, monkeypatch, place, tmp_path):
    if place == "a file":
        (tmp_path / "file").write_text("in the way")
        place = str(tmp_path / "file")
    if place == "no home":
        monkeypatch.delenv("VESTIGE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    else:
        monkeypatch.setenv("VESTIGE_CACHE", place)
    assert file_digest(large) == read_digest(large)


def no_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_a_file_written_just_now_leaves_no_note(large, monkeypatch):
    monkeypatch.setattr(digests, "TICK", 3_600_000_000_000)
    file_digest(large)
    assert not list(large.parent.glob("cache/digests/*"))


def test_small_files_leave_no_note(large, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", 1000)
    file_digest(large)
    assert not list(large.parent.glob("cache/digests/*"))


def test_no_draft_is_left_when_the_disk_is_full(large, monkeypatch):
    def full(path, target):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert file_digest(large) == read_digest(large)
    assert not list(large.parent.glob("cache/digests/*"))
