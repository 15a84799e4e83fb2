"""The verbs that read results: status, show, table, gallery, plot, power, diff, gc. None of them runs a model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from vestige.bench import places
from vestige.bench.reports import stores
from vestige.bench.run.record import FAILED
from vestige.bench.run.store import Store
from vestige.bench.run.store_folder import first_difference
from vestige.bench.run.store_locks import Busy


def _records(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def _needs_records(folder: Path) -> None:
    if not any(folder.glob("*.json")):
        raise ValueError(f"there are no records in {folder}. Run something first, for example: vestige run method=uce concept=dog")


def status(arguments: argparse.Namespace) -> int:
    from vestige.bench.run.record import line

    records = _records(arguments.records)
    for record in records:
        print(line(record))
        if record["status"] in ("failed", "busy"):
            print(f"            repeat with: {record['command']}")
    _say_failed_later(arguments.records)
    store = Store(arguments.store)
    stages = store.stages()
    print(f"{len(records)} records, {len(stages)} finished stages, {len(store.partials())} unfinished")
    for folder in store.partials():
        print(f"unfinished  {folder.relative_to(arguments.store)} (the next run that needs it continues it)")
    digests = {stage["key"]: stage["digest"] for stage in stages}
    for record in records:
        steps = {f"erase step {number}": step for number, step in enumerate(record.get("steps", [])[:-1], 1) if "key" in step}
        for name, stage in (record["stages"] | steps).items():
            if digests.get(stage["key"], stage["digest"]) != stage["digest"]:
                print(f"changed     {record['key']}: its {name} stage has been computed again since, with another result")
    damaged = store.check_all(arguments.verify)
    for why in damaged.values():
        print(f"damaged     {why} It is not used. The next run that needs it computes it again.")
    for folder in store.set_aside():
        print(f"set aside   {folder.relative_to(arguments.store)} (damaged; it was computed again, so you may delete this)")
    return 1 if damaged else 0


def _say_failed_later(folder: Path) -> None:
    for record in _records(folder / FAILED):
        print(f"{record['status']:<11} a later run of {record['key']}; its earlier result is kept: {record['reason']}")
        print(f"            repeat with: {record['command']}")


def show(arguments: argparse.Namespace) -> int:
    print(json.dumps(_find(arguments, arguments.key), indent=2, sort_keys=True, default=str))
    return 0


def diff(arguments: argparse.Namespace) -> int:
    one, two = (_find(arguments, key).get("specification", {}) for key in arguments.keys)
    print(first_difference(one, two) or "the specifications are equal")
    return 0


def table(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import leaderboard, render

    frame, score_table = _measured(arguments)
    render.deliver(leaderboard.table(frame, arguments.format, score_table, arguments.composites), arguments.out)
    return 0


def plot(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import plots

    frame, score_table = _measured(arguments)
    for file in plots.write(frame, score_table, arguments.out, arguments.format):
        print(f"plot written to {file}")
    return 0


def robustness(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import robustness_report

    return robustness_report.main(arguments, *_measured(arguments))


def power(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import plan_power

    needs = arguments.a is not None
    print(plan_power.answer(arguments, *(_measured(arguments) if needs else (None, None))))
    return 0


def _measured(arguments: argparse.Namespace):
    """The frame of results.load and the images it read."""
    from vestige.bench.reports import results
    from vestige.bench.reports.score_table import ScoreTable

    _needs_records(arguments.records)
    score_table = ScoreTable(*stores.places_of_scores(arguments.records, arguments.store))
    return results.load(arguments.records, score_table), score_table


def pack(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import packed
    from vestige.bench.reports.score_table import ScoreTable

    _needs_records(arguments.records)
    lost = packed.write(arguments.records, ScoreTable(*stores.places_of_scores(arguments.records, arguments.store)).text, arguments.out)
    for reference in lost:
        print(f"not packed  {reference}: no store has it (--store adds one)")
    print(f"packed {len(_records(arguments.out))} records and their scores in {arguments.out}")
    return 1 if lost else 0


def gallery(arguments: argparse.Namespace) -> int:
    from vestige.bench.reports import gallery as page

    _needs_records(arguments.records)
    print(f"gallery written to {page.write(arguments.records, arguments.store, arguments.out)}")
    if arguments.sheet:
        print(f"sheet written to {page.sheet(arguments.records, arguments.store, arguments.sheet)}")
    return 0


def gc(arguments: argparse.Namespace) -> int:
    """Stages that no record refers to, directly or through other stages, largest first."""
    store = Store(arguments.store)
    folders = _all_record_folders(arguments.records)
    records = []
    for folder in folders:
        some = _records(folder)
        records += some
        print(f"kept: the results of {len(some)} records in {folder}")
    if not records and arguments.delete:
        raise ValueError("there are no records, so everything would be removed. Name the records to keep: --records FOLDER.")
    used = _used_keys(records, store)
    unused = [stage for stage in store.stages() if stage["key"] not in used]
    sizes = {stage["folder"]: sum(f.stat().st_size for f in stage["folder"].rglob("*") if f.is_file()) for stage in unused}
    done = "removed" if arguments.delete else "not needed (--delete removes them)"
    for folder, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 1e6:10.1f} MB  {folder.relative_to(arguments.store)}")
        if arguments.delete:
            try:
                store.remove(folder)
            except Busy as why:
                print(f"{'':13}left: {why}")
    print(f"{len(sizes)} stages, {sum(sizes.values()) / 1e6:.1f} MB {done}")
    return 0


def _all_record_folders(named: list[Path] | None) -> list[Path]:
    """Those that the user names, and every folder of records in the project's results: experiments keep theirs apart."""
    found = list(named or [])
    for place, folders, _ in os.walk(places.results()):
        found += [Path(place) / name for name in sorted(folders) if name == "records"]
        folders[:] = [name for name in folders if name not in ("records", "store", "hydra")]  # large, and no records in them
    return [folder for folder in dict.fromkeys(f.resolve() for f in found) if folder.is_dir()]


def _used_keys(records: list[dict], store: Store) -> set[str]:
    """Keys of all stages that records name, and of the stages that those were made from."""
    by_key = {stage["key"]: stage for stage in store.stages()}
    by_folder = {f"{stage['kind']}/{stage['folder'].name}": stage["key"] for stage in by_key.values()}
    todo = [stage["key"] for record in records for stage in record["stages"].values()]
    todo += [by_folder.get(cell[name]) for record in records for cell in record["cells"] for name in ("images", "score")]
    used: set[str] = set()
    while todo:
        key = todo.pop()
        if key in by_key and key not in used:
            used.add(key)
            specification = by_key[key]["specification"]
            todo += [specification.get(name) for name in ("parent", "erasure", "adversary", "images", "original")]
            todo += [by_folder.get(reference) for reference in by_key[key]["inputs"]]
    return used


def _find(arguments: argparse.Namespace, beginning: str) -> dict:
    candidates = {record["key"]: record for record in _records(arguments.records)}
    for stage in Store(arguments.store).stages():
        candidates[stage["key"]] = candidates[f"{stage['kind']}/{stage['folder'].name}"] = stage
    hits = {id(value): value for key, value in candidates.items() if key.startswith(beginning)}
    if len(hits) != 1:
        some = ", ".join(sorted(candidates)[:5])
        raise ValueError(f"{len(hits)} records or stages begin with {beginning!r}. Keys look like: {some or 'none yet'}.")
    return next(iter(hits.values()))
