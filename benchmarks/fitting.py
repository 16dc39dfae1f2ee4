"""A ResNet-50 really fitted to a few images of a VOC folder at 512 px, for figures that made-up maps cannot give.

It starts from nothing, for weights that need a download are not to be had everywhere, and has to know its images by
heart within the hour on two cores. So it gets few images, views are shifted and nothing else, and it learns from
quarters of views first, which give four times as many steps for the same work, then from whole ones. What is finished
is kept in ~/.cache/centernet-distill; a killed fit goes on where it was.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.params import profiles

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "centernet-distill"
NAME, IMAGES, BATCH = "fitted", 12, 4
#: What differs from the `voc` profile.
VIEWS = {"scale": [1.0, 1.0, 0.1], "flip": 0.0, "color": 0.0, "lighting": 0.0}
#: Quarters of views, of which there are four times as many steps in an hour.
CROPS = ["views.size=[256, 256]", "views.scale=[0.5, 0.5, 0.1]"]


def teacher(steps: int, lr: float) -> dict[str, Any]:
    return {"model": "resnet50", "pretrained": False, "arch": {"deconv": [256, 128, 64]},
            "train": {"epochs": steps * BATCH // IMAGES, "batch": BATCH, "lr": lr, "optimizer": "adamw",
                      "weight_decay": 1.0e-4, "schedule": "cosine", "warmup": 0.05, "clip": 10.0, "workers": 1,
                      "log_every": 25, "checkpoint_minutes": 2}}


TEACHERS = {"crops": teacher(2000, 1e-3),
            NAME: {**teacher(120, 3e-4), "weights": "models/teachers/crops/weights.safetensors"}}


def fitted(voc: Path) -> Path:
    """A folder with data/, models/teachers/fitted and params.yaml of the `voc` profile."""
    profile = Path(profiles.__file__).with_name("voc.yaml").read_text(encoding="utf-8")
    given = f"{voc.resolve()} {IMAGES} {VIEWS} {CROPS} {TEACHERS} {profile}"
    name = hashlib.sha256(given.encode()).hexdigest()[:12]
    folder = CACHE / f"resnet50-{name}"
    if not (folder / "params.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_params(folder, voc)
    if not (folder / f"models/teachers/{NAME}/weights.safetensors").exists():
        pipeline(folder, "prepare")
        pipeline(folder, "train-teacher", "crops", *CROPS)
        pipeline(folder, "train-teacher", NAME)
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
    params.update(teachers=TEACHERS, ensembles={}, recipes={"plain": {}})
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
