"""Edits an image that shows the concept, by words that need not name it. Erasure that acts on text cannot prevent this.

SDEdit (Meng et al., ICLR 2022, arXiv 2108.01073), as image-to-image in diffusers; DDIM inversion (arXiv 2010.02502; used
against erasers by 120L020904/ACE@5e02099 and Wz-2024/Attack-Concept-Erased-Diffusion-Model-via-DDIM_inversion@cb5e5bf);
MasaCtrl (Cao et al., ICCV 2023, arXiv 2304.08465) with ACE's numbers. LEDITS++ is attacks/ledits.py. All run through this
harness's sampler with the eraser in force, in inversion and in sampling. Inverting and reconstructing returns the input
whether or not the model knows the concept: compare every number with source=never_knew, scrambled and wrong_concept.
"""

import math
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestige.attacks._ddim import asked_for, from_latents, inverted
from vestige.attacks._rows import ByImage, check_ask, positions, positions_of, worded
from vestige.attacks.training_images import check_source, row_images, unsupported_source
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet, Sampler
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import Call, Step, Trajectory

IMAGES_AT_ONCE = 32  # memory only


@dataclass
class Edit(Attack):
    """What all edits share: an image per (row, repetition), drawn from another seed, and words that ask for the edit."""

    ask: str  # the edit's prompt: a text, with {prompt} the row's prompt, {anchored} the same with the anchor for the name
    source: str  # what the images show, see attacks/training_images.py; anything but target is a control

    needs: ClassVar[tuple[str, ...]] = ("draw", "levels")

    def __post_init__(self) -> None:
        check_ask("attack.edit_attacks.ask", self.ask)
        check_source("edit_attacks", self.source)

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        return unsupported_source(self.source, concepts) or super().supports(model, concepts, method)

    def clean(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Tensor:
        """Latents [images, channels, h, w] of the images to edit."""
        return victim.pipe.encode_images(row_images(ctx, prompts, victim.concepts, self.source, prompts.repeats))

    def asked(self, victim: Victim, prompts: PromptSet, **columns: list) -> PromptSet:
        return prompts.with_prompts(worded(self.ask, prompts, victim.concepts), **columns)


@dataclass
class SDEdit(Edit):
    """Noises the image part of the way and denoises it under other words. Artefact: "clean" latents."""

    strength: float  # share of the sampler's steps that are run; 0 returns the image itself

    access: ClassVar[str] = "latents"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise ValueError(f"attack.edit_attacks.strength={self.strength} must lie between 0 and 1.")

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        return Adversary(self.asked(victim, prompts), {"clean": self.clean(victim, prompts, ctx).cpu()})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        clean, strength = ByImage(adversary.prompts, adversary.tensors["clean"]), self.strength

        class FromImage(Trajectory):
            def start(self) -> Tensor:
                x_0 = clean(self.image_ids).to(self.pipe.device, self.pipe.dtype)
                self.first = self.last - int(self.last * strength)
                if self.first == self.last:
                    return x_0
                if hasattr(self.scheduler, "set_begin_index"):
                    self.scheduler.set_begin_index(self.first)
                return self.noised(x_0, self.noise(), self.first)

        return pipe.sampled_by(FromImage)


@dataclass
class InversionEdit(Edit):
    """Inverts the image with the erased model and samples again from the noise found. Artefact: "latents".

    meta: nll, the mean negative log-likelihood of the latents per number under N(0, 1) (1.419 for true noise); what Memories
    of Forgotten Concepts (arXiv 2412.00782) compares between concepts.
    """

    caption: str  # the prompt of the inversion, written like `ask`; empty: text-free
    steps: int
    first: int  # sampling begins before this step, with the latents inverted to that level; 0: from the noisiest
    inversion_guidance: float
    guidance: float

    access: ClassVar[str] = "latents"
    quick: ClassVar[dict] = {"steps": 4, "first": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ask("attack.edit_attacks.caption", self.caption)
        if not 0 <= self.first < self.steps:
            raise ValueError(f"attack.edit_attacks.first={self.first} must lie between 0 and steps - 1 = {self.steps - 1}.")

    @torch.no_grad()
    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        clean, pipe, found = self.clean(victim, prompts, ctx), victim.pipe, []
        captions = [text for text in worded(self.caption, prompts, victim.concepts) for _ in range(prompts.repeats)]
        sampler = asked_for(victim.sampler, self.steps, self.inversion_guidance)
        for begin in range(0, len(clean), IMAGES_AT_ONCE):
            some = slice(begin, begin + IMAGES_AT_ONCE)
            found.append(inverted(pipe, clean[some], pipe.encode(captions[some]), sampler)[self.steps - self.first])
        latents = torch.cat(found).float()
        nll = (latents.square().mean() / 2 + math.log(2 * math.pi) / 2).item()
        return Adversary(self.asked(victim, prompts, caption=captions[:: prompts.repeats]), {"latents": latents.cpu()}, {"nll": nll})

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        latents = ByImage(adversary.prompts, adversary.tensors["latents"])

        def trajectory(pipe: Pipe, seeds: list[int], asked: Sampler, image_ids=None) -> Trajectory:
            return from_latents(latents, asked_for(asked, self.steps, self.guidance), self.first)(pipe, seeds, asked, image_ids)

        with pipe.sampled_by(trajectory):
            yield pipe


@dataclass
class MasaCtrl(InversionEdit):
    """Samples the image and its edit side by side; the edit's queries look at the image's keys and values.

    `caption` is the image's prompt, in inversion and in sampling; `ask` the edit's.
    """

    from_step: int  # attention is shared from this step on
    from_layer: int  # and from this self-attention layer on, counted from the input

    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs", "levels", "image_kv")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first:
            raise ValueError("attack.edit_attacks.first must be 0 for MasaCtrl: image and edit start from the same noise.")

    @contextmanager
    def attach(self, pipe: Pipe, adversary: Adversary):
        known, captions = positions(adversary.prompts), adversary.prompts.table["caption"].tolist()
        repeats, inner, sharing = adversary.prompts.repeats, pipe.guidance, {"rows": 0}

        def factory():
            rule = inner()
            image: dict[str, Any] = {}

            def side_by_side(step: Step) -> Tensor:
                n = len(step.x)
                if not image:
                    rows = positions_of(step.image_ids, known, adversary.prompts.name) // repeats
                    image["cond"], image["x"] = pipe.encode([captions[k] for k in rows]), step.x
                    image["levels"] = pipe.process.grid(step.total).to(pipe.device)
                cond, null = Conditioning.cat([image["cond"], step.cond]), Conditioning.cat([step.null, step.null])
                sharing["rows"] = n if step.index >= self.from_step else 0
                e = rule(replace(step, x=torch.cat([image["x"], step.x]), image_ids=step.image_ids * 2, cond=cond, null=null))
                sharing["rows"] = 0
                image["x"] = pipe.process.step(e[:n], image["x"], step.t, image["levels"][step.index + 1])
                return e[n:]

            return side_by_side

        with super().attach(pipe, adversary), pipe.guided_by(factory), shared_attention(pipe, self.from_layer, sharing):
            yield pipe


@contextmanager
def shared_attention(pipe: Pipe, from_layer: int, sharing: dict[str, int]):
    """Edits read the images' keys and values while sharing["rows"] is n > 0; batches are then [n images, n edits], repeated.

    Layers are counted as they run: each asks for its keys, then for its values.
    """
    ran = {"layers": 0.0}

    def count_anew(call: Call) -> None:
        ran["layers"] = 0.0

    def of_the_images(module, args, kwargs, out: Tensor):
        n, layer = sharing["rows"], int(ran["layers"])
        ran["layers"] += 0.5
        if not n or layer < from_layer:
            return None
        pairs = out.unflatten(0, (-1, 2, n))
        return pairs[:, :1].expand_as(pairs).reshape(out.shape)

    hooks = {f"{pipe.denoiser_name}.{layer}": of_the_images for layer in pipe.layers("image_kv")}
    with pipe.before_denoiser(count_anew), pipe.hooked(hooks):
        yield pipe
