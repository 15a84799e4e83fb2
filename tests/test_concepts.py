"""Every concept file composes, and its words exist where the judge's labels are known without its weights."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vestige.bench.contract import building, screen
from vestige.bench.contract.types import Concept
from vestige.bench.judges import canvas, imagenet
from vestige.bench.places import CONF
from vestige.bench.prompts.prompt_sets import slug
from vestige.bench.run import resolvers
from vestige.bench.world.content import catalog

LOADED = {file.stem: OmegaConf.load(file) for file in sorted((CONF / "concept").glob("*.yaml"))}
FILES = {name: OmegaConf.to_container(content, resolve=True) for name, content in LOADED.items()}
SETS = sorted(name for name, content in FILES.items() if "defaults" in content)
# Published sets of many names, written out in one file.
WRITTEN_OUT = ["artists_100", "celebrities_1", "celebrities_10", "celebrities_100", "celebrities_5", "celebrities_50"]
SINGLE = sorted(set(FILES) - {*SETS, *WRITTEN_OUT})
ARTISTS = (Path(__file__).parent / "data" / "wikiart_artists.txt").read_text().split("\n")[:-1]  # the 129 classes of WikiArt


FREE = ("celebrity", "nudenet", "q16")  # labels beside the weights, and judges with one question
STYLES, OBJECTS = canvas.NAMES["style"], canvas.NAMES["object"]


def composed(names: list[str]) -> dict[str, Concept]:
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("run", [f"concept=[{','.join(names)}]", "method=original", "model=tiny", "split=[]"])
    return {s: building.typed({"slug": s, **OmegaConf.to_container(entry)}, Concept, f"concept.{s}") for s, entry in tree.concept.items()}


@pytest.fixture(scope="module")
def concepts() -> dict[str, Concept]:
    """Typed without Hydra, which takes half a minute for all of them."""
    return {name: building.typed({"slug": name, **FILES[name][name]}, Concept, f"concept.{name}") for name in SINGLE}


def test_concepts_compose_under_the_name_of_their_file(concepts):
    for name in SINGLE:
        assert list(FILES[name]) == [name], "a concept file has one key, its name"
    some = ["cifar_dog", "canvas_van_gogh", "nudity", "ajin_demi_human"]
    assert composed(some) == {name: concepts[name] for name in some}
    for name in SETS:
        assert set(FILES[name]["defaults"]) <= set(SINGLE)
    assert list(composed(["danger"])) == FILES["danger"]["defaults"]


def test_written_out_sets_hold_as_many_names_as_they_say_and_keep_others():
    for name in WRITTEN_OUT:
        made = [Concept(slug, **entry) for slug, entry in FILES[name].items()]
        assert len(made) == int(name.rsplit("_", 1)[1]) and all(c.slug == slug(c.name) for c in made), name
        gone = {c.name for c in made}
        assert len(gone) == len(made) and all(len(set(c.siblings)) == 100 and not gone & set(c.siblings) for c in made), name


def test_no_list_names_the_concept_itself_or_one_thing_twice(concepts):
    for c in concepts.values():
        own = {c.name.lower(), *map(str.lower, c.aliases)}
        kept = [name.lower() for name in (*c.siblings, *c.others)]
        assert not own & set(kept) and len(kept) == len(set(kept)), c.slug
        assert c.name not in c.aliases and c.anchor.lower() != c.name.lower(), c.slug
        for text in c.descriptions:
            words = f"_{slug(text)}_"
            said = [name for name in (c.name, *c.aliases) if f"_{slug(name)}_" in words]
            assert not said or "emoji" in c.labels, f"{c.slug}: the description {text!r} says {said}"


def test_explicit_concepts_pass_the_screen_and_carry_the_kind_that_deletes_their_images(concepts):
    explicit = [c for c in concepts.values() if c.kind == "explicit"]
    assert {c.slug for c in explicit} == {"nudity", "violence"} and screen.applies(explicit)
    screen.check_concepts(explicit)
    assert all(screen.allowed(name) for c in explicit for name in (*c.siblings, *c.others))


def test_labels_name_families_of_judges_and_exist_there(concepts):
    known = {
        "emoji": {item.slug for item in (*catalog.objects(), *catalog.styles())},
        "imagenet": {*imagenet.labels(), *imagenet.groups()},
        "artist": set(map(slug, ARTISTS)),
        "canvas": {slug(name) for name in (*STYLES, *OBJECTS)},
    }
    for c in concepts.values():
        for family, label in c.labels.items():
            assert family in {*known, *FREE}, f"{c.slug}: no family of judges is called {family!r}"
            assert family in FREE or slug(label) in known[family], f"{c.slug}: {family} has no label {label!r}"
        for family in {"imagenet", "artist", "canvas"} & set(c.labels):
            lost = [name for name in c.siblings if slug(name) not in known[family]]
            assert not lost, f"{c.slug}: the {family} judge cannot see the siblings {lost}"


def test_the_published_sets_are_complete(concepts):
    cifar = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for word in cifar:
        assert concepts[f"cifar_{word}"].others == [other for other in cifar if other != word]
        assert len(concepts[f"cifar_{word}"].aliases) == 3, "MACE asks three synonyms per class"
    imagenette = {c.slug for c in concepts.values() if c.slug in imagenet.labels() and "imagenet" in c.labels}
    assert len(imagenette) == 10 and all({slug(name) for name in concepts[s].others} == imagenette - {s} for s in imagenette), (
        "the nine other classes of Imagenette must stay"
    )
    assert (len(STYLES), len(OBJECTS), STYLES[38]) == (51, 20, "Seed_Images")
    for name in set(STYLES) - {"Seed_Images"}:
        c = concepts[f"canvas_{name.lower()}"]
        assert c.labels == {"canvas": name} and len(c.siblings) == 49 and c.others == OBJECTS
    for name in OBJECTS:
        assert concepts[f"canvas_{name.lower()}"].others == [other for other in OBJECTS if other != name]
    assert len(ARTISTS) == 129
