"""A visual language model that answers a question about an image, greedily: captioners and yes/no judges of protocols.

Any transformers image-text-to-text model with safetensors: Qwen/Qwen2.5-VL-7B-Instruct, OpenGVLab/InternVL2_5-8B-MPO-hf,
google/paligemma-3b-pt-896, Salesforce/blip-image-captioning-large. Run here on a random tiny LLaVA only. Papers sample from their
models, or ask ones behind an API that drift; greedy answers of a named local model repeat.
"""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import Tensor

from vestige.bench.models import hub


class Vlm:
    def __init__(self, net, processor) -> None:
        self.net, self.processor = net.eval().requires_grad_(False), processor

    @torch.no_grad()
    def answer(self, images: Tensor, question: str, words: int) -> list[str]:
        """uint8 images [n, 3, h, w] -> one text each, at most `words` tokens long."""
        text = self.prompt(question)
        answers = []
        for image in images:
            inputs = self.processor(images=image, text=text, return_tensors="pt").to(self.net.device)
            told = self.net.generate(**inputs, max_new_tokens=words, do_sample=False)[0]
            asked = inputs["input_ids"].shape[1] if "input_ids" in inputs and not self.net.config.is_encoder_decoder else 0
            asked = asked if len(told) > asked else 0  # some models return their answer alone
            answers.append(self.processor.decode(told[asked:], skip_special_tokens=True).strip())
        return answers

    def prompt(self, question: str) -> str:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return f"{getattr(self.processor, 'image_token', None) or ''}{question}"


@cache
def load(which: str, setting: str) -> Vlm:
    """`which`: a hub id or folder; `setting`: what the user typed to choose it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = hub.folder(which, setting)
    return Vlm(AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True), AutoProcessor.from_pretrained(folder))


def says_yes(answer: str) -> bool:
    """The first word decides: EraseEval's code looks for "no" anywhere and finds it in "now" and "snoopy"; HUB counts idk as no."""
    found = re.search(r"[a-z]+", answer.lower())
    return found is not None and found[0] == "yes"
