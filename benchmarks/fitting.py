"""A teacher really fitted to a few images of a VOC folder at 512 px, for figures that made-up maps cannot give.

It starts from nothing, for weights that need a download are not to be had everywhere, and has to know its images
by heart within the hour on two cores. So it gets few images, views are shifted and nothing else, and it is
`hourglass_small`, which learns several times faster than a ResNet-50 (docs/decisions/0003-store.md). What is finished
is kept in ~/.cache/centernet-distill; a killed fit goes on where it was. MODEL=resnet50 STEPS=20000 fits another one
where there is a GPU.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centernet-distill"
MODEL, STEPS = os.environ.get("MODEL") or "hourglass_small", int(os.environ.get("STEPS") or 1200)
NAME, IMAGES, BATCH = "fitted", 32, 4
#: What differs from the `voc` profile.
VIEWS = {"scale": [1.0, 1.0, 0.1], "flip": 0.0, "color": 0.0, "lighting": 0.0}
TEACHER = {
    "model": MODEL,
    "train": {"epochs": STEPS * BATCH // IMAGES, "batch": BATCH, "lr": 1.0e-3, "optimizer": "adamw",
              "weight_decay": 1.0e-4, "schedule": "cosine", "warmup": 0.05, "clip": 10.0, "workers": 1, "log_every": 25,
              "checkpoint_minutes": 2},
}


def fitted(voc: Path) -> Path:
    """A folder with data/, targets/views.zarr, models/teachers/fitted and params.yaml of the `voc` profile."""
    name = hashlib.sha256(f"{voc.resolve()} {IMAGES} {VIEWS} {TEACHER}".encode()).hexdigest()[:12]
    folder = CACHE / f"{MODEL}-{name}"
    if not (folder / "params.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_params(folder, voc)
    if not (folder / f"models/teachers/{NAME}/weights.safetensors").exists():
        pipeline(folder, "prepare")
        pipeline(folder, "train-teacher", NAME)
    if not (folder / "targets/views.zarr/manifest.json").exists():
        pipeline(folder, "record-views")
    return folder


def write_params(folder: Path, voc: Path) -> None:
    """The profile `voc` with what differs, all but IMAGES held out; a file appears whole or not at all."""
    pipeline(folder, "profile", "voc", "--out=draft.yaml")
    yaml = YAML()
    params = yaml.load(folder / "draft.yaml")
    pipeline(folder, "prepare", "--params=draft.yaml", f"data.source={voc.resolve()}")
    images = len((folder / "data/voc/ImageSets/Main/train.txt").read_text(encoding="utf-8").split())
    params["data"].update(source=str(voc.resolve()), val_fraction=max(0.0, 1 - IMAGES / images))
    params["views"].update(VIEWS)
    params.update(teachers={NAME: TEACHER}, ensembles={}, recipes={"plain": {}})
    params["distill"]["recipes"], params["report"]["baseline"] = ["plain"], NAME
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
