"""Drawing in batches: an interrupted set ends with the same files as one drawn in one go."""

import pandas as pd

from vestige.bench.contract.types import PromptSet
from vestige.bench.run import generate


def digests(images) -> dict:
    return images.index.set_index("file")["sha256"].to_dict()


def test_an_interrupted_set_is_completed_bit_for_bit(tiny, prompts, sampler, tmp_path):
    asked = prompts(5)
    whole = generate.draw(tiny, asked, sampler, tmp_path / "whole", 3)
    broken = generate.draw(tiny, asked, sampler, tmp_path / "broken", 3)
    for file in ("0000-0", "0001-0", "0004-0"):
        next((broken.folder / "png").glob(f"{file}.*")).unlink()
    kept = next((broken.folder / "png").glob("0003-0.*")).stat().st_mtime_ns
    before = tiny.counts["images"]
    again = generate.draw(tiny, asked, sampler, tmp_path / "broken", 3)
    assert digests(again) == digests(whole)
    assert tiny.counts["images"] - before == 5, "both batches lacked an image"
    assert next((broken.folder / "png").glob("0003-0.*")).stat().st_mtime_ns == kept, "a finished image is never written again"
    generate.draw(tiny, asked, sampler, tmp_path / "broken", 3)
    assert tiny.counts["images"] - before == 5, "a complete set draws nothing"


def test_an_image_that_was_cut_is_drawn_again(tiny, prompts, sampler, tmp_path):
    asked = prompts(3)
    whole = generate.draw(tiny, asked, sampler, tmp_path / "whole", 3)
    broken = generate.draw(tiny, asked, sampler, tmp_path / "broken", 3)
    for stem, left in (("0000-0", 0), ("0001-0", 60)):
        file = next((broken.folder / "png").glob(f"{stem}.*"))
        file.write_bytes(file.read_bytes()[:left])
    assert digests(generate.draw(tiny, asked, sampler, tmp_path / "broken", 3)) == digests(whole)


def test_row_ids_may_contain_dots(tiny, prompts, sampler, tmp_path):
    asked = prompts(2)
    asked.table["row_id"] = ["a.1", "a.2"]
    assert list(generate.draw(tiny, asked, sampler, tmp_path / "dots", 2).index["row_id"]) == ["a.1", "a.2"]


def test_of_a_set_that_is_one_sentence_the_images_are_the_units(tiny, sampler, tmp_path):
    rows = [{"row_id": str(k), "prompt": "a dog", "role": "target", "expect": "dog", "names": 1, "group": "s1"} for k in range(2)]
    alone, two = (pd.DataFrame(rows), pd.DataFrame([rows[0], {**rows[1], "prompt": "a cat", "group": "s2"}]))
    index = [generate.draw(tiny, PromptSet("t", table, 2), sampler, tmp_path / str(k), 4).index for k, table in enumerate((alone, two))]
    assert index[0]["group"].tolist() == ["0/0", "0/1", "1/0", "1/1"]
    assert index[1]["group"].tolist() == ["s1", "s1", "s2", "s2"]
