"""How long the algebra of the closed-form erasers takes at Stable Diffusion 1.4 size: `make bench`.

No downloaded weights: the cross-attention projections and the text encoder (CLIP ViT-L/14 text, real vocabulary) have the
true shapes and random values. One thread. Beside ours stands the loop structure of UCE's paper code (every layer visits
every text and sums outer products row by row; rohitgandikota/unified-concept-editing@35e91e2), written from its
description, so that the ratio is taken in one process on one machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vestige.bench.models.tiny import clip_tokenizer
from vestige.bench.run.contract_checks import build
from vestige.bench.run.provenance import provenance
from vestige.methods._closed_form import chained, edit_keeping, gram, low_rank_edit, merged
from vestige.methods.rece import adversarial_rows
from vestige.methods.speed import invariant_rows, null_projector, reading_factor

WIDTH, LENGTH = 768, 77
OUTPUTS = [320] * 5 + [640] * 5 + [1280] * 6  # one cross-attention block each, with a key and a value projection
BARS = {"UCE": 0.5, "TIME": 0.5, "TRCE, stage 1": 0.5, "RECE, 3 rounds": 3.0, "SPEED": 5.0, "100 values of lambda": 5.0}


class CrossAttention(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.to_k, self.to_v = (nn.Linear(WIDTH, outputs, bias=False) for _ in range(2))


class Block(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.attn2 = CrossAttention(outputs)


def text_encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    size = {"hidden_size": WIDTH, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPTextModel(CLIPTextConfig(**size, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)).eval()


def encode(encoder: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
    """(text states [n, 77, 768], position of each text's last token [n])."""
    tokens = clip_tokenizer()(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    hidden = torch.cat([encoder(ids).last_hidden_state for ids in tokens.input_ids.split(16)])
    return hidden, tokens.attention_mask.sum(-1) - 2


def published_loop(weights: list[Tensor], edits: list[tuple[Tensor, Tensor]], kept: list[Tensor], ridge: float) -> list[Tensor]:
    """One layer after the other, one text after the other, outer products of every row, one inverse for each layer; float32."""
    new = []
    for w in weights:
        left, right = ridge * w, ridge * torch.eye(WIDTH)
        for asked, wanted in [*edits, *((rows, rows) for rows in kept)]:
            value, context = (wanted @ w.T)[:, :, None], asked[:, :, None]
            left = left + (value @ context.mT).sum(0)
            right = right + (context @ context.mT).sum(0)
        new.append(left @ torch.inverse(right))
    return new


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(median seconds, the last result)."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def rece(edit: Tensor, goal: Tensor, kept: Tensor, weights: Tensor, rounds: int = 3) -> tuple[Tensor, Tensor]:
    factors = low_rank_edit(edit, goal, 1.0, kept, 1.0, 0.5)
    for _ in range(rounds):
        found = adversarial_rows(edit.double(), factors, weights, torch.zeros_like(edit, dtype=torch.float64), 0.1)
        factors = chained(factors, low_rank_edit(found, goal, 1.0, kept, 0.1, 0.1))
    return factors


def sweep(edit: Tensor, goal: Tensor, kept: Tensor, ridges: list[float]) -> list[tuple[Tensor, Tensor]]:
    """The preserved rows' sum of squares is the same for all of them."""
    squares = kept.double().T @ kept.double()
    return [edit_keeping(edit, goal, 1.0, squares, ridge) for ridge in ridges]


def speed(values: list[Tensor], edit: Tensor, goal: Tensor, kept: Tensor, empty: Tensor) -> list[Tensor]:
    """All that SPEED.erase does after encoding, value projections as published."""
    method = build("method", "speed")
    c, g, retained = edit.double() / len(edit) ** 0.5, goal.double() / len(edit) ** 0.5, kept.double()
    generator = torch.Generator().manual_seed(0)
    fixed = invariant_rows(empty.double(), 3, generator)
    factors = []
    for weight in values:
        projector, _ = null_projector(method.retained_moment(weight.double(), c, g, retained, generator), 0.1)
        factors.append(reading_factor(c, g, projector, fixed, 1.0, 0.0))
    return factors


@torch.no_grad()
def main(concepts: int, preserved: int, repeats: int, out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = nn.ModuleList(Block(outputs) for outputs in OUTPUTS)
    pipe: Any = SimpleNamespace(unet=unet)  # `gram` asks a pipe for no more
    weights: list[Tensor] = [p for _, p in sorted(unet.named_parameters())]
    texts = [f"person {k}" for k in range(concepts)]
    kept_texts = [f"a picture of thing {k}" for k in range(-(-preserved // LENGTH))]
    encoder = text_encoder()
    encoding, (hidden, last) = timed(lambda: encode(encoder, [*texts, "art", "", *kept_texts]), 1)
    edit, goal = hidden[range(concepts), last[:concepts]], hidden[concepts, last[concepts]].expand(concepts, -1)
    empty, kept = hidden[concepts + 1], hidden[concepts + 2 :].flatten(0, 1)[:preserved]

    took = {}
    took["sum of W^T W, once for each model"], sums = timed(lambda: gram(pipe), 1)
    took["UCE"], factors = timed(lambda: low_rank_edit(edit, goal, 1.0, kept, 1.0, 0.5), repeats)
    took["UCE, edited weights written"], fast = timed(lambda: [merged(w, *factors) for w in weights], 1)
    took["TIME"], _ = timed(lambda: low_rank_edit(edit, goal, 1.0, edit[:0], 0.0, 0.1), repeats)
    took["TRCE, stage 1"], _ = timed(lambda: low_rank_edit(edit, goal, 1 / concepts, kept, 1e-3, 1e-6), repeats)
    took["RECE, 3 rounds"], _ = timed(lambda: rece(edit, goal, kept, sums), repeats)
    took["SPEED"], _ = timed(lambda: speed([p for n, p in unet.named_parameters() if "to_v" in n], edit, goal, kept, empty), 1)
    took["100 values of lambda"], _ = timed(lambda: sweep(edit, goal, kept, torch.logspace(-3, 3, 100).tolist()), 1)
    blocks = [(edit[k : k + 1], goal[k : k + 1]) for k in range(concepts)]
    took["UCE, published loop structure"], slow = timed(lambda: published_loop(weights, blocks, list(kept.split(LENGTH)), 0.5), 1)
    took["encoding all texts once"] = encoding

    difference = max(((a - b).norm() / (b - w).norm()).item() for a, b, w in zip(fast, slow, weights, strict=True))
    ratio = took["UCE, published loop structure"] / (took["UCE"] + took["UCE, edited weights written"])
    size = sum(f.numel() for f in factors) * 4 / 1e6
    lines = ["# Closed-form erasers at Stable Diffusion 1.4 size", ""]
    lines += [f"{concepts} concepts (one row each), {len(kept)} preserved rows, 32 projections, float64, one thread.", ""]
    lines += ["| what | seconds | bar |", "|---|---|---|"]
    lines += [f"| {what} | {s:.3f} | {f'<= {BARS[what]}' if what in BARS else ''} |" for what, s in took.items()]
    lines += ["", f"UCE with writing the weights is {ratio:.0f} times as fast as the published loop structure (bar: 50);"]
    lines += [f"the two edits differ by {difference:.1e} of the edit (the loop inverts in float32)."]
    lines += [
        f"The artefact holds {size:.2f} MB in float32 (bar: 1), the edited weights {sum(w.numel() for w in weights) * 4 / 1e6:.1f} MB."
    ]
    facts = provenance()
    lines += ["", f"Measured with torch {facts['packages']['torch']} on {facts['machine']}, {facts['threads']} thread."]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=100)
    parser.add_argument("--preserved", type=int, default=1000, help="rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/bench/closed_form.md"))
    main(**vars(parser.parse_args()))
