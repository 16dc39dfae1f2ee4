"""A ResNet-50 really fitted to a VOC folder at 512 px, for figures that made-up maps cannot give.

It starts from nothing, for weights that need a download are not to be had everywhere, and so learns at 128 px
first, then at 256 and 512: about 40 minutes on two cores for the 60 training images of voc100. What is finished
is kept in ~/.cache/centernet-distill; a killed fit goes on where it was.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centernet-distill"
#: Input size: images per step, steps, learning rate.
PHASES = {128: (16, 1500, 1.0e-3), 256: (8, 450, 5.0e-4), 512: (6, 150, 2.5e-4)}


def fitted(voc: Path) -> Path:
    """A folder with data/, models/teachers/resnet50 and params.yaml of the `voc` profile at 512 px."""
    name = hashlib.sha256(f"{voc.resolve()} {PHASES}".encode()).hexdigest()[:12]
    before = None
    for size, (batch, steps, lr) in PHASES.items():
        folder = CACHE / f"resnet50-{name}" / str(size)
        weights = folder / "models/teachers/resnet50/weights.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            given = [f"data.source={voc.resolve()}", "teachers.resnet50.pretrained=false",
                     f"views.size=[{size}, {size}]"]
            if before:
                given.append(f"teachers.resnet50.weights={before}")
            if not (folder / "params.yaml").exists():
                pipeline(folder, "profile", "voc")
            pipeline(folder, "prepare", *given)
            images = len((folder / "data/voc/ImageSets/Main/train.txt").read_text(encoding="utf-8").split())
            epochs = max(1, round(steps * batch / images))
            train = (f"teachers.resnet50.train={{epochs: {epochs}, batch: {batch}, lr: {lr}, optimizer: adamw, "
                     "weight_decay: 1.0e-4, schedule: cosine, warmup: 0.05, clip: 10.0, workers: 1, log_every: 25, "
                     "checkpoint_minutes: 2}")
            pipeline(folder, "train-teacher", "resnet50", *given, train)
        before = weights
    if not (folder / "targets/views.zarr/manifest.json").exists():
        pipeline(folder, "record-views")
    return folder


def pipeline(folder: Path, command: str, *rest: str) -> None:
    """Runs one command there; arguments with "=" are params."""
    words = [f"--set={word}" if "=" in word else word for word in rest]
    print("pipeline", command, *rest, file=sys.stderr, flush=True)
    if subprocess.run([sys.executable, "-m", "pipeline", command, *words], cwd=folder, check=False,
                      stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"Error: pipeline {command} failed in {folder}")


if __name__ == "__main__":
    print(fitted(Path(os.environ["VOC"])))
