"""Where the emoji world keeps its shipped files, and where training writes before anything is shipped."""

from pathlib import Path

from vestige.bench.places import cache

HERE = Path(__file__).parents[1]
SPRITES = HERE / "sprites"
SHEET = SPRITES / "sheet.png"

WEIGHTS = HERE / "weights"
GENERATOR = WEIGHTS / "generator"
ORACLES = WEIGHTS / "oracles"
JUDGE_A = WEIGHTS / "judge_a.safetensors"
JUDGE_B = WEIGHTS / "judge_b.safetensors"
CLIP = WEIGHTS / "clip_emoji"

CARD = HERE / "MODEL_CARD.md"
CONTACT_SHEET = HERE / "contact_sheet.png"

# Checkpoints and caches of a training in progress: outside the project, so that a fresh clone resumes them.
WORK = cache() / "world"


def oracle(concept: str, seed: int = 0) -> Path:
    """The denoiser that was retrained without `concept` (an object, style or group slug). Only those of seed 0 are shipped."""
    return (ORACLES if seed == 0 else WEIGHTS / f"oracles_seed{seed}") / concept / "unet.safetensors"
