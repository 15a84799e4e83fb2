"""Captions of images, and captions as vectors: for metrics that compare what images show.

Captioners: labels:<judge> (its first answers as a sentence: the emoji world's own language), or a model of bench/vision/vlm.py. Encoders:
emoji (the text side of the emoji CLIP), or a transformers text model, whose last states are averaged over the tokens
(EraseEval: answerdotai/ModernBERT-large). Both were run here on random tiny models only, labels and emoji apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vestige.bench import judges
from vestige.bench.contract.types import ImageSet
from vestige.bench.judges.presence import PresenceJudge
from vestige.bench.models import hub
from vestige.bench.models.device import beside, per_device, placed
from vestige.bench.vision import clip_models, vlm

QUESTION = "Describe this picture in one sentence."
LABELS = "labels:"
WORDS = 60  # tokens of a caption
BATCH = 64


def check(captioner: str, encoder: str) -> str | None:
    """What is missing here, in a sentence, or None. Nothing is loaded."""
    try:
        if captioner.startswith(LABELS):
            judge_id = captioner.removeprefix(LABELS)
            judges.check(judge_id)
            if not getattr(judges.blank(judge_id), "labels", None):
                return f"captioner={captioner}: a caption is written with a judge's own list of labels, and {judge_id} has none."
        else:
            vlm.folder(captioner, f"captioner={captioner}")
        if encoder != "emoji":
            hub.folder(encoder, f"encoder={encoder}")
    except ValueError as unsupported_reason:
        return str(unsupported_reason)
    return None


def inputs(captioner: str, encoder: str) -> dict[str, str]:
    """What identifies the weights of both, for a stage's key."""
    if captioner.startswith(LABELS):
        told = {f"captioner {name}": digest for name, digest in judges.inputs(captioner.removeprefix(LABELS)).items()}
    else:
        told = vlm.inputs(captioner=captioner)
    return told | ({"encoder": clip_models.inputs("emoji")["weights"]} if encoder == "emoji" else hub.inputs(encoder=encoder))


def describe(images: ImageSet, captioner: str) -> list[str]:
    """One caption per image, in index order."""
    if captioner.startswith(LABELS):
        judge = judges.load(captioner.removeprefix(LABELS))
        assert isinstance(judge, PresenceJudge), "a captioner `labels:` names a classifier"
        return [text for part in images.batches(BATCH) for text in _labels(judge, part)]
    model = vlm.load(captioner, f"captioner={captioner}")
    return [text for part in images.batches(BATCH) for text in model.answer(part, QUESTION, WORDS)]


def _labels(judge: PresenceJudge, images: Tensor) -> list[str]:
    """As the world's captions: a <style> <object> on a <background> background; heads a judge lacks leave no words."""
    first = {head: [judge.labels[head][k] for k in share.argmax(-1).tolist()] for head, share in judge.shares(images).items()}
    words = {head: [label.replace("_", " ") for label in labels] for head, labels in first.items()}
    blank = [""] * len(images)
    told = zip(words.get("style", blank), words.get("object", blank), words.get("background", blank), strict=True)
    return [" ".join(f"a {style} {thing} {f'on a {ground} background' if ground else ''}".split()) for style, thing, ground in told]


@torch.no_grad()
def embed(texts: list[str], encoder: str) -> Tensor:
    """[n, d]."""
    if encoder == "emoji":
        from vestige.bench.vision.clip_models import load_clip

        clip = load_clip("emoji")
        return torch.cat([clip.text(texts[k : k + BATCH]) for k in range(0, len(texts), BATCH)])
    tokenizer, net = _encoder(encoder)
    parts = []
    for start in range(0, len(texts), BATCH):
        read = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        read = beside(net, read)
        states, counts = net(**read).last_hidden_state, read["attention_mask"].unsqueeze(-1)
        parts.append(((states * counts).sum(1) / counts.sum(1)).cpu())
    return torch.cat(parts)


@per_device
def _encoder(which: str):
    from transformers import AutoModel, AutoTokenizer

    folder = hub.folder(which, f"encoder={which}")
    return AutoTokenizer.from_pretrained(folder), placed(AutoModel.from_pretrained(folder, use_safetensors=True))
