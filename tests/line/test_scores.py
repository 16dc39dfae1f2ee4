"""The line on squares of two colours, which small networks learn by heart: scores that are no zeros."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from storage import open_store

PARAMS = """
data: {name: squares, source: scenes}
views: {per_image: 2, size: [64, 64], scale: [1.0, 1.0, 0.1], color: 0.1, lighting: 0.0, max_objects: 4}
train: &train {epochs: 30, batch: 8, lr: 1.0e-2, precision: 32-true}
teachers:
  good: &small {model: hourglass_small, arch: {dims: [16, 24], modules: [1, 1], stem_channels: 16, head_channels: 16}}
  weak: {<<: *small, train: {epochs: 5}}
dump: {batch: 8, peaks: 20}
ensembles:
  both: {teachers: [good, weak], heatmap: class-ap}
students: {small: *small}
recipes:
  both: {teachers: [good, weak], ensemble: both, ground_truth: 0.0}
distill: {students: [small], recipes: [both], train: *train}
evaluate: {latency_runs: 1}
report: {baseline: good}
screening:
  length:
    students: [small]
    recipe: both
    variations: {short: [distill.train.epochs=1], as-it-is: []}
"""
STEPS = (["prepare"], ["record-views"], ["train-teacher", "good"], ["train-teacher", "weak"], ["evaluate"],
         ["dump-teachers"], ["build-ensemble"], ["distill"], ["evaluate"])
OBJECT = ("<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
          "</object>")
IMAGE = ("<annotation><filename>{}.png</filename><size><width>64</width><height>64</height><depth>3</depth></size>{}"
         "</annotation>")


def write_scenes(folder):
    """A red and a green rectangle beside each other on noise, in each image."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, count in {"train": 16, "val": 6, "test": 6}.items():
        names = [f"{split}{number}" for number in range(count)]
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for name in names:
            pixels, objects = rng.integers(60, 100, (64, 64, 3), np.uint8), ""
            for left, channel in zip((2, 34), rng.permutation(2), strict=True):
                (width, height), x, y = rng.integers(14, 28, 2), left + rng.integers(3), rng.integers(2, 34)
                pixels[y : y + height, x : x + width, channel] = 255
                objects += OBJECT.format(("red", "green")[channel], x + 1, y + 1, x + width, y + height)
            Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.png")
            (folder / f"Annotations/{name}.xml").write_text(IMAGE.format(name, objects))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, pipeline):
    """A folder in which a teacher knows the squares, another one less of them, and a student what they said."""
    folder = tmp_path_factory.mktemp("squares")
    write_scenes(folder / "scenes")
    (folder / "params.yaml").write_text(PARAMS)
    for step in STEPS:
        pipeline(*step, folder=folder)
    return folder


@pytest.fixture
def squares(learnt, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(learnt, tmp_path / "squares", symlinks=True)
    return tmp_path / "squares"


def scores(folder, model):
    return json.loads((folder / f"results/{model}/metrics.json").read_text())


def heatmaps(folder, name):
    store = open_store(folder / f"targets/{name}.zarr")
    return store.decode("heatmap", store.read("heatmap", range(len(store))))


def test_what_was_learnt_is_found_again(learnt):
    good, weak = (scores(learnt, f"teachers/{name}") for name in ("good", "weak"))
    for metrics in (good, good["val"], good["train"]):
        assert min(metrics["map_area"], metrics["map07"], *metrics["per_class"].values()) > 80
        assert metrics["ap"] > 25
    assert 0 < weak["map_area"] < good["map_area"] - 5


def test_a_student_of_teachers_alone_finds_what_they_know(learnt):
    assert scores(learnt, "ensembles/both")["map_area"] > 80
    assert scores(learnt, "students/small/both/seed0")["map_area"] > 50


def test_class_ap_is_that_of_val_and_weighs_the_teachers(learnt):
    store = open_store(learnt / "targets/ensemble-both.zarr")
    found = store.spec.identity["class_ap"]
    for name in ("good", "weak"):
        assert found[name] == pytest.approx(scores(learnt, f"teachers/{name}")["val"]["per_class"], abs=0.006)
    assert found["good"] != found["weak"]
    ap = np.array([[found[name][one] for one in store.spec.identity["classes"]] for name in ("good", "weak")])
    share = (ap / ap.sum(0))[:, None, :, None, None]
    said = np.stack([heatmaps(learnt, name) for name in ("good", "weak")])
    merged = heatmaps(learnt, "ensemble-both")
    np.testing.assert_allclose(merged, (share * said).sum(0), atol=0.01)
    assert np.abs(merged - said.mean(0)).max() > 0.02


def test_no_rule_is_the_mean_of_teachers_that_differ(squares, pipeline):
    built = {"class-ap": heatmaps(squares, "ensemble-both")}
    for kind in ("mean", "max", "confidence", "agreement"):
        pipeline("build-ensemble", "--set", f"ensembles.both.heatmap={kind}", folder=squares)
        built[kind] = heatmaps(squares, "ensemble-both")
    mean = built.pop("mean")
    for kind, heatmap in built.items():
        assert np.abs(heatmap - mean).max() > 0.02, kind


def test_a_screening_ranks_by_the_score(squares, pipeline):
    answer = json.loads(pipeline("study", "screen", "length", "--json", folder=squares))["length"]["small"]
    assert list(answer) == ["as-it-is", "short"]
    assert answer["as-it-is"] == scores(squares, "students/small/both/seed0")["val"]["map_area"]
    assert answer["as-it-is"] > answer["short"] + 20
