"""`vestige world ...`: build the sprites, train the emoji model and its judges, retrain oracles, measure, write the card."""

import argparse
import sys
from pathlib import Path

PACKAGES = (
    "@iconify-json/fluent-emoji @iconify-json/noto @iconify-json/twemoji @iconify-json/emojione "
    "@iconify-json/fluent-emoji-high-contrast emojibase-data"
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="vestige world", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="render the sprite sheet and train the tokenizer")
    build.add_argument("--icons", type=Path, required=True, help=f"folder with the tarballs of: npm pack {PACKAGES}")
    train = verbs.add_parser("train", help="train (or resume) one part or all")
    train.add_argument("--part", choices=("text", "vae", "unet", "all"), default="all")
    retrain = verbs.add_parser("retrain", help="train the UNet again without a concept: the oracle")
    retrain.add_argument("--without", required=True, help="an object, style or group slug, for example dog")
    retrain.add_argument("--seed", type=int, default=0, help="1 makes method=oracle_seed1: the noise floor")
    card = verbs.add_parser("card", help="measure the shipped model, write its card; exit code 1: a bar is missed")
    card.add_argument("--seeds", type=int, default=16, help="images per object for the plain prompts")
    judges = verbs.add_parser("judges", help="train (or resume) the judges and clip_emoji; exit code 1: a bar is missed")
    judges.add_argument("--part", choices=("judge_a", "judge_b", "clip", "all"), default="all")
    arguments = parser.parse_args(argv)
    return {"build": _build, "train": _train, "retrain": _retrain, "judges": _judges, "card": _card}[arguments.verb](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from vestige.bench.world.content import paths, sprites, tokenizer
    from vestige.bench.world.training import concepts

    sprites.build(arguments.icons)
    concepts.write_all()
    tokenizer.build(sprites.emoji_words(arguments.icons)).save_pretrained(paths.GENERATOR / "tokenizer")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from vestige.bench.world.training import export
    from vestige.bench.world.training import train_generator as recipe

    parts = ("text", "vae", "unet") if arguments.part == "all" else (arguments.part,)
    tokenizer = export.tokenizer()
    if "text" in parts:
        export.save_part("text_encoder", recipe.train_text(tokenizer))
    if "vae" in parts:
        export.save_part("vae", recipe.train_vae())
    if "unet" in parts:
        unet = recipe.train_unet(export.load_part("vae"), export.load_part("text_encoder"), tokenizer)
        export.save_part("unet", unet)
        export.save_index()
    return 0


def _retrain(arguments: argparse.Namespace) -> int:
    from vestige.bench.world.content import catalog
    from vestige.bench.world.training import export
    from vestige.bench.world.training import train_generator as recipe

    catalog.members(arguments.without)  # an unknown concept is refused before anything is loaded
    parts = export.load_part("vae"), export.load_part("text_encoder"), export.tokenizer()
    export.save_oracle(arguments.without, recipe.train_unet(*parts, arguments.without, arguments.seed), arguments.seed)
    return 0


def _judges(arguments: argparse.Namespace) -> int:
    from vestige.bench.world.training import train_judges

    return train_judges.run(arguments.part)


def _card(arguments: argparse.Namespace) -> int:
    from vestige.bench.world.training import card

    return card.run(arguments.seeds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
