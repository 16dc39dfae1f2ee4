"""Students of a data set that has images without labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data import DataSet
from pipeline.data.dataset import UNLABELLED
from pipeline.data.loading import Batches
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import growable, record_views
from pipeline.losses import GroundTruthLoss
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe, Views
from pipeline.targets import open_targets

SPLIT = f"train+{UNLABELLED}"
VIEWS = Views(per_image=3, size=(32, 32), max_objects=5)
TAUGHT = Recipe(teachers=["small"], unlabelled=True)


@pytest.fixture
def labelled(data) -> DataSet:
    """The four images with labels, as a data set of their own."""
    return replace(data, splits={"train": data.splits["train"][:4]}, fingerprint="e" * 64)


@pytest.fixture
def data(data) -> DataSet:
    """Four images with labels, two without."""
    train, none = data.splits["train"], np.empty(0)
    without = [replace(one, boxes=none.reshape(0, 4), labels=none, difficult=none, truncated=none, labelled=False)
               for one in train[4:]]
    return replace(data, splits={"train": train[:4], UNLABELLED: tuple(without)})


@pytest.fixture
def views(data, tmp_path):
    record_views(data, SPLIT, VIEWS, tmp_path / "views.zarr")
    return tmp_path / "views.zarr"


@pytest.fixture
def recorded(views, data):
    return RecordedViews(views, data, SPLIT)


def answer(batch=6):
    torch.manual_seed(0)
    shapes = {"heatmap": 2, "wh": 2, "offset": 2, "features": 6}
    return DenseOutputs(**{name: torch.randn(batch, planes, 8, 8) for name, planes in shapes.items()})


class Student:
    class config:
        model, stride, feature_channels = "tiny", 4, 6


def test_views_are_recorded_of_both_and_have_boxes_of_the_labelled_alone(data, recorded):
    assert (len(recorded), recorded.split) == (18, SPLIT)
    assert [len(recorded.boxes(3 * image)) for image in range(6)] == [0, 1, 2, 0, 0, 0]
    for row in (0, 17):
        record = data.records(SPLIT)[recorded.view(row).image]
        assert recorded.render(row, record.read, record.path).shape == (32, 32, 3)


def test_views_grow_by_images_without_labels(data, labelled, tmp_path):
    record_views(labelled, "train", VIEWS, tmp_path / "small.zarr")
    old = growable(tmp_path / "small.zarr", data, SPLIT, VIEWS)
    assert len(old) == 12
    record_views(data, SPLIT, VIEWS, tmp_path / "large.zarr", old=old)
    grown = RecordedViews(tmp_path / "large.zarr", data, SPLIT)
    assert grown.grown_from == {old.fingerprint: 12}
    np.testing.assert_array_equal(grown.records[:12], old.records)


def test_views_whose_labels_are_withheld_now_are_recorded_again(data, labelled, tmp_path):
    record_views(labelled, "train", VIEWS, tmp_path / "old.zarr")
    first, second, *others = data.splits["train"]
    fewer = replace(second, boxes=second.boxes[:0], labels=second.labels[:0], difficult=second.difficult[:0],
                    truncated=second.truncated[:0], labelled=False)
    changed = replace(data, splits={"train": (first, *others), UNLABELLED: (fewer,)})
    assert growable(tmp_path / "old.zarr", changed, SPLIT, VIEWS) is None


def test_a_student_without_them_sees_what_it_would_see_if_there_were_none(data, labelled, recorded, tmp_path):
    record_views(labelled, "train", VIEWS, tmp_path / "labelled.zarr")
    alone = open_targets({}, Recipe(), labelled, RecordedViews(tmp_path / "labelled.zarr")).source(seed=3)
    plain = open_targets({}, Recipe(), data, recorded).source(seed=3)
    for epoch in range(3):
        items = [(index, epoch) for index in range(4)]
        one, other = alone.fetch(items), plain.fetch(items)
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
    assert len(plain) == 4


def test_a_student_with_them_sees_every_image_once_an_epoch(data, recorded, two_teachers):
    source = open_targets(two_teachers, TAUGHT, data, recorded).source(seed=0)
    batches = list(Batches(source, batch=3, epochs=2, seed=0).iterate())
    for epoch in (batches[:2], batches[2:]):
        rows = torch.cat([batch["view"] for batch in epoch])
        assert sorted((rows // 3).tolist()) == [0, 1, 2, 3, 4, 5]
        assert torch.equal(torch.cat([batch["labelled"] for batch in epoch]), rows < 12)


def test_ground_truth_counts_the_labelled_and_distillation_all(data, recorded, two_teachers):
    targets = open_targets(two_teachers, TAUGHT, data, recorded)
    arrays = targets.source(seed=0).fetch([(index, 0) for index in range(6)])
    batch = targets.on_device({name: torch.from_numpy(array) for name, array in arrays.items()})
    objective, outputs = targets.objective(Student()), answer()
    terms = objective([outputs], batch)
    alone = GroundTruthLoss()([DenseOutputs(*(part[:4] for part in outputs))], {
        name: batch[name][:4] for name in ("heatmap", "wh", "offset", "indices", "mask")})
    for name, term in alone.items():
        assert terms[name].item() == pytest.approx(term.item())
    other = DenseOutputs(*(torch.cat([part[:4], part[4:] + 1]) for part in outputs))
    for name, term in objective([other], batch).items():
        assert (name in alone) == (term.item() == pytest.approx(terms[name].item())), name
