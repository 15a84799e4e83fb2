"""A small made-up store whose right answers are known: five methods, two concepts, two splits, one attack."""

import json
from functools import cache

import numpy as np
import pandas as pd
import yaml

from vestige.bench.places import CHECKOUT

SAMPLER = {"scheduler": "DDIMScheduler", "steps": 20, "guidance": 3.0}
DDIM = {"scheduler": "DDIMScheduler", "steps": 50, "guidance": 7.5, "height": 512, "width": 512, "arguments": {}}
# method -> (share of target images, share of others) that show what the prompt asks for; attack raises the target to `attacked`
SHARES = {
    "original": (1.0, 1.0, 1.0),
    "oracle": (0.0, 1.0, 0.0),
    "good": (0.1, 0.9, 0.6),
    "blunt": (0.1, 0.3, 0.1),
    "idle": (1.0, 1.0, 1.0),
}
ROWS = 10


def make_places(tmp_path):
    """(records, store) with five methods on two concepts, target and others, without and under an attack."""
    records, store = tmp_path / "records", tmp_path / "store"
    records.mkdir()
    for concept in ("dog", "car"):
        for method, (target, others, attacked) in SHARES.items():
            cells = [
                cell(store, concept, method, "target", "none", target, False),
                cell(store, concept, method, "target", "typos", attacked, True),
                cell(store, concept, method, "others", "none", others, False),
            ]
            write_record(records, concept, method, cells)
    return records, store


def cell(store, concept, method, split, attack, share, reverse):
    name = f"{concept}-{method}-{split}-{attack}"
    index = pd.DataFrame({"row_id": [f"{k:03d}" for k in range(ROWS)], "rep": 0, "group": [f"g{k}" for k in range(ROWS)]})
    index = index.assign(prompt=f"a {concept}", file=[f"png/{k:03d}-0.ok.png" for k in range(ROWS)])
    shown = (np.arange(ROWS) < round(share * ROWS)).astype(float)
    for folder, table in (("images", index), ("score", index[["row_id", "rep"]].assign(present=shown[::-1] if reverse else shown))):
        (store / folder / name).mkdir(parents=True)
        table.to_csv(store / folder / name / ("index.csv" if folder == "images" else "per_image.csv"), index=False)
    draw_images(store / "images" / name)
    head = {"split": split, "attack": attack, "access": "none", "metric": "presence", "column": "present", "judge": "judge"}
    rest = {"n": ROWS, "groups": ROWS, "higher_is_better": True, "images": f"images/{name}", "score": f"score/{name}", "reason": None}
    rest |= {"budget": {"forward_rows": 40, "images": 2} if attack == "typos" else {}}
    return head | rest | {"value": float(shown.mean()), "ci_low": 0.0, "ci_high": 1.0}


def draw_images(folder):
    from PIL import Image

    (folder / "png").mkdir()
    for k in range(ROWS):
        Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(folder / "png" / f"{k:03d}-0.ok.png")


MODEL = {"name": "toy", "family": "sd1", "repo": "toy", "revision": None, "dtype": "float32", "numerics": "reference"}
MODEL |= {"weights": "5f70bf18a0860070"}


def specification(concept="dog", method="good", cells=(), **over):
    """What a run writes of what was asked, for made-up cells. A key of `over` replaces that part; "params" are the method's."""
    head = {"kind": "object", "group": "things", "aliases": [], "anchor": "thing"}
    concepts = [{"slug": slug, "name": slug, **head} for slug in concept.split("+")]
    splits, attacks = {}, {"none": {"plugin": "vestige.bench.contract.plugin.Attack", "version": 1, "params": {}}}
    for made in cells:
        *head, metrics = splits.setdefault(made["split"], [made["split"], ROWS, 1, made["split"] == "target", {}])
        if made["metric"]:
            params = {"judge": made["judge"]} if made.get("judge") else {}
            metrics[made["metric"]] = {"plugin": f"metrics.{made['metric']}", "version": 1, "params": params}
        plugin = f"attacks.{made['attack'].partition(':')[0].partition('@')[0]}"
        attacks.setdefault(made["attack"], {"plugin": plugin, "version": 1, "params": {"tries": 4}})
    params = over.pop("params", {"lr": 1e-05, "steps": 100})
    spec = {"model": MODEL, "concepts": concepts, "method": [method, {"plugin": f"methods.{method}", "version": 1, "params": params}]}
    spec |= {"attacks": attacks, "splits": splits, "sampler": SAMPLER, "attack_judge": "judge_b", "seed": 0, "until": "score"}
    return json.loads(json.dumps(spec | over))


def write_record(records, concept, method, cells, **over):
    record = {
        "key": f"{concept}-{method}",
        "status": "done",
        "model": "toy",
        "domain": "emoji",
        "method": method,
        "intervention": "weights",
        "kind": "object",
    }
    record |= {"specification": specification(concept, method, cells)}
    record |= {"seed": 0, "concepts": [concept], "sampler": SAMPLER, "reason": None, "limits": "", "cells": cells}
    record |= {"cost": {"erase_seconds": 2.0, "seconds_per_image": 0.1, "parameters_changed": 5, "artefact_bytes": 20}, **over}
    (records / f"{record['key']}.json").write_text(json.dumps(record))


def celebrities(n):
    return list(yaml.safe_load((CHECKOUT / "conf" / "concept" / f"celebrities_{n}.yaml").read_text()))


@cache
def as_planned(model, method, concept):
    """The part of a specification that says with which settings a method was run on which model: those of conf/."""
    from vestige.bench.contract import building
    from vestige.bench.contract.plugin import Method
    from vestige.bench.contract.types import ModelSpec, plain
    from vestige.bench.papers.planning import Work, composed

    tree, _ = composed(Work(model, None, (method,), (concept,)), None)
    spec = building.typed(tree.model, ModelSpec, "model", drop=("sampler", "judge", "attack_judge", "clip"))
    settings = building.specification(building.plugin(tree.method, Method, "method"))
    return json.dumps({"model": {**plain(spec), "weights": None}, "method": [method, settings], "held_out": tree.held_out})


def celebrity_record(folder, method, value, judge="celebrity", sampler=DDIM, rows=5, model="sd14", concepts=None, **over):
    """One finished job whose target split found the concept in this share of images."""
    presence = {"presence": {"plugin": "vestige.metrics.presence.Presence", "version": 1, "params": {"judge": judge, "batch_size": 64}}}
    splits = {"target": ["mace_celebrity_target", rows, 5, True, presence], "others": ["mace_celebrity_others", 500, 5, False, presence]}
    head = {"metric": "presence", "column": "present", "judge": judge, "attack": "none", "access": "none", "higher_is_better": True}
    head |= {"images": None, "score": None, "reason": None, "budget": {}, "n": 6, "groups": 3}
    cells = [head | {"split": "target", "value": value, "ci_low": value - 0.01, "ci_high": value + 0.02}]
    whole = {
        "key": f"{method}-{len(list(folder.glob('*.json')))}",
        "status": "done",
        "model": model,
        "method": method,
        "intervention": "weights",
    }
    whole |= {
        "kind": "celebrity",
        "seed": 0,
        "concepts": concepts or celebrities(10),
        "sampler": sampler,
        "protocol": "mace_celebrity",
        "reason": None,
    }
    whole |= {"limits": "", "detachable": False, "cells": cells, "cost": {"erase_seconds": 90.0}}
    together = concepts or celebrities(10)
    settings = json.loads(as_planned(model, method, together[0] if model == "emoji" else f"celebrities_{len(together)}"))
    whole |= {"specification": {**settings, "splits": splits, "sampler": sampler}, **over}
    folder.mkdir(exist_ok=True)
    (folder / f"{whole['key']}.json").write_text(json.dumps(whole))
