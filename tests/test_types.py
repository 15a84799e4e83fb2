"""The nouns survive the disk, and canonical hashes tell numbers apart."""

import torch

from vestige.bench.contract.types import Adversary, Erasure, Scores, canonical_hash, derived_seed


def test_an_erasure_survives_the_disk_bit_for_bit(tmp_path):
    tensors = {"unet.a": torch.randn(3, 4), "mine.b": torch.randn(2).half()}
    Erasure(tensors, {"note": "x", "rank": 2}).save(tmp_path)
    loaded = Erasure.load(tmp_path)
    assert loaded.meta == {"note": "x", "rank": 2}
    assert all(torch.equal(loaded.tensors[name], tensor) and loaded.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_an_adversary_survives_the_disk(tmp_path, prompts):
    asked = prompts(3).with_prompts(["a", "", "n/a"])
    Adversary(asked, {"word": torch.ones(1, 4)}, {"k": 1}, {"images": 3.0}).save(tmp_path)
    loaded = Adversary.load(tmp_path)
    assert loaded.prompts.prompts == ["a", "", "n/a"] and loaded.prompts.digest == asked.digest
    assert loaded.budget == {"images": 3.0} and torch.equal(loaded.tensors["word"], torch.ones(1, 4))


def test_scores_survive_the_disk(tmp_path):
    Scores({"fid": 1.25}).save(tmp_path)
    assert Scores.load(tmp_path).totals == {"fid": 1.25} and Scores.load(tmp_path).per_image is None


def test_hashes_ignore_key_order_but_not_types():
    assert canonical_hash({"a": 1, "b": 2}) == canonical_hash({"b": 2, "a": 1})
    assert len({canonical_hash({"a": value}) for value in (1, 1.0, True, "1")}) == 4


def test_seeds_are_a_function_of_their_words():
    assert derived_seed("a", 1) == derived_seed("a", 1) != derived_seed("a", 2)
    assert 0 <= derived_seed("x") < 2**63
