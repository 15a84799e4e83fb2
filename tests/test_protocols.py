"""Every protocol composes for Stable Diffusion 1.4 as its paper says, without its weights, and finishes on the emoji model."""

import hashlib
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from vestige.bench.models import loading
from vestige.bench.places import CHECKOUT, CONF
from vestige.bench.prompts import prompt_sets
from vestige.bench.reports import results
from vestige.bench.reports.aggregates import AggregateScores
from vestige.bench.run import composing, concept_sets, resolvers
from vestige.bench.run.plan import plan_job, summary
from vestige.bench.run.runner import run_job

PROTOCOLS = sorted(file.stem for file in (CONF / "protocol").glob("*.yaml"))
DDIM = {"scheduler": "DDIMScheduler", "steps": 50, "guidance": 7.5, "height": 512, "width": 512}
DPM = DDIM | {"scheduler": "DPMSolverMultistepScheduler", "steps": 20}
WORDS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR = [f"cifar_{word}" for word in WORDS]
PAIR, TRIPLE = "[snoopy,speed_mickey]", "[snoopy,speed_mickey,speed_spongebob]"
PNDM, LMS = DDIM | {"scheduler": "PNDMScheduler"}, DDIM | {"scheduler": "LMSDiscreteScheduler"}
CANVAS = sorted(file.stem for file in (CONF / "concept").glob("canvas_*.yaml"))
HUB = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "prompts" / "hub_lists.yaml"))
I2P, EVERY_CELEBRITY = {"target": 4703}, {"target": 2500, "others": 2500}

# protocol -> its sampler, its concepts, and for some of them the images that each split asks for, all as papers count.
EXPECTED = {
    "mace_object": (DDIM, CIFAR, {name: {"target": 200, "synonyms": 600, "others": 1800} for name in ("cifar_cat", "cifar_ship")}),
    "mace_celebrity": (
        DDIM,
        [f"celebrities_{n}" for n in (1, 5, 10, 100)],
        {f"celebrities_{n}": {"target": 250, "others": 2500} for n in (1, 5, 10)} | {"celebrities_100": EVERY_CELEBRITY},
    ),
    "mace_style": (DDIM, ["artists_100"], {"artists_100": {"target": 2500, "siblings": 2500}}),
    "mace_explicit": (DDIM, ["nudity"], {"nudity": I2P | {"captions": 30000}}),
    "speed_instance": (
        DPM,
        ["snoopy", PAIR, TRIPLE],
        {
            "snoopy": {"target": 800, "others": 4 * 800, "captions": 1000},
            PAIR: {"target": 2 * 800, "others": 3 * 800, "captions": 1000},
            TRIPLE: {"target": 3 * 800, "others": 2 * 800, "captions": 1000},
        },
    ),
    "speed_style": (
        DPM,
        ["speed_van_gogh", "speed_picasso", "speed_monet"],
        {"speed_monet": {"target": 300, "others": 4 * 300, "captions": 1000}},
    ),
    "speed_celebrity": (
        DPM,
        [f"celebrities_{n}" for n in (10, 50, 100)],
        {f"celebrities_{n}": {"target": 500, "others": 500, "captions": 1000} for n in (10, 50, 100)},
    ),
    "coco_utility": (DDIM, ["van_gogh"], {"van_gogh": {"captions": 3000}}),
    "coco_30k": (DDIM, ["van_gogh"], {"van_gogh": {"captions": 30000}}),
    "coco_10k": (DDIM, ["van_gogh"], {"van_gogh": {"captions": 9969}}),
    "coco_1k_paired": (DDIM, ["van_gogh"], {"van_gogh": {"captions": 1000}}),
    "unlearncanvas": (
        DDIM | {"steps": 100, "guidance": 9.0},
        CANVAS,
        {"canvas_dogs": {"canvas": 5000}, "canvas_winter": {"canvas": 5000}},
    ),
    "eraseeval": (PNDM, ["english_springer", "church", "van_gogh"], {"van_gogh": {"target": 100, "implicit": 100, "captions": 1000}}),
    "hub": (
        PNDM,
        sorted({name.removeprefix("hub_target_") for name in HUB if name.startswith("hub_target_")} - {"violence", "disturbing"}),
        {
            slug: {"target": HUB[f"hub_target_{slug}"]["rows"], "siblings": 10 * min(100, HUB[f"hub_pinpoint_{slug}"]["rows"])}
            | {"selective": 1000, "multilingual": 6000, "adversarial": HUB[f"hub_attack_{slug}"]["rows"], "captions": 30000}
            for slug in ("van_gogh", "brad_pitt", "pikachu", "nudity")
        },
    ),
    "ecgvf": (DDIM, ["church", "van_gogh"], {"church": {"target": 84, "replaced": 55, "captions": 30000}}),
    "ecgvf_nudity": (DDIM, ["nudity"], {"nudity": {"target": 1539, "captions": 30000}}),
    "forgetme_entangled": (DDIM, ["english_springer", "church", "tench", "parachute"], {"church": {"target": 200}}),
    "advunlearn_eval": (
        LMS,
        ["nudity", "van_gogh", "church", "tench", "parachute", "garbage_truck"],
        {"nudity": {"target": 2 * 142, "captions": 10000}, "church": {"target": 2 * 50, "captions": 10000}},  # without and under attack
    ),
    "i2p_nudity": (DDIM, ["nudity"], {"nudity": I2P}),
}
# Composites that a protocol's own table must show, as far as the emoji model's judges can measure them.
HEADLINES = {
    "mace_object": ["mace_h_o", "mace_h_o_accuracy"],
    "mace_celebrity": ["mace_h_c", "mace_h_c_all"],
    "mace_style": ["mace_h_a"],
    "unlearncanvas": [f"canvas_object_{n}" for n in ("ua", "ira", "cra", "mean")],
    "eraseeval": [f"eraseeval_{n}" for n in ("m1", "m2", "m3", "m4", "all")],
    "hub": [f"hub_{n}" for n in ("target", "selective", "pinpoint", "multilingual", "attack", "alignment", "fid", "fid_sd")],
    "ecgvf": [*(f"ecgvf_erased_{k}" for k in (1, 3, 5, 10)), "ecgvf_replaced"],
    "ecgvf_nudity": ["nudity_nn3_raw"],
    "forgetme_entangled": ["entangled_ours_s", "entangled_ours_d"],
    "advunlearn_eval": ["udatk_pre_asr", "udatk_asr"],
    "mace_explicit": ["nudity_mace", "coco_clip", "coco_fid"],
    "speed_instance": ["speed_cs_erased", "speed_cs_kept", "speed_fid_kept", "coco_clip", "coco_fid_drift"],
    "speed_style": ["speed_cs_erased", "speed_cs_kept", "speed_fid_kept", "coco_clip", "coco_fid_drift"],
    "speed_celebrity": ["speed_h_o", "coco_clip", "coco_fid_drift"],
    "coco_utility": ["coco_clip", "coco_clip_loss", "coco_fid", "coco_fid_drift"],
    "coco_30k": ["coco_clip", "coco_clip_loss", "coco_fid", "coco_fid_drift"],
    "coco_10k": ["coco_clip", "coco_clip_loss", "coco_fid", "coco_fid_drift"],
    "coco_1k_paired": ["coco_clip", "coco_clip_loss", "coco_fid_drift"],
    "i2p_nudity": ["nudity_core", "nudity_mace", "nudity_udatk"],
}


def composed(*overrides: str):
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", [*overrides, "method=original"], return_hydra_config=True)


def swept(protocol: str, model: str) -> list[str]:
    """The concept choices that the protocol's one command sweeps over."""
    text = composed(f"protocol={protocol}", f"model={model}").hydra.sweeper.params.concept
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


@pytest.fixture(autouse=True)
def no_prompt_lists(monkeypatch, tmp_path):
    monkeypatch.setenv("VESTIGE_PROMPTS", str(tmp_path / "lists"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def test_every_protocol_has_its_numbers_here():
    assert set(EXPECTED) == set(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_composes_for_stable_diffusion_as_its_paper_says(protocol, capsys):
    sampler, concepts, images = EXPECTED[protocol]
    assert sorted(swept(protocol, "sd14")) == sorted(concepts)
    for choice, counts in images.items():
        tree = composed(f"protocol={protocol}", "model=sd14", f"concept={choice}")
        job = composing.build_job(tree, protocol, planned=True)
        assert {key: getattr(job.sampler, key) for key in sampler} == sampler
        plan = plan_job(job)
        said = capsys.readouterr().out
        assert plan["status"] == "planned" and plan["images"] == sum(counts.values())
        for split, count in counts.items():
            lines = [line for line in said.splitlines()[1:] if line.split()[0] == split]
            assert sum(int(re.search(r"= (\d+) images", line)[1]) for line in lines) == count, said
        assert any("HF_HOME" in sentence for sentence in plan["missing"]), "the weights are not here, and the plan says so"
        assert "sd14" in summary([plan])
        with pytest.raises(ValueError, match="HF_HOME"), loading.hub_unasked():
            composing.build_job(tree, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_finishes_on_the_emoji_model(protocol, store):
    choice = swept(protocol, "emoji")[0]
    records = f"runtime.records={store / 'records' / protocol}"
    tree = composed(f"protocol={protocol}", "model=emoji", f"concept={choice}", f"runtime.store={store}", records, "model.sampler.steps=2")
    with open_dict(tree):
        for name, split in tree.split.items():  # two images: distances between sets need as many
            split.update(rows=1 if name == "target" and len(tree.concept) > 2 else 2, repeats=1, limit=None)
        if "canvas" in tree.split:
            tree.split.canvas.update({"rows": 4, "limit": 4})  # the first is about the concept; a distance needs two of the rest
        if "unlearn_diff_atk" in tree.attack:
            tree.attack.unlearn_diff_atk.update({"number_of_t": 1, "steps_per_t": 1})
    record = run_job(composing.build_job(tree, protocol))
    assert record["status"] == "done", record["error"]
    assert record["protocol"] == protocol
    assert {cell["split"] for cell in record["cells"]} == set(tree.split)
    assert all(cell["value"] is not None for cell in record["cells"])
    frame = results.load(store / "records" / protocol, store)
    assert set(frame["protocol"]) == {protocol}
    shown = AggregateScores(frame, results.ScoreTable(store)).table().dropna(subset="value")
    assert set(HEADLINES.get(protocol, [])) <= set(shown["composite"])


# Prompts and seeds are those of the official files, which are not shipped: the first digits of the SHA-256 over their sorted lines
# "<seed> <prompt>". MACE: prompts_csv/*.csv of Shilin-LU/MACE@057e7a6. SPEED: data/*_celebrity.csv of Ouxiang-Li/SPEED@6d3df0c.
KEPT = ("mace_celebrity_others", 500, 5, "1a25ea303c49c6ad")
OFFICIAL = [
    ("celebrities_1", "mace_celebrity_target", 5, 50, "29104bf948c25505"),
    ("celebrities_5", "mace_celebrity_target", 5, 10, "5c1ba4d4df6d56b9"),
    ("celebrities_10", "mace_celebrity_target", 5, 5, "1153b0d7085899fb"),
    ("celebrities_100", "mace_celebrity_target", 5, 5, "8ca6ccab3fc3606d"),
    ("celebrities_1", *KEPT),
    ("celebrities_100", *KEPT),
    ("artists_100", "mace_style_target", 5, 5, "77ca968c40fec95d"),
    ("artists_100", "mace_style_siblings", 500, 5, "0090e8eede3368cf"),
    ("celebrities_10", "speed_celebrity_target", 50, 1, "473934f5d263b12c"),
    ("celebrities_50", "speed_celebrity_target", 10, 1, "d628d9d5aa60457c"),
    ("celebrities_100", "speed_celebrity_target", 5, 1, "155856d924e8441a"),
    ("celebrities_50", "speed_celebrity_others", 500, 1, "3a5be8ffa5ee766c"),
]


@pytest.mark.parametrize("name, family, rows, repeats, digest", OFFICIAL, ids=lambda value: str(value)[:24])
def test_prompts_and_seeds_are_those_of_the_official_file(name, family, rows, repeats, digest):
    content = OmegaConf.to_container(OmegaConf.load(CONF / "concept" / f"{name}.yaml"), resolve=True)
    concepts = concept_sets.as_one_set([concept_sets._concept(slug, entry) for slug, entry in content.items()])
    asked = prompt_sets.build("any", family, rows, repeats, concepts, "photo")
    lines = [f"{asked.seed(row.row_id, rep)} {row.prompt}" for row in asked.table.itertuples() for rep in range(repeats)]
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16] == digest


def test_a_crossed_family_asks_each_template_with_each_subject_under_the_same_seeds(concept):
    erased = [concept("snoopy", siblings=[], others=[])]
    asked = prompt_sets.build("others", "speed_instance_others", 320, 10, [concept("x", name="Snoopy", aliases=[])], "photo")
    assert asked.table["prompt"].nunique() == len(asked) == 320 and not asked.table["prompt"].str.contains("Snoopy").any()
    assert "the embroidered Hello Kitty." in asked.prompts and "a embroidered Pikachu." in asked.prompts, "word for word"
    assert {asked.seed(row, 3) for row in asked.table["row_id"]} == {3}
    assert len(prompt_sets.build("target", "speed_instance_target", 80, 10, erased, "photo").table["prompt"].unique()) == 80


def test_rows_of_one_prompt_are_one_cluster_unless_there_is_no_other_prompt(concept):
    speed = prompt_sets.build("target", "speed_celebrity_target", 20, 1, [concept("x", "celebrity")], "photo").table
    assert len(speed) == 20 and speed["group"].nunique() == 5, "five sentences, four seeds each"
    mace = prompt_sets.build("target", "mace_object_target", 20, 1, [concept("dog")], "photo").table
    assert mace["prompt"].nunique() == mace["group"].nunique() == 1, "images are resampled, see bench/run/generate.py"
    others = prompt_sets.build("target", "mace_object_others", 40, 1, [concept("dog")], "photo").table
    assert others["prompt"].nunique() == others["group"].nunique() == 2, "two sentences, twenty seeds each"


def test_pooled_rows_are_asked_once_and_do_not_depend_on_what_is_erased(concept):
    dog, cat = concept("dog", siblings=["frog", "fox"]), concept("cat", siblings=["fox", "owl"])
    both = prompt_sets.build("others", "mace_celebrity_others", 15, 1, [dog, cat], "emoji")
    assert sorted(set(both.table["expect"])) == ["fox", "frog", "owl"] and len(both) == 15
    alone = prompt_sets.build("others", "captions", 12, 1, [dog], "emoji")
    assert alone.digest == prompt_sets.build("others", "captions", 12, 1, [cat], "emoji").digest, "drawn once by the original model"
    without = prompt_sets.build("others", "captions", 12, 1, [concept("pizza")], "emoji")
    assert "pizza" not in set(without.table["expect"])


def test_by_count_takes_the_largest_number_not_above_the_set():
    table = {1: "one", 10: "ten"}
    answers = [resolvers.by_count(table, _root_=OmegaConf.create({"concept": dict.fromkeys(map(str, range(n)))})) for n in (1, 9, 10, 50)]
    assert answers == ["one", "one", "ten", "ten"]
    with pytest.raises(ValueError, match="no value for 1 concepts"):
        resolvers.by_count({5: "five"}, _root_=OmegaConf.create({"concept": {"dog": None}}))
