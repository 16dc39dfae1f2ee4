"""A ResNet-50 really fitted to a VOC folder at 512 px, for figures that made-up maps cannot give.

It starts from nothing, for weights that need a download are not to be had everywhere, and has to know its
training images by heart within the hour: views are shifted and nothing else, the decoder is the narrow one, and
it learns at 256 px before it does at 512. What is finished is kept in ~/.cache/centernet-distill; a killed fit
goes on where it was.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centernet-distill"
#: Input size: images per step, steps, learning rate.
PHASES = {256: (8, 450, 1.0e-3), 512: (4, 600, 5.0e-4)}
#: What differs from the `voc` profile.
VIEWS = {"scale": [1.0, 1.0, 0.1], "flip": 0.0, "color": 0.0, "lighting": 0.0}
TEACHER = {"pretrained": False, "arch": {"deconv": [256, 128, 64]}}


def fitted(voc: Path) -> Path:
    """A folder with data/, models/teachers/resnet50 and params.yaml of the `voc` profile at 512 px."""
    name = hashlib.sha256(f"{voc.resolve()} {PHASES} {VIEWS} {TEACHER}".encode()).hexdigest()[:12]
    before = None
    for size, (batch, steps, lr) in PHASES.items():
        folder = CACHE / f"resnet50-{name}" / str(size)
        weights = folder / "models/teachers/resnet50/weights.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "params.yaml").exists():
                write_params(folder, voc, size, before)
            pipeline(folder, "prepare")
            images = len((folder / "data/voc/ImageSets/Main/train.txt").read_text(encoding="utf-8").split())
            epochs = max(1, round(steps * batch / images))
            train = (f"teachers.resnet50.train={{epochs: {epochs}, batch: {batch}, lr: {lr}, optimizer: adamw, "
                     "weight_decay: 1.0e-4, schedule: cosine, warmup: 0.05, clip: 10.0, workers: 1, log_every: 25, "
                     "checkpoint_minutes: 2}")
            pipeline(folder, "train-teacher", "resnet50", train)
        before = weights
    if not (folder / "targets/views.zarr/manifest.json").exists():
        pipeline(folder, "record-views")
    return folder


def write_params(folder: Path, voc: Path, size: int, weights: Path | None) -> None:
    """The profile `voc` with what differs; a file appears whole or not at all."""
    pipeline(folder, "profile", "voc", "--out=draft.yaml")
    yaml = YAML()
    params = yaml.load(folder / "draft.yaml")
    params["data"]["source"] = str(voc.resolve())
    params["views"].update(VIEWS | {"size": [size, size]})
    params["teachers"]["resnet50"] = TEACHER | {"model": "resnet50", "weights": str(weights) if weights else None}
    yaml.dump(params, folder / "draft.yaml")
    (folder / "draft.yaml").rename(folder / "params.yaml")


def pipeline(folder: Path, command: str, *rest: str) -> None:
    """Runs one command there; arguments with "=" are params."""
    words = [f"--set={word}" if "=" in word and not word.startswith("--") else word for word in rest]
    print("pipeline", command, *rest, file=sys.stderr, flush=True)
    if subprocess.run([sys.executable, "-m", "pipeline", command, *words], cwd=folder, check=False,
                      stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"Error: pipeline {command} failed in {folder}")


if __name__ == "__main__":
    print(fitted(Path(os.environ["VOC"])))
