"""The stages of one job: erase, attack, images, score, features. Each is a pure function of its specification, kept in the store.

bench/run/runner.py says in which order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.bench import judges
from vestige.bench.contract import batches, flags, screen
from vestige.bench.contract.building import specification
from vestige.bench.contract.plugin import Attack, Context, Method, Metric, MetricContext, Victim
from vestige.bench.contract.resume import Progress
from vestige.bench.contract.shared import Shared, check_declared
from vestige.bench.contract.types import Adversary, Concept, ImageSet, PromptSet, Sampler, plain
from vestige.bench.models import device
from vestige.bench.models.fingerprints import weights_digest
from vestige.bench.run import code, generate, shared_work
from vestige.bench.run.cost import load, peak_memory
from vestige.bench.run.job import Job
from vestige.bench.run.models_of_job import Models
from vestige.bench.run.seeds import seed_word
from vestige.bench.run.stage_code import ADVERSARY, ARTEFACT, DRAWING, FEATURES, SCORING, SEEDS, TOUCHED, model_of
from vestige.bench.run.store import SCRATCH, Store
from vestige.bench.run.store_folder import Stage

if TYPE_CHECKING:
    from vestige.bench.models.pipe import Pipe


@dataclass
class Stages:
    """Of one job. `find_...` looks a stage up, the plain verb makes it when it is not there."""

    job: Job
    drawn: dict[str, Stage] = field(default_factory=dict)  # image stages that this job made or used, by reference

    @cached_property
    def store(self) -> Store:
        return self.job.runtime.open_store()

    @cached_property
    def models(self) -> Models:
        return Models(self.job, self.store)

    @cached_property
    def model_spec(self) -> dict:
        return {**self.job.model.drawing(), "repo": self.job.model.repo, "weights": weights_digest(self.job.model)}

    @property
    def model_code(self) -> list[code.Root]:
        return model_of(self.job.model.family)

    # Erasing, one stage per step of the job

    def erase_spec(self, before: Sequence[Stage] = ()) -> dict:
        """Of the step that follows these."""
        job, concepts = self.job, self.job.given_steps[len(before)]
        return {
            "stage": "erase",
            "model": self.model_spec,
            "method": specification(job.method),
            "inputs": job.method.inputs(concepts),
            "concepts": plain(concepts),
            "sampler": plain(job.sampler),
            "seed": job.seed,
            **({"parent": before[-1].key} if before else {}),
        }

    def erase_code(self, before: Sequence[Stage]) -> str:
        under = code.part(self.job.method, "attach") if before else []
        return code.of(self.model_code, ARTEFACT, SEEDS, code.part(self.job.method, "erase"), under)

    def erase_words(self, before: Sequence[Stage]) -> str:
        return self.words(type(self.job.method).__name__, concepts=self.job.steps[len(before)])

    def find_erased(self) -> list[Stage]:
        """The steps that are finished, from the first on."""
        found: list[Stage] = []
        for _ in self.job.steps:
            stage = self.store.find("erase", self.erase_spec(found), self.erase_words(found), self.erase_code(found))
            if stage is None:
                break
            found.append(stage)
        return found

    def erase(self) -> list[Stage]:
        made: list[Stage] = []
        for _ in self.job.steps:
            made.append(self._erase_step(list(made)))
        return made

    def _erase_step(self, before: Sequence[Stage]) -> Stage:
        job, spec = self.job, self.erase_spec(before)

        def make(folder: Path) -> dict:
            with self.models.to_erase(before) as pipe, peak_memory(job.runtime.device) as peak:
                meter = self.meter(folder, pipe)  # the clock starts here
                ctx = self.context(job.method, "erase", seed_word(spec, job.model.domain, before), progress=meter)
                erasure = job.method.erase(pipe, job.given_steps[len(before)], ctx)
                spent = meter.spent()
            erasure.save(folder)
            (folder / "log.json").write_text(json.dumps(ctx.history))
            return {
                "erase_forward_rows": spent["forward_rows"] + spent["original_forward_rows"],
                "erase_cpu_seconds": spent["cpu_seconds"],
                "erase_device_seconds": spent["seconds"] if job.runtime.device.startswith("cuda") else None,
                "erase_wall_seconds": spent["seconds"],
                "erase_seconds": spent["seconds"],
                "load": load(),
                "erase_peak_bytes": peak.bytes,
                "erase_peak_kind": peak.kind,
                "parameters_changed": erasure.meta.get("parameters", sum(t.numel() for t in erasure.tensors.values())),
                "artefact_bytes": sum(t.numel() * t.element_size() for t in erasure.tensors.values()),
            }

        return self.stage("erase", spec, self.erase_words(before), make, self.erase_code(before))

    # Attacking

    def attack_spec(self, erased: Sequence[Stage], attack: Attack, asked: PromptSet) -> dict:
        job = self.job
        inputs = attack.inputs() | judges.inputs(job.attack_judge)
        return {
            "stage": "attack",
            "model": self.model_spec,
            "erasure": None if attack.transfers() else self.models.erasure_key(erased),
            "attack": specification(attack),
            "concepts": plain(job.concepts),
            "prompts": asked.digest,
            "judge": job.attack_judge,
            "sampler": plain(job.sampler),
            "seed": job.seed,
            **({"inputs": inputs} if inputs else {}),
        }

    def attack_code(self, erased: Sequence[Stage], attack: Attack) -> str:
        victim = [] if attack.transfers() else [*self.attached_code(erased), *TOUCHED]
        return code.of(self.model_code, ARTEFACT, ADVERSARY, SEEDS, victim, code.part(attack, "attack"), code.judge(self.job.attack_judge))

    def find_attack(self, erased: Sequence[Stage], attack: Attack, name: str, asked: PromptSet) -> Stage | None:
        spec, words = self.attack_spec(erased, attack, asked), self.attack_words(name, attack)
        return self.store.find("attack", spec, words, self.attack_code(erased, attack))

    def attack_words(self, name: str, attack: Attack) -> str:
        return self.words(name, "Original" if attack.transfers() else type(self.job.method).__name__)

    def attack(self, erased: Sequence[Stage], attack: Attack, name: str, asked: PromptSet) -> Stage:
        job, spec = self.job, self.attack_spec(erased, attack, asked)

        def make(folder: Path) -> dict:
            labels = sorted(set(asked.table["expect"]) - {""})

            @cache
            def judge():  # loaded when first asked: text attacks never do
                with self.models.clock.stopped():
                    return judges.load(job.attack_judge).about(job.concepts).among(labels)

            attacked = [] if attack.transfers() else erased
            with self.models.attached(attacked, attack) as pipe:
                ask, at_once = (lambda *of: judge().present(*of)), job.runtime.batch_size
                victim = Victim(pipe, job.concepts, job.method, job.sampler, ask, self.models.touched(attacked), at_once)
                with pipe.preserved():
                    meter = self.meter(folder, pipe)
                    ctx = self.context(attack, "attack", seed_word(spec, job.model.domain, erased), progress=meter)
                    found = attack.attack(victim, asked, ctx)
                    budget = meter.spent()
            told = screen.restored(found.prompts, asked) if screen.applies(job.concepts) else found.prompts
            # Seconds are a fact about this run: the artefact is the same bytes whenever it is made.
            counted = {name: number for name, number in budget.items() if not name.endswith("seconds")}
            Adversary(told, found.tensors, found.meta, counted).save(folder)
            (folder / "log.json").write_text(json.dumps(ctx.history))
            asked_judge = {"judge": {"judge": job.attack_judge, **judge().meta}} if judge.cache_info().currsize else {}
            return {"budget": budget, "flags": flags.of_log(ctx.history) + flags.of_rows(told.table), **asked_judge}

        return self.stage("attack", spec, self.attack_words(name, attack), make, self.attack_code(erased, attack))

    def generate(self, erased: Sequence[Stage], attack: Attack, adversary: Stage | None, asked: PromptSet, whole: bool = False) -> Stage:
        if adversary is None:
            return self.images(asked, self.job.sampler, erased, whole=whole)
        told = Adversary.load_prompts(adversary.path)
        return self.images(told, self.job.sampler, erased, attack, adversary, whole)

    def images_code(self, erased: Sequence[Stage], attack: Attack | None) -> str:
        attacked = [] if attack is None else [*ADVERSARY, *code.part(attack, "attach")]
        return code.of(self.model_code, DRAWING, self.attached_code(erased), attacked)

    def attached_code(self, erased: Sequence[Stage]) -> list[code.Root]:
        return [] if self.models.erasure_key(erased) is None else [*ARTEFACT, *code.part(self.job.method, "attach")]

    def images_spec(self, asked: PromptSet, sampler: Sampler, erased: Sequence[Stage], adversary_key: str | None) -> dict:
        return {
            "stage": "images",
            "model": self.model_spec,
            "erasure": self.models.erasure_key(erased),
            "adversary": adversary_key,
            "prompts": asked.digest,
            "sampler": plain(sampler),
        }

    def artist(self, erased: Sequence[Stage]) -> str:
        return "original" if self.models.erasure_key(erased) is None else type(self.job.method).__name__

    def find_images(self, erased: Sequence[Stage], attack: Attack, adversary: Stage | None, asked: PromptSet) -> Stage | None:
        asked = asked if adversary is None else Adversary.load_prompts(adversary.path)
        spec = self.images_spec(asked, self.job.sampler, erased, adversary.key if adversary else None)
        by = self.images_code(erased, attack if adversary else None)
        return self.store.find("images", spec, f"{self.artist(erased)}-{asked.name}", by)

    def images(
        self,
        asked: PromptSet,
        sampler: Sampler,
        erased: Sequence[Stage] = (),
        attack: Attack | None = None,
        adversary: Stage | None = None,
        whole: bool = True,
    ) -> Stage:
        """Images by the erased model, or by the original one when nothing is `erased`; shared by every job that asks the same.

        attack, adversary: what is in force beside the erasure. whole: drawn again if they were deleted after scoring, as those of
        explicit concepts are.
        """
        spec = self.images_spec(asked, sampler, erased, adversary.key if adversary else None)
        who, by = self.artist(erased), self.images_code(erased, attack)

        def make(folder: Path) -> dict:
            with self.models.in_force(erased, attack, adversary) as pipe:
                before = {**pipe.counts, **self.models.clock.read()}
                drawn = generate.draw(pipe, asked, sampler, folder, self.job.runtime.batch_size, f"{who}: {asked.name}")
                now = {**pipe.counts, **self.models.clock.read()}
            # Of this process alone: images that a killed one had drawn cost nothing here.
            timed = {name: now[name] - before[name] for name in ("images", "forward_rows", "seconds", "cpu_seconds")}
            return {"images": len(drawn), **self.warnings(drawn), "timed": timed | {"load": load()}}

        usable = (lambda stage: not stage.stripped) if whole else (lambda stage: True)
        stage = self.stage("images", spec, f"{who}-{asked.name}", make, by, usable)
        self.drawn[stage.reference] = stage
        return stage

    def score(self, metric: Metric, name: str, images: Stage, asked: PromptSet, again: Callable[[], Stage], artist: Callable) -> Stage:
        """`again` gives the images stage with all its images, `artist` the model that drew them (which the images' key names)."""
        original = self.images(asked, self.job.sampler, whole=False)
        spec = {
            "stage": "score",
            "metric": specification(metric),
            "images": images.key,
            "original": original.key,
            "concepts": plain(self.job.concepts),
        }
        if inputs := metric.inputs():
            spec["inputs"] = inputs

        def make(folder: Path) -> dict:
            context = MetricContext(
                self.job.concepts,
                partial(self.drawn_by_original, asked),
                self.features,
                lambda: self.models.untouched,
                artist,
                self.drawn_by_original,
            )
            metric.score(generate.load(self.store.held(again).path), context).save(folder)
            return {}

        return self.stage("score", spec, f"{name}-{asked.name}", make, self.score_code(metric))

    def score_code(self, metric: Metric) -> str:
        return code.of(SCORING, code.part(metric, "score"), code.judge(getattr(metric, "judge", None)))

    def warnings(self, drawn: ImageSet) -> dict:
        """How many images a filter withheld, and how many others are blank (of one colour) or not finite; flags."""
        status = drawn.index["status"]
        one_colour = sum(int((batch.amax((1, 2, 3)) == batch.amin((1, 2, 3))).sum()) for batch in drawn.batches())
        withheld, nan = int((status == "blocked").sum()), int((status == "nan").sum())
        # A withheld image is of one colour too: it counts once.
        blank = max(0, one_colour - withheld)
        raised = flags.of_images(blank, withheld, len(drawn), self.job.method.intervention == "filter", nan)
        return {"blank": blank, "withheld": withheld, "nan": nan, "flags": raised}

    def drawn_by_original(self, asked: PromptSet) -> ImageSet:
        asked = screen.screened(asked) if screen.applies(self.job.concepts) else asked
        return generate.load(self.store.held(lambda: self.images(asked, self.job.sampler)).path)

    def features(self, images: ImageSet, extractor: str):
        """Features of a stored set, computed once per set and extractor."""
        from safetensors.torch import load_file, save_file

        from vestige.bench.vision import features

        identity = images.digest or images.folder.name
        spec = {"stage": "features", "images": identity, "extractor": extractor, **features.inputs(extractor)}

        def make(folder: Path) -> dict:
            save_file({"features": features.extract(images, extractor).contiguous()}, folder / "features.safetensors")
            return {}

        by = code.of(FEATURES)
        stage = self.stage("features", spec, extractor.replace("/", "_"), make, by)
        return load_file(stage.path / "features.safetensors")["features"]

    # Pieces

    def stage(self, kind: str, spec: dict, words: str, make: Callable[[Path], dict], by: str, *usable: Callable[[Stage], bool]) -> Stage:
        """A stage of the store, made on the job's device. What did not fit into memory and was cut smaller is one of its facts."""

        def made(folder: Path) -> dict:
            with device.on(self.job.runtime.device), batches.noted() as backed_off:
                facts = make(folder)
            return facts | ({"batch_backed_off": backed_off} if backed_off else {})

        return self.store.stage(kind, spec, words, made, by, *usable)

    def meter(self, folder: Path, pipe: Pipe) -> Progress:
        """Counts what a stage costs from now on, and keeps its checkpoints."""
        return Progress(folder / SCRATCH, lambda: {**self.models.counted(pipe), **self.models.clock.read()})

    def context(self, plugin: Method | Attack, *words: str, progress: Progress) -> Context:
        def images(asked: PromptSet, sampler: Sampler) -> ImageSet:
            with self.models.at_no_cost():
                return generate.load(self.store.held(lambda: self.images(asked, sampler)).path)

        def shared(work: Shared, ctx: Context) -> Path:
            check_declared(work, plugin)
            with self.models.at_no_cost():
                return self.store.held(lambda: shared_work.find_or_make(self, work, ctx)).path

        return Context((*words, self.job.seed), self.job.sampler, self.models.original, images, progress=progress, find_or_make=shared)

    @contextmanager
    def unsafe_images_deleted(self) -> Iterator[None]:
        """Images about an explicit concept live as long as their job: scores stay, images do not (unless told otherwise)."""
        try:
            yield
        finally:
            if screen.applies(self.job.concepts) and not self.job.runtime.keep_unsafe_images:
                for stage in self.drawn.values():
                    self.store.strip(stage, "png/*")
                self.store.sweep()

    def words(self, *names: str, concepts: list[Concept] | None = None) -> str:
        about = self.job.concepts if concepts is None else concepts
        return "-".join([*names, *(c.slug for c in about), self.job.model.name])
