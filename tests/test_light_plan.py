"""`vestige plan` reads settings and files: what only a run needs is not imported, so that it answers in seconds."""

import subprocess
import sys

from newcomer import environment_for

from vestige.bench.places import CHECKOUT
from vestige.bench.vision import listings

HEAVY = {"open_clip", "torchvision", "scipy.stats", "transformers", "diffusers", "timm"}


def test_a_plan_imports_no_network_library():
    words = ["plan", "model=sd14", "model.repo=bench/world/weights/generator", "method=uce", "concept=dog"]
    code = (
        f"import sys; from vestige.bench.cli import main; main({words!r}); print('imported:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment_for(None), capture_output=True, text=True)
    assert "clip='ViT-H-14/laion2b_s32b_b79k': its weights are neither" in done.stdout, "the plan asks for published weights"
    assert "imported: []" in done.stdout, done.stdout[-400:] + done.stderr[-400:]


def test_lists_are_those_of_the_packages():
    import open_clip
    from torchvision.models import ResNet50_Weights

    assert listings.imagenet_classes() == ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    assert listings.open_clip_models() == sorted(open_clip.list_models())
    published = listings.open_clip_weights()
    for name in ("ViT-B-32", "ViT-H-14", "nonsense"):
        tags = open_clip.list_pretrained_tags_by_model(name)
        assert published.list_pretrained_tags_by_model(name) == tags
        assert [published.get_pretrained_cfg(name, tag) for tag in tags] == [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
