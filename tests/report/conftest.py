import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pipeline.data import DataSet
from pipeline.data.dataset import ImageRecord
from pipeline.params import Params
from pipeline.report.results import Result, Results
from pipeline.report.study import Study

BOTH = "resnet50+hourglass_small"


def params_tree():
    return {
        "profile": "demo",
        "data": {"name": "demo"},
        "views": {"size": [32, 32]},
        "teachers": {"resnet50": {"model": "resnet50"}, "hourglass_small": {"model": "hourglass_small"}},
        "ensembles": {"both": {"teachers": ["resnet50", "hourglass_small"]}},
        "students": {
            "resnet18": {"model": "resnet18"},
            "mobilenet_v2": {"model": "mobilenet_v2", "arch": {"deconv": [128, 64, 64]}},
        },
        "recipes": {
            "plain": {},
            "resnet50": {"teachers": ["resnet50"]},
            BOTH: {"teachers": ["resnet50", "hourglass_small"], "ensemble": "both", "weights": [100, 1, 0.1, 10]},
            f"{BOTH}-paper": {
                "teachers": ["resnet50", "hourglass_small"], "ensemble": "both", "weights": "table4-1",
            },
        },
        "distill": {"students": ["resnet18"], "recipes": ["plain"]},
        "report": {"images": 2, "score": 0.05},
    }


@pytest.fixture
def tree():
    """A params.yaml to change before it is checked."""
    return params_tree()


def metrics(score, **about):
    """A metrics.json around one number."""
    return {
        **about, "data": "demo", "map_area": score, "map07": score - 1, "ap": score / 2, "ap75": score / 3,
        "per_class": {"cat": score + 5, "dog": score - 5}, "params": 4_000_000, "macs": 2_000_000_000,
        "latency_ms": 10.0, "passes": 24000, "seconds": 300.0, "fingerprint": "f",
        "val": {"map_area": score + 1, "per_class": {"cat": score + 1, "dog": score + 1}},
        "train": {"map_area": score + 20} if about["kind"] == "teacher" else None,
        "unseen": {"map_area": score / 2, "map07": score / 2, "ap": 1.0, "ap75": 1.0, "per_class": {}},
    }


def teacher(name, score, **changes):
    return metrics(score, kind="teacher", teacher=name, recipe=None, seed=None) | changes


def student(name, recipe, seed, score, **changes):
    return metrics(score, kind="student", student=name, recipe=recipe, seed=seed) | changes


@pytest.fixture
def teacher_metrics():
    return teacher


@pytest.fixture
def student_metrics():
    return student


def record(name, path="", boxes=1):
    box = np.array([[2, 3, 20, 24]] * boxes, np.float32)
    return ImageRecord(name, path, 40, 30, box, np.arange(boxes) % 2, np.arange(boxes) > 0, np.zeros(boxes, bool))


@pytest.fixture
def study(tree):
    """A Study from {(student, recipe): [map_area of seed 0, 1, …]}, {teacher: map_area} and {ensemble: map_area}."""

    def make(students, teachers=None, changes=None, ensembles=None, **metric_changes):
        params = Params.model_validate_json(json.dumps(tree | (changes or {})))
        known = teachers if teachers is not None else {"resnet50": 60.0, "hourglass_small": 80.0}
        splits = {split: (record(split),) for split in ("train", "test", "unseen")}
        runs = {
            (name, recipe): {
                seed: Result.model_validate(student(name, recipe, seed, score, **metric_changes))
                for seed, score in enumerate(scores)
            }
            for (name, recipe), scores in students.items()
        }
        results = Results(
            teachers={name: Result.model_validate(teacher(name, score)) for name, score in known.items()}, runs=runs,
            ensembles={name: Result.model_validate(metrics(score, kind="ensemble", ensemble=name))
                       for name, score in (ensembles or {}).items()},
        )
        data = DataSet("demo", "data/demo", ("cat", "dog"), splits, "0123456789abcdef0", {"licence": "CC BY-SA 4.0"})
        return Study(params, results, data)

    return make


@pytest.fixture
def papers_study(study):
    """A `study` of VOC07+12 at 512 px, if in name and number alone."""

    def make(students):
        found = study(students, changes={"views": {"size": [512, 512]},
                                         "data": {"name": "demo", "source": "/data/VOCdevkit"}})
        data = replace(found.data, classes=tuple(map(str, range(20))), splits={"train": (record("train"),) * 16_551})
        return replace(found, data=data)

    return make


@pytest.fixture
def project(tmp_path, make_project):
    """(params, root) of a project of its own."""
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def make_project():
    """Makes a folder with data, results and logs of both teachers and of ResNet-18 in two recipes."""
    return write_project


def write_project(tmp_path):
    from pipeline.data.prepare import prepare

    params = Params.model_validate_json(json.dumps(params_tree()))
    source = tmp_path / "source"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (source / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1), ("test", 3), ("unseen", 1)):
        names = [f"{split}{place}" for place in range(count)]
        (source / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
            cv2.imwrite(str(source / "JPEGImages" / f"{name}.jpg"), pixels)
            objects = "".join(
                f"<object><name>{cls}</name><difficult>{difficult}</difficult><bndbox><xmin>3</xmin><ymin>{top}</ymin>"
                f"<xmax>20</xmax><ymax>{top + 9}</ymax></bndbox></object>"
                for cls, top, difficult in (("cat", 2, 0), ("dog", 15, 1))
            )
            (source / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename><size><width>40</width><height>30</height>"
                f"<depth>3</depth></size>{objects}</annotation>"
            )
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    prepare(params.data.model_copy(update={"source": str(source)}), root / "data" / "demo")
    write_results(root)
    return params, root


def write_results(root):
    for name, score in (("resnet50", 60.0), ("hourglass_small", 80.0)):
        write(root, f"teachers/{name}", teacher(name, score), ["heatmap", "wh", "offset"])
    for recipe, scores in (("plain", (40.0, 42.0)), (BOTH, (45.0, 46.0))):
        terms = ["heatmap", "wh", "offset"]
        terms += [] if recipe == "plain" else ["kd_heatmap", "kd_wh", "kd_offset", "kd_features"]
        for seed, score in enumerate(scores):
            write(root, f"students/resnet18/{recipe}/seed{seed}", student("resnet18", recipe, seed, score), terms)


def write(root, place, content, terms):
    (root / "results" / place).mkdir(parents=True)
    (root / "results" / place / "metrics.json").write_text(json.dumps(content))
    (root / "models" / place).mkdir(parents=True)
    lines = [",".join(["step", "epoch", "lr", "loss", *terms, "grad_norm/heatmap"])]
    for step in (10, 20, 30):
        lines.append(",".join([str(step), str(step / 5), "0.001", "3", *(str(1 / step) for _ in terms), ""]))
    (root / "models" / place / "log.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def add_weights():
    """Puts small untrained detectors where a project keeps its weights."""
    from pipeline.models import build_detector, save_detector

    def add(root, places):
        torch.manual_seed(0)
        arch = {"dims": [8, 8], "modules": [1, 1], "stacks": 1, "stem_channels": 8, "head_channels": 8}
        for place in places:
            model = build_detector("hourglass_small", 2, **arch)
            save_detector(model, root / "models" / place / "weights.safetensors", ["cat", "dog"])

    return add
