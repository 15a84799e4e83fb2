"""How long `vestige plan` takes on a folder of the size of Stable Diffusion 1.4, with its digests unknown and remembered.

python -m benchmarks.files --out results/bench/files.md

The folder is a stand-in: genuine classes and shapes, random weights, and beside them the files that the published repository has
and nothing loads (a half-precision variant of each part). 6.4 GB in a temporary folder.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vestige.bench.models.folders import loaded_files

PLAN = ["plan", "model=sd14", "method=uce", "concept=dog"]
IMPORTS = [sys.executable, "-c", "import pandas, torch"]
BAR = 2.0  # seconds, the second time


def stand_in(folder: Path) -> Path:
    """A diffusers folder of the shapes of Stable Diffusion 1.4."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from vestige.bench.models.tiny import SCHEDULE, clip_tokenizer

    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(0)
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    pipeline = StableDiffusionPipeline(
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        CLIPTextModel(CLIPTextConfig(**size, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)),
        clip_tokenizer(),
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    return folder


def seconds(command: list[str], **environment: str) -> tuple[float, float]:
    """(wall, processor) seconds of a process of its own, without a network."""
    begun, used = time.perf_counter(), _used()
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun, _used() - used


def _used() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def digesting(folder: Path) -> list[str]:
    """A process that does nothing but what a plan does with the files."""
    code = (
        "from vestige.bench.contract.types import ModelSpec; from vestige.bench.models import loading, fingerprints; "
        f"spec = ModelSpec('sd14', 'sd1', {str(folder)!r}, None, 'float32', 'deterministic', 'photo', 'photo'); "
        "loading.check(spec); print(fingerprints.weights_digest(spec))"
    )
    return [sys.executable, "-c", code]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where the stand-in lies or goes; else a temporary folder")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = stand_in(asked.folder or Path(place) / "model")
        plan = [sys.executable, "-m", "vestige", *PLAN, f"model.repo={folder}"]
        empty, kept = ({"VESTIGE_CACHE": f"{place}/{name}", "VESTIGE_RESULTS": f"{place}/results"} for name in ("unused", "cache"))
        for file in loaded_files(folder, "sd1"):  # into the page cache, so that disks play no part
            subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)
        rows = [
            ("plan, the first time", seconds(plan, **kept), ""),
            ("plan, the second time (best of three)", min(seconds(plan, **kept) for _ in range(3)), f"< {BAR:.0f}"),
            ("check and digest of the files alone, the first time", seconds(digesting(folder), **empty), ""),
            ("check and digest of the files alone, the second time", min(seconds(digesting(folder), **empty) for _ in range(3)), ""),
            ("a process that imports pandas and torch, as plugins do", min(seconds(IMPORTS) for _ in range(3)), ""),
        ]
        loaded = sum(file.stat().st_size for file in loaded_files(folder, "sd1")) / 1e9
        whole = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9
    table = [
        "# Planning on a folder of the size of Stable Diffusion 1.4",
        "",
        f"`vestige {' '.join(PLAN)} model.repo=<folder>`, each time in a process of its own, without a network. The folder is a stand-in",
        f"of random weights: {whole:.1f} GB, of which {loaded:.1f} GB are loaded and hashed (the rest is a second variant). Made by",
        "`python -m benchmarks.files --out results/bench/files.md`.",
        "",
        "| what | wall s | processor s | bar (wall) |",
        "|---|---|---|---|",
        *(f"| {what} | {wall:.1f} | {used:.1f} | {bar} |" for what, (wall, used), bar in rows),
        "",
        f"Python {platform.python_version()} on {platform.machine()}, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors.",
    ]
    text = "\n".join(table) + "\n"
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
