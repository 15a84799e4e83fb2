"""A visual language model that answers a question about an image, greedily: captioners and yes/no judges of protocols.

Any transformers image-text-to-text model with safetensors: Qwen/Qwen2.5-VL-7B-Instruct, OpenGVLab/InternVL2_5-8B-MPO-hf,
google/paligemma-3b-pt-896, Salesforce/blip-image-captioning-large. Run here on a random tiny LLaVA only. Papers sample from their
models, or ask ones behind an API that drift; greedy answers of a named local model repeat.

`which` is a hub id or folder, or that and a precision: Qwen/Qwen2.5-VL-7B-Instruct@bfloat16. Precision changes some answers, so it is part
of the name. Without one it is float32.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from vestige.bench.contract.batches import in_batches
from vestige.bench.models import hub
from vestige.bench.models.device import per_device, placed

BATCH = 8  # images asked about at once
PRECISIONS = ("bfloat16", "float16")


class Vlm:
    def __init__(self, net, processor) -> None:
        self.net, self.processor = placed(net), processor
        self.words = getattr(processor, "tokenizer", processor)
        self.words.padding_side = "left"  # an answer follows its question at once
        if self.words.pad_token is None:
            self.words.pad_token = self.words.eos_token

    @torch.no_grad()
    def answer(self, images: Tensor, question: str, words: int) -> list[str]:
        """uint8 images [n, 3, h, w] -> one text each, at most `words` tokens long."""
        text = self.prompt(question)
        parts = in_batches(images.split(BATCH), lambda some: self._answers(some, text, words), "images shown to a language model")
        return [answer for _, answers in parts for answer in answers]

    def _answers(self, images: Tensor, text: str, words: int) -> list[str]:
        asked = self.processor(images=[[image] for image in images], text=[text] * len(images), return_tensors="pt", padding=True)
        asked = asked.to(self.net.device, self.net.dtype)  # whole numbers keep their kind
        told = self.net.generate(**asked, max_new_tokens=words, do_sample=False, pad_token_id=self.words.pad_token_id)
        before = asked["input_ids"].shape[1] if "input_ids" in asked and not self.net.config.is_encoder_decoder else 0
        before = before if told.shape[1] > before else 0  # some models return their answer alone
        return [answer.strip() for answer in self.processor.batch_decode(told[:, before:], skip_special_tokens=True)]

    def prompt(self, question: str) -> str:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return f"{getattr(self.processor, 'image_token', None) or ''}{question}"


def parted(which: str) -> tuple[str, str]:
    """(hub id or folder, precision)."""
    place, sign, precision = which.rpartition("@")
    return (place, precision) if sign and precision in PRECISIONS else (which, "float32")


def folder(which: str, setting: str) -> str:
    """Where the model's files lie. Raises a ValueError where they are not here; `setting`: what the user typed to choose it."""
    place, _ = parted(which)
    try:
        return str(hub.folder(place, setting))
    except ValueError as reason:
        if "@" not in place:
            raise
        allowed = " or ".join(f"@{word}" for word in PRECISIONS)
        raise ValueError(f"{reason} After a name, @ stands before its precision: {allowed}; float32 is written without.") from reason


def inputs(**models: str) -> dict[str, str]:
    """What identifies the weights, for a stage's key. The precision stands in the name."""
    return hub.inputs(**{name: parted(which)[0] for name, which in models.items()})


@per_device
def load(which: str, setting: str) -> Vlm:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    where = folder(which, setting)
    net = AutoModelForImageTextToText.from_pretrained(where, use_safetensors=True, dtype=getattr(torch, parted(which)[1]))
    return Vlm(net, AutoProcessor.from_pretrained(where))


def says_yes(answer: str) -> bool:
    """The first word decides: EraseEval's code looks for "no" anywhere and finds it in "now" and "snoopy"; HUB counts idk as no."""
    found = re.search(r"[a-z]+", answer.lower())
    return found is not None and found[0] == "yes"
