"""Guides one image by several prompts with positive and negative weights, so that other words add up to the erased one.

ARC: Petsiuk, Saenko, "Concept Arithmetics for Circumventing Concept Inhibition in Diffusion Models" (ECCV 2024), arXiv
2404.13706; no code is public. The principle is the paper's, the compositions are ours: no number of the paper is reproduced.
With d(p) = eps(x_t, p) - eps(x_t, empty), all by the erased model, an image follows eps(x_t, empty) + sum_i w_i d(p_i). Each
term passes the method's own guidance rule, so a sampling defence is inside and not around. No gradient and no weight is read.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vestige.attacks._rows import positions, positions_of
from vestige.attacks.wording import concept_of
from vestige.bench.contract.plugin import Attack, Context, Method, Victim
from vestige.bench.contract.types import Adversary, Concept, ModelSpec, PromptSet
from vestige.bench.models.conditioning import Conditioning
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.sampling import GuidanceRule, Step
from vestige.bench.prompts.prompt_sets import with_articles

ABOUT = ("concept", "unrelated")
FIELDS = ("prompt", "name", "anchor", "alias", "sibling", "other", "other2")
Terms = list[tuple[float, str]]  # (w, prompt), |w| above 1


@dataclass
class ConceptArithmetics(Attack):
    """Columns of the prompts: composition (JSON list of [w, prompt]), which (its name), found_at (1-based, -1 never)."""

    compositions: dict[str, dict[str, float]]  # name -> {template: share of the scale, negative to move away}
    scales: list[float]  # w of a share of 1; the text-to-image guidance scale is the natural one
    about: str  # concept; unrelated: a control with unrelated things in place of the concept, its aliases and the prompt

    access: ClassVar[str] = "images"
    needs: ClassVar[tuple[str, ...]] = ("draw", "outputs")
    quick: ClassVar[dict] = {"scales": [3.0]}

    def __post_init__(self) -> None:
        if self.about not in ABOUT:
            raise ValueError(f"attack.concept_arithmetics.about={self.about!r} is not known. Allowed: {', '.join(ABOUT)}.")
        if not self.compositions or not self.scales or not all(self.compositions.values()):
            raise ValueError("attack.concept_arithmetics needs at least one composition with a term, and one scale.")
        for template in (t for terms in self.compositions.values() for t in terms):
            try:
                template.format(**dict.fromkeys(FIELDS, ""))
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"attack.concept_arithmetics.compositions: {template!r} has an unknown field ({error}). Allowed: {', '.join(FIELDS)}."
                ) from None
        least = min(abs(share) * scale for terms in self.compositions.values() for share in terms.values() for scale in self.scales)
        if least <= 1:
            raise ValueError(f"attack.concept_arithmetics: a term weighs {least:g}; weights of 1 or less mean no guidance. Raise scales.")

    def supports(self, model: ModelSpec, concepts: list[Concept], method: Method) -> str | None:
        wanted = {"alias": "aliases", "sibling": "siblings", "other": "others"}
        if self.about == "unrelated" and any(len(concept.others) < 2 for concept in concepts):
            return "about=unrelated needs two names under `others` in the concept file."
        text = "".join(t for terms in self.compositions.values() for t in terms)
        lacking = [e for f, e in wanted.items() if "{" + f in text and any(not getattr(c, e) for c in concepts)]
        return (
            f"compositions need the entries {', '.join(lacking)} in the concept file."
            if lacking
            else super().supports(model, concepts, method)
        )

    def attack(self, victim: Victim, prompts: PromptSet, ctx: Context) -> Adversary:
        n, tried = len(prompts), [(name, scale) for name in self.compositions for scale in self.scales]
        rows = prompts.table.to_dict("records")
        found, terms, which = [-1] * n, [self.terms(row, victim.concepts, *tried[0]) for row in rows], [_label(*tried[0])] * n
        tally: dict[str, float] = {}
        state = {"found": found, "terms": terms, "which": which, "tally": tally}
        for number, (name, scale) in ctx.resumable("compositions", list(enumerate(tried, start=1)), **state):
            todo = [k for k in range(n) if found[k] < 0]
            if not todo:
                break
            candidates = [self.terms(row, victim.concepts, name, scale) for row in rows]
            with composed(victim.pipe, prompts, candidates):
                images = victim.images(prompts, todo)
            hits = victim.judge(images, prompts.table["expect"].iloc[todo].tolist()).tolist()
            tally[_label(name, scale)] = sum(hits) / len(todo)
            for k, hit in zip(todo, hits, strict=True):
                if hit:
                    found[k], terms[k], which[k] = number, candidates[k], _label(name, scale)
        asked = prompts.with_prompts(prompts.prompts, composition=[json.dumps(t) for t in terms], which=which, found_at=found)
        rates = {
            "compositions": len(tried),
            "rate_at_first": sum(at == 1 for at in found) / n,
            "rate_at_last": sum(at > 0 for at in found) / n,
        }
        return Adversary(asked, meta={**rates, "rate_of_those_left": tally})

    def attach(self, pipe: Pipe, adversary: Adversary) -> AbstractContextManager[Pipe]:
        return composed(pipe, adversary.prompts, [json.loads(text) for text in adversary.prompts.table["composition"]])

    def terms(self, row: dict, concepts: list[Concept], name: str, scale: float) -> Terms:
        concept = concept_of(row, concepts) or concepts[0]
        first = lambda entry: next(iter(entry), "")  # noqa: E731
        fill = {"prompt": row["prompt"], "name": concept.name, "anchor": concept.anchor}
        fill |= {"alias": first(concept.aliases), "sibling": first(concept.siblings)}
        fill |= {"other": first(concept.others), "other2": concept.others[1] if len(concept.others) > 1 else ""}
        if self.about == "unrelated":
            fill |= {"prompt": f"a {fill['other']}", "name": fill["other"], "alias": fill["other2"], "sibling": fill["other2"]}
        return [(share * scale, with_articles(template.format(**fill))) for template, share in self.compositions[name].items()]


def composed(pipe: Pipe, prompts: PromptSet, terms: list[Terms]) -> AbstractContextManager[Pipe]:
    """Guide every row of `prompts` by its own terms, each through the guidance rule in force."""
    known, inner = positions(prompts), pipe.guidance

    def factory() -> GuidanceRule:
        parts: dict[tuple[float, int], tuple[list[int], Conditioning, GuidanceRule]] = {}

        def rule(step: Step) -> Tensor:
            if not parts:
                rows = positions_of(step.image_ids, known, prompts.name) // prompts.repeats
                parts.update(_parts(pipe, [terms[k] for k in rows.tolist()], inner))
            guided: Tensor | None = None
            weight_of_null = [-1] * len(step.x)
            for (w, _), (index, cond, guide) in parts.items():
                mine = tuple(step.image_ids[k] for k in index)
                e = guide(replace(step, x=step.x[index], cond=cond, null=step.null.rows(index), scale=abs(w), image_ids=mine))
                # e is eps_null + |w| d(p); every term brings an eps_null, of which one is wanted.
                guided = e.new_zeros(len(step.x), *e.shape[1:]) if guided is None else guided
                guided[index] += e if w > 0 else -e
                for k in index:
                    weight_of_null[k] += 1 if w > 0 else -1
            assert guided is not None, "every row has a term"
            if not any(weight_of_null):
                return guided
            weights = torch.tensor(weight_of_null).to(guided).view(-1, *[1] * (guided.ndim - 1))
            return guided - weights * step.pipe.predict(step.x, step.t, step.null)

        return rule

    return pipe.guided_by(factory)


def _parts(pipe: Pipe, terms: list[Terms], inner: Callable[[], GuidanceRule]) -> dict:
    """(w, number of the term) -> the rows that have it, their conditioning, and a guidance rule with a state of its own."""
    wanted: dict[tuple[float, int], list[tuple[int, str]]] = {}
    for row, of_row in enumerate(terms):
        for place, (w, text) in enumerate(of_row):
            wanted.setdefault((w, place), []).append((row, text))
    with torch.no_grad():
        return {key: ([row for row, _ in some], pipe.encode([text for _, text in some]), inner()) for key, some in wanted.items()}


def _label(name: str, scale: float) -> str:
    return f"{name} {scale:g}"
