"""Measures how well the emoji world works: what was asked, what was measured, and whether the bar is met.

The judges score; the generator's own parts never do. Nothing here trains. card.py writes the answers down.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vestige.bench.contract.types import Sampler, derived_seed
from vestige.bench.prompts.articles import with_article
from vestige.bench.vision.set_distances import frechet
from vestige.bench.world.content import captions, catalog, drawing
from vestige.bench.world.training import dataset

BATCH = 32
REAL = 1000  # held-out images per set; two sets are drawn
STYLE_SEEDS, ORACLE_SEEDS, SCENES = 2, 4, 168  # images per styled object, per object for oracles; number of scenes


@dataclass(frozen=True)
class Line:
    """One row of the card. `met` is None where there is no bar, only a number worth knowing."""

    what: str
    bar: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Asked:
    """Prompts of one question, the seed of each image, and what the images must show."""

    prompts: list[str]
    seeds: list[int]
    objects: list[tuple[str, ...]]
    labels: list[str]  # the style or background asked for, or empty


def ask(rows: Sequence[tuple[str, tuple[str, ...], str]], repeats: int) -> Asked:
    """rows: (prompt, objects, label); each is asked `repeats` times with its own seeds."""
    many = [(row, k) for row in rows for k in range(repeats)]
    seeds = [derived_seed("card", prompt, k) for (prompt, _, _), k in many]
    return Asked([r[0] for r, _ in many], seeds, [r[1] for r, _ in many], [r[2] for r, _ in many])


def questions(seeds: int) -> dict[str, Asked]:
    """The prompt sets behind the bars."""
    things, styles = catalog.objects(), catalog.styles()
    rng = np.random.default_rng(0)
    pairs: list[tuple[str, tuple[str, ...], str]] = []
    while len(pairs) < SCENES:
        a, b = (things[k] for k in rng.choice(len(things), 2, replace=False))
        if a.group != b.group:  # the world holds no scene of two group mates
            pairs.append((f"{with_article(a.name)} and {with_article(b.name)}", (a.slug, b.slug), ""))
    on = [(f"{with_article(o.name)} on a {c} background", (o.slug,), c) for o in things for c in catalog.backgrounds()]
    styled = [(with_article(f"{s.name} {o.name}"), (o.slug,), s.slug) for s in styles for o in things]
    return {
        "object": ask([(with_article(o.name), (o.slug,), "") for o in things], seeds),
        "style": ask(styled, STYLE_SEEDS),
        "scene": ask(pairs, 1),
        "background": ask(on, 1),
    }


def draw(pipe, sampler: Sampler, prompts: list[str], seeds: list[int]) -> Tensor:
    """uint8 [n, 3, 64, 64]."""
    starts = range(0, len(prompts), BATCH)
    return torch.cat([pipe(prompts[s : s + BATCH], seeds[s : s + BATCH], sampler).pixels for s in starts])


@torch.no_grad()
def in_batches(model, pixels: Tensor):
    """The answers of a judge (a dict of logits) or an image tower (a matrix) to uint8 images."""
    parts = [model(part.float() / 255) for part in pixels.split(100)]
    if isinstance(parts[0], dict):
        return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}
    return torch.cat(parts)


def found(logits: Tensor, objects: list[tuple[str, ...]]) -> Tensor:
    """Per image: are all asked objects among the judge's first answers, as many answers as objects? bool [n]"""
    place = {item.slug: k for k, item in enumerate(catalog.objects())}
    order = logits.argsort(dim=-1, descending=True)
    rows = zip(order.tolist(), objects, strict=True)
    return torch.tensor([{place[slug] for slug in asked} == set(row[: len(asked)]) for row, asked in rows])


def right(logits: Tensor, labels: list[str], names: list[str]) -> Tensor:
    """Per image: is the first answer of a one-label head the asked one? bool [n]"""
    return logits.argmax(-1) == torch.tensor([names.index(label) for label in labels])


def rates(hits: Tensor, keys: list[str]) -> dict[str, float]:
    """Mean of `hits` per key."""
    return {key: hits[torch.tensor([k == key for k in keys])].float().mean().item() for key in dict.fromkeys(keys)}


def percent(hits: Tensor) -> float:
    return 100 * hits.float().mean().item()


def at_least(what: str, value: float, bar: float) -> Line:
    return Line(what, f">= {bar:g} %", f"{value:.1f} %", value >= bar)


def judge_lines(name: str, judge, pixels: Tensor, specs: list[drawing.Spec]) -> list[Line]:
    """How well a judge reads real images it was not trained on."""
    answer, truth = in_batches(judge, pixels), dataset.labels_of(specs)
    hits = found(answer["object"], [spec.objects for spec in specs])
    single = torch.tensor([len(spec.objects) == 1 for spec in specs])
    same = {head: answer[head].argmax(-1) == truth[head] for head in ("style", "background")}
    stamp = (answer["stamp"].flatten() > 0) == (truth["stamp"] > 0)
    return [
        at_least(f"{name}, real held-out: object top-1 (single images)", percent(hits[single]), 98),
        at_least(f"{name}, real held-out: style", percent(same["style"]), 97),
        at_least(f"{name}, real held-out: background", percent(same["background"]), 99),
        Line(f"{name}, real held-out: both objects of a scene", "-", f"{percent(hits[~single]):.1f} %", None),
        Line(f"{name}, real held-out: stamp seen or not", "-", f"{percent(stamp):.1f} %", None),
    ]


def object_lines(hits: Tensor, asked: Asked) -> list[Line]:
    """Plain prompts: the mean over objects and the weakest object."""
    by_object = rates(hits, [names[0] for names in asked.objects])
    weakest = sorted(by_object, key=by_object.__getitem__)[:5]
    low = by_object[weakest[0]]
    listed = ", ".join(f"{slug} {100 * by_object[slug]:.0f} %" for slug in weakest)
    each = len(hits) // len(by_object)
    return [
        at_least(f'generator, "a {{object}}", {each} seeds each: object top-1, mean', percent(hits), 90),
        Line("generator: weakest object", ">= 60 %", f"{listed} (the five lowest)", low >= 0.6),
    ]


def style_lines(hits: Tensor, objects: Tensor, asked: Asked) -> list[Line]:
    """The full grid of objects and styles."""
    listed = ", ".join(f"{slug} {100 * rate:.0f} %" for slug, rate in rates(hits, asked.labels).items())
    return [
        at_least("generator, object x style: style top-1", percent(hits), 90),
        at_least("generator, object x style: object top-1", percent(objects), 85),
        Line("generator, style top-1 by style", "-", listed, None),
    ]


def distance_lines(clip, generated: Tensor, real: Tensor, real_again: Tensor) -> list[Line]:
    """Frechet distance in features of clip_emoji, beside the distance of two real sets of the same size."""
    features = [in_batches(clip.image, pixels) for pixels in (generated, real, real_again)]
    ours, floor = frechet(features[0], features[1]), frechet(features[2], features[1])
    n = len(real)
    ratio = f"{ours:.4f} / {floor:.4f} = {ours / floor:.1f}"
    return [Line(f"FID_emoji generated / real vs real ({n} each)", "printed", ratio, None)]


def reconstruction_lines(rebuilt: Tensor, pixels: Tensor, specs: list[drawing.Spec], judge) -> list[Line]:
    """What the VAE alone loses: the limit of how sharp a generated image can be."""
    error = (rebuilt.float() - pixels.float()).square().mean((1, 2, 3)) / 255**2
    psnr = (-10 * error.clamp_min(1e-10).log10()).mean().item()
    hits = percent(found(in_batches(judge, rebuilt)["object"], [spec.objects for spec in specs]))
    return [
        Line("VAE reconstruction of real images: PSNR", "-", f"{psnr:.1f} dB", None),
        Line("VAE reconstruction: objects still found by judge_a", "-", f"{hits:.1f} %", None),
    ]


def running_lines(pipe, sampler: Sampler) -> list[Line]:
    """Speed at batch 32 and whether images repeat."""
    prompts = [with_article(item.name) for item in catalog.objects()[:BATCH]]
    seeds = list(range(BATCH))
    first = pipe(prompts, seeds, sampler).pixels
    begun = time.perf_counter()
    second = pipe(prompts, seeds, sampler).pixels
    each = (time.perf_counter() - begun) / BATCH
    alone = torch.cat([pipe(prompts[k : k + 1], seeds[k : k + 1], sampler).pixels for k in range(4)])
    apart = (alone.int() - first[:4].int()).abs().max().item()
    equal = torch.equal(first, second)
    how = f"{torch.get_num_threads()} CPU threads, {sampler.steps} steps, batch {BATCH}"
    return [
        Line(f"speed, {how}", "<= 0.15 s", f"{each:.3f} s per image", each <= 0.15),
        Line("same seed twice, same image", "exactly", "yes" if equal else "no", equal),
        Line(f"batch of 1 against {BATCH}: largest pixel change", "<= 2 of 255", f"{apart} of 255", apart <= 2),
    ]


@torch.no_grad()
def rebuild(pipe, pixels: Tensor) -> Tensor:
    """Through the VAE and back, uint8."""
    parts = [pipe.vae.encode(part.float() / 127.5 - 1).latent_dist.mean for part in pixels.split(50)]
    decoded = [pipe.decode(part * pipe.vae.config.scaling_factor) for part in parts]
    return (torch.cat(decoded) * 255).round().to(torch.uint8)


def oracle_lines(pipe, sampler: Sampler, judge, concept: str, tensors: dict[str, Tensor]) -> list[Line]:
    """Does the model retrained without a concept lack it, and still know the rest? The same prompts for both models."""
    gone = catalog.members(concept)
    styles = [item.slug for item in catalog.styles()]
    is_style = concept in styles
    every = questions(ORACLE_SEEDS)["style" if is_style else "object"]
    wanted = torch.tensor([bool({*names, label} & set(gone)) for names, label in zip(every.objects, every.labels, strict=True)])

    def seen() -> tuple[float, float]:
        answer = in_batches(judge, draw(pipe, sampler, every.prompts, every.seeds))
        hits = right(answer["style"], every.labels, styles) if is_style else found(answer["object"], every.objects)
        return percent(hits[wanted]), percent(hits[~wanted])

    before = seen()
    with pipe.replaced({f"unet.{name}": tensor for name, tensor in tensors.items()}):
        after = seen()
    return [
        Line(f"oracle without {concept}: {concept} still shown (original)", "-", f"{after[0]:.1f} % ({before[0]:.1f} %)", None),
        Line(f"oracle without {concept}: the rest still shown (original)", "-", f"{after[1]:.1f} % ({before[1]:.1f} %)", None),
    ]


def measure(pipe, sampler: Sampler, judges: dict, clip, seeds: int, real: int = REAL):
    """(all lines of the card, the uint8 images behind them by question, real and rebuilt ones included)."""
    judge = judges["judge_a"]
    pixels, specs = drawing.held_out(real, seed=7)
    again, _ = drawing.held_out(real, seed=8)
    lines = [line for name, each in judges.items() for line in judge_lines(name, each, pixels, specs)]
    asked = questions(seeds)
    drawn = {name: draw(pipe, sampler, each.prompts, each.seeds) for name, each in asked.items()}
    answer = {name: in_batches(judge, images) for name, images in drawn.items()}
    hits = {name: found(answer[name]["object"], asked[name].objects) for name in asked}
    style_hits = right(answer["style"]["style"], asked["style"].labels, [item.slug for item in catalog.styles()])
    background_hits = right(answer["background"]["background"], asked["background"].labels, catalog.backgrounds())
    lines += object_lines(hits["object"], asked["object"]) + style_lines(style_hits, hits["style"], asked["style"])
    lines.append(at_least(f"generator, {SCENES} two-object scenes: both found", percent(hits["scene"]), 70))
    lines.append(Line("generator, background named: background", "-", f"{percent(background_hits):.1f} %", None))
    other = in_batches(judges["judge_b"], drawn["object"])["object"].argmax(-1)
    agree = percent(other == answer["object"]["object"].argmax(-1))
    lines.append(Line("judge_a and judge_b give the same object on generated images", "-", f"{agree:.1f} %", None))
    words = [captions.caption(spec, k) for k, spec in enumerate(specs)]
    generated = draw(pipe, sampler, words, [derived_seed("card", "fid", k) for k in range(real)])
    lines += distance_lines(clip, generated, pixels, again)
    rebuilt = rebuild(pipe, pixels)
    lines += reconstruction_lines(rebuilt, pixels, specs, judge) + running_lines(pipe, sampler)
    return lines, {**drawn, "real": pixels, "rebuilt": rebuilt}
