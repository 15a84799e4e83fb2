"""Peak memory of `vestige run` on a model of Stable Diffusion 1.4 size, as a multiple of the model's bytes: `make bench`.

The model has random weights in the genuine classes of diffusers and transformers. Weights decide the peak, so images are 128 pixels wide
(latents 16 x 16) and ESD takes two iterations. Each case runs in a process of its own, on one CPU thread, and is watched from here.

VmHWM is the most that was resident at one time, pages of mapped files included; RssAnon is what the process has for itself: pages of a
mapped file cost memory once on a machine, and can be dropped when something else needs it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vestige.bench.places import results


@dataclass(frozen=True)
class Case:
    words: list[str]  # settings of the run
    bar: float  # how often the model's bytes it may take, by VmHWM
    before: dict[str, float]  # the same numbers at 2830fcc, with two whole models, a clone of all weights and a whole teacher


CASES = {
    "uce": Case(["method=uce"], 1.6, {"VmHWM": 2.68, "RssAnon": 1.14}),
    "esd_x": Case(["method=esd_x", "method.iterations=2", "method.bins=5"], 2.6, {"VmHWM": 3.08, "RssAnon": 2.19}),
}
SMALL = ["model.sampler.height=128", "model.sampler.width=128", "model.sampler.steps=2"]
COMMON = [
    "model=sd14",
    "concept=[dog]",
    "split=[target]",
    "split.target.rows=2",
    "split.target.repeats=1",
    "metric@split.target.metrics=[image_change]",
    *SMALL,
]
COMMON += ["tuned@method=none", "runtime.threads=1", "runtime.batch_size=2"]


def write_model(folder: Path) -> None:
    """A folder as `save_pretrained` leaves it, with the numbers of Stable Diffusion 1.4 and latents of 16 x 16."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from vestige.bench.models.families import family

    torch.manual_seed(0)
    width = (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(sample_size=16, block_out_channels=width, cross_attention_dim=768, attention_head_dim=8)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512, **kinds)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    _, tokenizers, _, _ = family("sd1").tiny()
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    pipeline = StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizers[0], unet, DDIMScheduler(clip_sample=False, **beta), None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)


def model_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def peak(words: list[str], place: Path) -> dict[str, float]:
    """Peaks of one run in bytes, and its seconds."""
    places = [f"runtime.store={place}/store", f"runtime.records={place}/records"]
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    call = [sys.executable, "-c", "import sys; from vestige.bench.cli import main; sys.exit(main(sys.argv[1:]))", "run", *words, *places]
    begun = time.monotonic()
    run = subprocess.Popen(call, env={**os.environ, **single, "VESTIGE_RESULTS": str(place)}, preexec_fn=lambda: os.nice(5))
    seen = {"VmHWM": 0, "RssAnon": 0}
    while run.poll() is None:
        for name, now in _memory_of(run.pid).items():
            seen[name] = max(seen[name], now)
        time.sleep(0.02)
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}: {' '.join(words)}")
    return {**seen, "seconds": time.monotonic() - begun}


def _memory_of(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon") if name in fields}


def main(folder: Path, cases: list[str], out: Path) -> None:
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.memory", "--model", str(folder), "--write-only"], check=True)
    size, found = model_bytes(folder), {}
    for name in cases:
        with tempfile.TemporaryDirectory() as place:
            found[name] = peak([*COMMON, f"model.repo={folder}", *CASES[name].words], Path(place))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(found, size))
    print(out.read_text())


def table(found: dict[str, dict[str, float]], size: int) -> str:
    rows = [
        f"| {name} | {case.before['VmHWM']:.2f} | {seen['VmHWM'] / size:.2f} | <= {case.bar} | {case.before['RssAnon']:.2f} "
        f"| {seen['RssAnon'] / size:.2f} |"
        for name, seen in found.items()
        for case in [CASES[name]]
    ]
    return "\n".join(
        [
            "# Peak memory of `vestige run` at Stable Diffusion 1.4 shapes\n",
            f"In multiples of the model's {size / 1e9:.2f} GB: random weights, float32, CPU, one thread. A job erases, draws two images",
            "of the erased model and two of the original, and scores them. Weights decide the peak, so images are 128 pixels wide and",
            "ESD-x takes two iterations. Before: at 2830fcc.\n",
            "| job | resident before | resident | bar | own before | own |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Resident (VmHWM) counts pages of mapped files, among them the model's own 1.0; the interpreter with its libraries is 0.13 of",
            "it. Own (RssAnon) leaves out pages of files, which are in memory once for all processes and can be dropped.",
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "sd14-random")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=results() / "bench" / "memory.md")
    parser.add_argument("--write-only", action="store_true")
    asked = parser.parse_args()
    if asked.write_only:
        write_model(asked.model)
    else:
        main(asked.model, asked.cases, asked.out)
