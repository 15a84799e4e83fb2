"""How long `vestige plan` takes on a folder of the size of Stable Diffusion 1.4, with its digests unknown and remembered.

python -m benchmarks.files --out results/bench/files.md

The folder is a stand-in: genuine classes and shapes, random weights, and beside them the files that the published repository has
and nothing loads (a half-precision variant of each part). 6.4 GB in a temporary folder.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAN = ["plan", "model=sd14", "method=uce", "concept=dog"]
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


def seconds(command: list[str], **environment: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where the stand-in lies or goes; else a temporary folder")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = stand_in(asked.folder or Path(place) / "model")
        plan = [sys.executable, "-m", "vestige", *PLAN, f"model.repo={folder}"]
        told = {"VESTIGE_CACHE": f"{place}/cache", "VESTIGE_RESULTS": f"{place}/results"}
        first, *later = (seconds(plan, **told) for _ in range(4))
        torch = min(seconds([sys.executable, "-c", "import torch"]) for _ in range(3))
    table = [
        "# Planning on a folder of the size of Stable Diffusion 1.4",
        "",
        f"`vestige {' '.join(PLAN)} model.repo=<folder>`, a process of its own each time, no network.",
        "",
        "| what | seconds | bar |",
        "|---|---|---|",
        f"| first time: weights are hashed | {first:.1f} | |",
        f"| second time, the best of three | {min(later):.1f} | < {BAR:.0f} |",
        f"| `import torch` alone, for comparison | {torch:.1f} | |",
        "",
        f"Python {platform.python_version()} on {platform.machine()}, one thread.",
    ]
    text = "\n".join(table) + "\n"
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
