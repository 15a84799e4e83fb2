"""An attack that is killed, and killed again, ends with the adversary and the budget of one that ran in peace."""

from dataclasses import replace

import pytest
import torch

from vestige.bench.contract.plugin import Victim
from vestige.bench.contract.resume import Progress
from vestige.bench.models import loading
from vestige.bench.models.pipe import Pipe
from vestige.bench.models.text import TextSide
from vestige.bench.run import contract_checks
from vestige.methods.original import Original

ATTACKS = {  # changes to the contract test's small numbers, so that there is something to interrupt
    "unlearn_diff_atk": {"rows_at_once": 2, "number_of_t": 3},
    "p4d": {"rows_at_once": 2, "steps": 4},
    "circumventing": {"steps": 6},
    "ring_a_bell": {"generations": 5},
    "sneakyprompt": {"queries": 5, "hidden": 4},
    "relearning": {"steps": 6},
    "memora": {"train_steps": 6},
    "mma_diffusion": {"restarts": 2},
    "dori_embedding": {"rows_at_once": 2, "steps": 4},
    "random_seeds": {"tries": 4},
    "noise_probes": {"etas": [1.0, 1.5, 2.0, 2.5]},
    "concept_arithmetics": {},
}


class Killed(BaseException):
    """As sudden as a signal: no attack catches it."""


class Clock:
    """Counts the calls of the denoiser and of the text encoder; kills at the chosen one."""

    def __init__(self, monkeypatch) -> None:
        self.calls, self.last = 0, None
        for owner, name in ((Pipe, "predict"), (TextSide, "_run")):
            monkeypatch.setattr(owner, name, self.ticking(getattr(owner, name)))

    def ticking(self, work):
        def tick(*args, **kwargs):
            self.calls += 1
            if self.calls == self.last:
                raise Killed
            return work(*args, **kwargs)

        return tick

    def within(self, calls: int | None) -> None:
        self.calls, self.last = 0, calls


@pytest.mark.parametrize("name", ATTACKS)
def test_a_killed_attack_ends_like_one_that_ran_in_peace(name, tmp_path, concept, prompts, sampler, monkeypatch):
    attack = replace(contract_checks.quick(contract_checks.build("attack", name, model="emoji")), **ATTACKS[name])
    # A small vocabulary: decoding the whole of CLIP's takes longer than all the rest.
    monkeypatch.setattr("vestige.attacks.sneakyprompt.SneakyPrompt.vocabulary", lambda self, text: ["red", "sky", "cat", "tree"])
    for module in ("unlearn_diff_atk", "p4d", "ring_a_bell", "mma_diffusion"):
        monkeypatch.setattr(f"attacks.{module}.allowed_tokens", lambda *_: torch.arange(320, 820))
    asked, clock = prompts(3), Clock(monkeypatch)
    (tmp_path / "images").mkdir()
    contract_checks.context(tmp_path / "images", "sd1", "resume").images(asked, sampler)

    def run(scratch):
        """A new process: nothing but the scratch folder is left of the last one."""
        pipe, originals = loading.load(contract_checks.tiny_of()), []
        original = lambda: originals[0] if originals else originals.append(loading.load(contract_checks.tiny_of())) or originals[0]  # noqa: E731
        counted = lambda: {**pipe.counts, "original": originals[0].counts["forward_rows"] if originals else 0}  # noqa: E731
        progress = Progress(scratch, counted, every=0.0)
        ctx = replace(contract_checks.context(tmp_path / "images", "sd1", "resume"), original=original, progress=progress)
        victim = Victim(pipe, [concept()], Original(), sampler, lambda pixels, expect: pixels.float().mean((1, 2, 3)) > 1000)
        monkeypatch.setattr("vestige.bench.contract.resume.SHARE", float("inf"))
        with pipe.preserved():
            found = attack.attack(victim, asked, ctx)
        return found, ctx.history, progress.spent()

    clock.within(None)
    calm, history, spent = run(tmp_path / "calm")
    length, kills = clock.calls, 0
    for share in (0.6, 0.7):
        clock.within(max(2, int(share * length)))
        try:
            run(tmp_path / "killed")
        except Killed:
            kills += 1
    assert kills, "the test must kill"
    assert list((tmp_path / "killed").glob("*.pt")), "the attack must have kept something"
    clock.within(None)
    found, again, cost = run(tmp_path / "killed")
    assert clock.calls < length, "nothing was saved by going on"
    assert found.prompts.table.equals(calm.prompts.table)
    assert found.meta == calm.meta and again == history and cost == spent
    assert found.tensors.keys() == calm.tensors.keys()
    assert all(torch.equal(found.tensors[key], calm.tensors[key]) for key in calm.tensors)
