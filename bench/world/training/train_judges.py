"""Trains the judges and clip_emoji on the real images of the emoji world, and measures the judges on held-out ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vestige.bench.world.content import drawing, paths
from vestige.bench.world.models import clip_emoji
from vestige.bench.world.models.judges import FILES, Judge, new_judge
from vestige.bench.world.training import dataset
from vestige.bench.world.training.fit import Schedule, fit

JUDGES = {
    "a": Schedule("judge_a", steps=1000, lr=2e-3, ema=0.98, seed=21, matrix_lr=0.02),
    "b": Schedule("judge_b", steps=1500, lr=3e-3, ema=0.98, seed=22, matrix_lr=0.02),
}
CLIP = Schedule("clip_emoji", steps=500, lr=1.5e-3, ema=0.98, seed=23)
BATCH, CLIP_BATCH = 80, 192
EMPTY_SHARE = 0.06  # examples that show nothing: plain paper, noise, scrambled images
BARS = {"object": 98.0, "style": 97.0, "background": 99.0}  # per cent on held-out images


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, 3, 64, 64] in [0, 1], moved by up to 3 pixels, scaled, some blurred, with noise and other brightness."""
    n = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    shift, scale = uniform(n, 2) * 3 / 32, 1 + 0.06 * uniform(n)
    move = torch.zeros(n, 2, 3)
    move[:, 0, 0], move[:, 1, 1], move[:, :, 2] = scale, scale, shift
    grid = F.affine_grid(move, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = torch.rand(n, generator=generator) < 0.3
    images[soft] = F.avg_pool2d(F.pad(images[soft], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(images.shape, generator=generator) * 0.04 * torch.rand(n, 1, 1, 1, generator=generator)
    return (images * (1 + 0.06 * uniform(n, 1, 1, 1)) + noise).clamp(0, 1)


def emptied(images: Tensor, generator: torch.Generator) -> Tensor:
    """As many images that show no object: in turn plain paper, noise over a colour, and 8 x 8 patches in random order."""
    made = images.clone()
    for k, image in enumerate(images):
        if k % 3 == 2:
            patches = image.reshape(3, 8, 8, 8, 8).permute(1, 3, 0, 2, 4).reshape(64, 3, 8, 8)
            patches = patches[torch.randperm(64, generator=generator)]
            made[k] = patches.reshape(8, 8, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
        else:
            made[k] = image[:, :1, :1] if k % 3 == 0 else torch.rand(3, 1, 1, generator=generator)
            made[k] += (k % 3) * 0.4 * torch.randn(made[k].shape, generator=generator)
    return made.clamp(0, 1)


def train_judge(which: str) -> Judge:
    """Soft targets for objects (a scene is half one, half the other); style, background and stamp only where there is an image."""
    judge, everything, labels = new_judge(which), dataset.rows(), dataset.labels()
    empty = round(BATCH * EMPTY_SHARE)

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        index = everything.pick(BATCH, generator)
        images = augmented(dataset.batch(index) / 2 + 0.5, generator)
        images[:empty] = emptied(images[:empty], generator)
        objects = labels["object"][index].clone()
        objects[:empty] = F.one_hot(torch.tensor(objects.shape[1] - 1), objects.shape[1]).float()
        logits = {head: answer.float() for head, answer in judge(images).items()}
        shown = index[empty:]
        return (
            F.cross_entropy(logits["object"], objects)
            + F.cross_entropy(logits["style"][empty:], labels["style"][shown])
            + F.cross_entropy(logits["background"][empty:], labels["background"][shown])
            + F.binary_cross_entropy_with_logits(logits["stamp"][empty:, 0], labels["stamp"][shown])
        )

    fit(judge, loss_at, JUDGES[which], paths.WORK)
    return judge


def train_clip() -> Any:
    """Contrastive training (InfoNCE, both directions) with augmented images; equal captions are all right answers."""
    model = clip_emoji.new_model()
    table, unique = dataset.caption_table()
    ids, everything = clip_emoji.tokens(unique), dataset.rows()

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        index = everything.pick(CLIP_BATCH, generator)
        choice = torch.randint(dataset.CAPTIONS_EACH, (CLIP_BATCH,), generator=generator)
        texts = ids[table[index, choice]]
        imaged = model.encode_image(_centred(augmented(dataset.batch(index) / 2 + 0.5, generator)), normalize=True)
        written = model.encode_text(texts, normalize=True)
        logits = imaged.float() @ written.float().T * model.logit_scale.exp().clamp_max(50)
        same = (texts[:, None] == texts[None]).all(-1).float()
        target = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit(model, loss_at, CLIP, paths.WORK)
    _settle(model)
    return model


def _centred(images: Tensor) -> Tensor:
    return images * 4 - 2


@torch.no_grad()
def _settle(model: Any) -> None:
    """Measure the batch statistics again: those of training belong to the weights before averaging."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches seen
    model.train()
    generator = torch.Generator().manual_seed(CLIP.seed)
    for _ in range(10):
        model.encode_image(_centred(augmented(dataset.batch(dataset.rows().pick(CLIP_BATCH, generator)) / 2 + 0.5, generator)))
    model.eval()


@torch.no_grad()
def accuracy(judge: Judge) -> dict[str, float]:
    """Per cent right on 1000 held-out images; a scene counts when both its objects come first."""
    pixels, specs = drawing.held_out(1000, seed=7)
    wanted = dataset.labels_of(specs)
    parts = [judge(part.float() / 255) for part in pixels.split(100)]
    logits = {head: torch.cat([part[head] for part in parts]) for head in parts[0]}
    right = {head: logits[head].argmax(-1) == wanted[head] for head in ("style", "background")}
    count = torch.tensor([len(spec.objects) for spec in specs])
    first = logits["object"].topk(2).indices
    both = wanted["object"].gather(1, first) > 0
    right["object"] = torch.where(count == 1, both[:, 0], both.all(1))
    right["stamp"] = (logits["stamp"][:, 0] > 0) == wanted["stamp"].bool()
    return {head: 100 * hits.float().mean().item() for head, hits in right.items()}


def save(module: nn.Module, file) -> None:
    """Keep the weights in half precision."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: t.half() if t.is_floating_point() else t for name, t in module.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def run(part: str) -> int:
    """Train one part or all; exit code 1 when a judge misses a bar."""
    missed = False
    for which, file in FILES.items():
        if part in (f"judge_{which}", "all"):
            judge = train_judge(which)
            save(judge, file)
            found = accuracy(judge)
            print(f"judge_{which} on held-out images: " + ", ".join(f"{head} {value:.1f} %" for head, value in found.items()), flush=True)
            missed |= any(found[head] < bar for head, bar in BARS.items())
    if part in ("clip", "all"):
        save(train_clip(), paths.CLIP / "model.safetensors")
    return int(missed)
