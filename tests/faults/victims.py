"""A server of processes to be killed: `victims.py FOLDER` reads one job per line of JSON and answers each with one.

A job is {"do": "dump" | "ensemble" | "convert", "out": path, "kill": seconds or null}. It runs in a fork of this
process, which has imported everything, so that it starts within milliseconds. The answer says how it ended, how many
seconds it took, how many views it computed and how often it studied a sample: {"killed", "seconds", "views",
"samples"}.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric

from pipeline.data import DataSet, ImageRecord
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.ensemble import building
from pipeline.ensemble.building import build_ensemble
from pipeline.inference import dump
from pipeline.models.hourglass import HourglassArch, HourglassDetector
from pipeline.params import Dump, Encodings, Ensemble, Views
from storage import conversion, open_store

IMAGES, SHARD_VIEWS = 24, 4
TEACHERS = ("large", "small")
COUNTS = "counts"
torch.set_num_threads(1)
cv2.setNumThreads(0)


def teacher(seed):
    torch.manual_seed(seed)
    arch = HourglassArch(dims=(8, 8), modules=(1, 1), stacks=1, stem_channels=8, head_channels=8)
    model = HourglassDetector("hourglass_small", 3, arch)
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def data_set(folder):
    records, flags = [], np.zeros(1, bool)
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8))
        records.append(ImageRecord(path.stem, path, 32, 32, np.array([[2, 2, 30, 20]], np.float32),
                                   np.array([number % 3]), flags, flags))
    return DataSet("demo", folder, ("cat", "dog", "cow"), {"train": tuple(records)}, "data-sha", {})


class Jobs:
    def __init__(self, folder):
        self.folder, self.data = folder, data_set(folder)
        record_views(self.data, "train", Views(per_image=2, size=(32, 32), max_objects=4), folder / "views.zarr")
        self.views = RecordedViews(folder / "views.zarr", self.data, "train")
        self.fabric = Fabric(accelerator="cpu", devices=1)

    def dump(self, out, seed=0):
        encodings = Encodings(wh_offset="exact-fp16", features="pca-4+pooled+u8-channel")
        params = Dump(batch=2, peaks=6, shard_views=SHARD_VIEWS, encodings=encodings)
        dump.dump_teacher(teacher(seed), self.data, self.views, out, params=params, teacher=TEACHERS[seed],
                          teacher_sha256=f"sha of {seed}", fabric=self.fabric)

    def ensemble(self, out):
        stores = {name: open_store(self.folder / f"{name}.zarr") for name in TEACHERS}
        build_ensemble(stores, out, params=Ensemble(teachers=list(TEACHERS), threshold=0.1))

    def convert(self, out):
        source = open_store(self.folder / f"{TEACHERS[0]}.zarr")
        conversion.convert(source, out, backend="hdf5", encodings={"wh_offset": "exact-fp16-sparse"})


def count(counts, module, name, views):
    """Writes a line to `counts` for each call: a killed process keeps no numbers."""
    real = getattr(module, name)

    def counted(*arguments, **options):
        os.write(counts, f"{name} {views(*arguments)}\n".encode())
        return real(*arguments, **options)

    setattr(module, name, counted)


def run(jobs, job):
    counts = os.open(jobs.folder / COUNTS, os.O_WRONLY | os.O_APPEND)
    count(counts, dump, "outputs", lambda _, images, *rest: len(images))
    count(counts, dump, "study_sample", lambda *_: 1)
    count(counts, building, "merge_views", lambda heatmaps, *rest: len(heatmaps))
    count(counts, conversion, "_converted", lambda *arguments: len(arguments[-1]))
    getattr(jobs, job["do"])(Path(job["out"]))


def serve(jobs, job):
    (jobs.folder / COUNTS).write_bytes(b"")
    start = time.monotonic()
    child = os.fork()
    if not child:
        try:
            run(jobs, job)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if job["kill"] is not None:
        time.sleep(job["kill"])
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = time.monotonic() - start
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"{job} ended with {code}")
    lines = [line.split() for line in (jobs.folder / COUNTS).read_text().splitlines()]
    return {"killed": code < 0, "seconds": seconds,
            "views": sum(int(views) for name, views in lines if name != "study_sample"),
            "samples": sum(name == "study_sample" for name, _ in lines)}


def main(folder):
    jobs = Jobs(folder)
    for number, name in enumerate(TEACHERS):
        child = os.fork()  # this process never computes: threads do not survive a fork
        if not child:
            jobs.dump(folder / f"{name}.zarr", number)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(jobs, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
