"""What a dump at 512 px takes: part of `make bench-store VOC=<folder>`.

Bytes and fidelity are those of a really fitted ResNet-50; time, which weights do not change, that of one that is not
trained.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import Row, peak_memory
from fitting import IMAGES, NAME, fitted, pipeline
from numpy.typing import NDArray
from ruamel.yaml import YAML

from pipeline.data import DataSet, load_data
from pipeline.data.recorded import RecordedViews
from pipeline.devices import lone_fabric, pick_device, suited_precision
from pipeline.inference.dump import dump_teacher
from pipeline.inference.prediction import inference, predict
from pipeline.inference.rendering import rendered
from pipeline.models import Detector, build_detector, load_detector
from pipeline.params import Dump
from storage import open_store

BATCH, ROUNDS, VIEWS = 8, 5, 48
STUDENT_STEPS = 64
#: Views of an image and of a shard.
SIZES = (4, 16), (16, 16), (16, 512)
SMALLEST, *_, LARGEST = (f"{views}-{shard}" for views, shard in SIZES)
DUMP = Dump(batch=BATCH, precision=suited_precision("cuda" if torch.cuda.is_available() else "cpu"), shard_views=VIEWS)


@cache
def teacher(voc: Path) -> tuple[Path, Detector, DataSet]:
    folder = fitted(voc)
    return folder, load_detector(folder / f"models/teachers/{NAME}/weights.safetensors"), load_data(
        folder / "data/voc")


def real_maps(voc: Path, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Heatmaps and boxes of views of the training images, of which `real_rows` left some in `folder`."""
    _, model, data = teacher(voc)
    views = RecordedViews(folder / LARGEST / "targets/views.zarr", data)
    found: dict[str, list[NDArray[np.float32]]] = {"heatmap": [], "wh_offset": []}
    device = pick_device()
    with inference(model, device):
        for _, images in rendered(views, data, range(VIEWS), BATCH):
            answer = predict(model, torch.from_numpy(images).to(device).permute(0, 3, 1, 2), DUMP.precision)
            found["heatmap"].append(answer.heatmap.cpu().numpy())
            found["wh_offset"].append(torch.cat([answer.wh, answer.offset], 1).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def real_rows(voc: Path, folder: Path) -> list[Row]:
    """Bytes, fidelity, time and memory of dumps."""
    source, _, data = teacher(voc)
    rows = []
    for views, shard in SIZES:
        rows.append(Row(f"dump of {IMAGES * views} views in shards of {shard}: peak memory, GB",
                        dumped(source, folder / f"{views}-{shard}", views, shard)))
    peaks = [row.value for row in rows]
    rows.append(Row("dumps: most peak memory by least", max(peaks) / min(peaks), "<= 1.1"))
    store = folder / LARGEST / f"targets/{NAME}.zarr"
    manifest = open_store(store).manifest
    size = {name: array["bytes"] / manifest["counts"]["views"] / 1e3 for name, array in manifest["arrays"].items()}
    rows += [Row("sparse heads with peaks at 512 px, 20 classes, fitted resnet50: kB per view",
                 sum(size[name] for name in ("heatmap", "wh_offset", "peaks")), "<= 30"),
             *(Row(f"  {name}: kB per view", value) for name, value in size.items() if name != "features"),
             Row("features as by default at 512 px: kB per view", size["features"], "<= 200")]
    for steps in (0, STUDENT_STEPS):
        if steps:
            teach(folder / LARGEST, len(data.records("train")), steps)
        live = verified(folder / LARGEST, store)
        rows += [Row(f"loss from the store, share away from the exact one, at a student of {steps} steps",
                     live["loss_difference"], "<= 0.01"),
                 Row(f"gradient from the store, cosine with the exact one, at a student of {steps} steps",
                     live["gradient_cosine"], ">= 0.999")]
    rows += [Row("AP of the stored peaks (exact-fp32), points away from the live one", live["ap_difference"], "<= 0.1"),
             Row("AP of the live teacher on these views", live["ap_exact"]),
             Row("AP of boxes decoded from the maps alone, points below it", live["ap_exact"] - live["ap_maps"])]
    return rows + against_inference(data, RecordedViews(folder / SMALLEST / "targets/views.zarr", data), folder)


def dumped(source: Path, folder: Path, views: int, shard: int) -> float:
    """Dumps into a folder of its own; returns the peak memory of that process in GB."""
    folder.mkdir(parents=True)
    for name in ("data", "models/teachers"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(source / name)
    yaml = YAML()
    params = yaml.load(source / "params.yaml")
    params["views"]["per_image"] = views
    yaml.dump(params, folder / "params.yaml")
    pipeline(folder, "record-views")
    command = [sys.executable, "-m", "pipeline", "dump-teachers", NAME, f"--set=dump.batch={BATCH}",
               f"--set=dump.shard_views={shard}"]
    return peak_memory(command, folder)


def teach(folder: Path, images: int, steps: int) -> None:
    """A ResNet-18 learns from the dump."""
    pipeline(folder, "distill", "--student", "resnet18", "--recipe", NAME, f"recipes.{NAME}={{teachers: [{NAME}]}}",
             "students.resnet18.pretrained=false", "distill.train.batch=4", "distill.train.workers=0",
             "distill.train.lr=5e-4", f"distill.train.epochs={steps * 4 / images}")


def verified(folder: Path, store: Path) -> dict[str, Any]:
    """What `pipeline store verify --live` says of 48 views, at the student that is there or a new one."""
    answer = subprocess.run([sys.executable, "-m", "pipeline", "store", "verify", str(store), "--live", "48", "--json"],
                            cwd=folder, capture_output=True, text=True, check=False)
    if not answer.stdout:
        sys.exit(answer.stderr)
    return dict(json.loads(answer.stdout)["live"])


def against_inference(data: DataSet, views: RecordedViews, folder: Path) -> list[Row]:
    """A ResNet-50's dump, from reading images to files on the disk, and bare inference over the same views, in turns.

    What a dump learns from its sample before it begins is a row of its own: it does not grow with the views.
    """
    torch.manual_seed(0)
    fabric, model = lone_fabric(DUMP.precision), build_detector("resnet50", len(data.classes))
    ready = [images for _, images in rendered(views, data, range(len(views)), BATCH)]
    bare, whole, sample = [], [], []
    for turn in range(ROUNDS + 1):
        start = perf_counter()
        with inference(model, fabric.device):
            for images in ready:
                pixels = torch.from_numpy(images).to(fabric.device).permute(0, 3, 1, 2)
                [part.cpu() for part in predict(model, pixels, DUMP.precision)]
        middle = perf_counter()
        manifest = dump_teacher(model, data, views, folder / f"turn{turn}.zarr", params=DUMP, teacher="resnet50",
                                teacher_sha256=f"turn {turn}", fabric=fabric)
        if turn:  # the first one warms up
            bare.append(middle - start)
            whole.append(manifest["created"]["shard_seconds"])
            sample.append(perf_counter() - middle - whole[-1])
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    first, _, third = quantiles(ratios, n=4)
    return [Row("resnet50, not trained: dump by bare inference over the same rendered views", median(ratios), "<= 1.05",
                (third - first) / 2, ROUNDS),
            Row(f"bare inference: s for {len(views)} views", median(bare)),
            Row("before the dump begins (a sample of 16 views and their mirrors): s", median(sample))]
