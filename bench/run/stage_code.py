"""Where the code of each kind of stage begins, beside the plugins themselves (bench/run/code.py follows it from there)."""

SEEDS = [("vestige.bench.run.seeds", "seed_word")]
DRAWING = [
    ("vestige.bench.run.generate", "draw"),
    ("vestige.bench.models.pipe", "Pipe.__call__"),
    ("vestige.bench.contract.types", "ImageSet.batches"),
]
ARTEFACT = [
    ("vestige.bench.models.pipe", "Pipe.preserved"),
    ("vestige.bench.contract.types", "Erasure.save"),
    ("vestige.bench.contract.types", "Erasure.load"),
    ("vestige.bench.run.generate", "load"),
]
TOUCHED = [("vestige.bench.contract.types", "Erasure.touched")]
SHARED = [("vestige.bench.models.pipe", "Pipe.preserved"), ("vestige.bench.run.generate", "load")]
ADVERSARY = [("vestige.bench.contract.types", "Adversary.save"), ("vestige.bench.contract.types", "Adversary.load")]
FEATURES = [("vestige.bench.vision.features", "extract"), ("vestige.bench.models.numerics", "use_reference")]
SCORING = [
    ("vestige.bench.run.generate", "load"),
    ("vestige.bench.contract.types", "Scores.save"),
    ("vestige.bench.contract.types", "Scores.load"),
    ("vestige.bench.models.numerics", "use_reference"),
]


def model_of(family: str) -> list[tuple[str, str]]:
    """How a model of this family is loaded and called; its file is found by name, so static reading needs it as a root."""
    return [("vestige.bench.models.loading", "load"), (f"vestige.bench.models.families.{family}", "FAMILY")]
