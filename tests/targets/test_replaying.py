import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data import encode_targets
from pipeline.data.loading import Batches
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.errors import UserError
from pipeline.params import Views
from pipeline.targets import ReplayedViews
from storage import open_store


def replayed(data, recorded, stores=None, **changes):
    options = {"arrays": {}, "size": recorded.size, "stride": 4, "unlabelled": False, "flip": False, "seed": 0,
               "on_mismatch": "error", "cache_mb": 1024}
    return ReplayedViews(data, recorded, stores or {}, **(options | changes))


@given(st.integers(0, 5), st.integers(0, 20), st.integers(0, 2**32 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_v_epochs_show_each_view_once(data, recorded, index, cycle, seed):
    source = replayed(data, recorded, seed=seed)
    rows = [source.row(index, epoch) for epoch in range(3 * cycle, 3 * cycle + 3)]
    assert sorted(rows) == [3 * index, 3 * index + 1, 3 * index + 2]


def test_orders_differ_between_images_cycles_and_seeds(data, recorded):
    def orders(seed):
        source = replayed(data, recorded, seed=seed)
        return [source.row(index, epoch) % 3 for index in range(6) for epoch in range(12)]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    by_image = np.reshape(orders(0), (6, 4, 3))
    assert len(np.unique(by_image, axis=0)) > 1
    assert len(np.unique(by_image.reshape(-1, 3), axis=0)) > 1


def test_a_batch_holds_the_recorded_views(data, recorded):
    source = replayed(data, recorded)
    items = [(index, epoch) for index in range(6) for epoch in range(3)]
    batch = source.fetch(items)
    for place, (index, epoch) in enumerate(items):
        row = source.row(index, epoch)
        record = data.splits["train"][index]
        assert batch["view"][place] == row
        pixels = recorded.render(row, record.read, record.path)
        np.testing.assert_array_equal(batch["image"][place], pixels.transpose(2, 0, 1))
        boxes = recorded.boxes(row)
        expected = encode_targets(boxes[:, :4] / 4, boxes[:, 4], 2, (8, 8), 5)
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name][place], array)


def test_codes_belong_to_the_view_beside_them(data, recorded, two_teachers):
    stores = {name: open_store(path) for name, path in two_teachers.items()}
    source = replayed(data, recorded, stores, arrays={"ensemble": ["heatmap"], "large": ["features"]})
    batch = source.fetch([(4, 1), (0, 0), (4, 2)])
    assert "small/features" not in batch
    for place, row in enumerate(batch["view"]):
        for key, codes in batch.items():
            if "/" in key:
                name, array = key.split("/")
                np.testing.assert_array_equal(codes[place], stores[name].read(array, [row])[0])
    assert batch["large/features"].dtype == np.float16


def test_each_array_is_read_once_per_batch(data, recorded, two_teachers):
    class Counting:
        def __init__(self, store):
            self.store, self.reads = store, []

        def read(self, array, rows):
            self.reads.append((array, len(rows)))
            return self.store.read(array, rows)

    store = Counting(open_store(two_teachers["small"]))
    source = replayed(data, recorded, {"small": store}, arrays={"small": ["heatmap", "features"]})
    source.fetch([(index, 0) for index in range(6)])
    assert store.reads == [("heatmap", 6), ("features", 6)]


def test_plain_and_distilled_students_see_the_same(data, recorded, two_teachers):
    stores = {"small": open_store(two_teachers["small"])}
    plain = replayed(data, recorded, seed=3)
    taught = replayed(data, recorded, stores, arrays={"small": ["heatmap"]}, seed=3)
    one, other = (next(Batches(source, batch=4, epochs=1, seed=0).iterate()) for source in (plain, taught))
    assert set(other) - set(one) == {"small/heatmap"}
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_pickled_source_goes_on_reading(data, recorded, two_teachers):
    stores = {"small": open_store(two_teachers["small"])}
    source = replayed(data, recorded, stores, arrays={"small": ["peaks"]})
    here, there = source.fetch([(1, 0), (2, 5)]), pickle.loads(pickle.dumps(source)).fetch([(1, 0), (2, 5)])
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_read_of_open_stores_what_one_process_reads(data, recorded, two_teachers, start_method):
    start_method("fork")
    stores = {name: open_store(path) for name, path in two_teachers.items()}
    source = replayed(data, recorded, stores, arrays={"ensemble": ["heatmap", "peaks"], "large": ["features"]},
                           flip=True)
    alone, shared = (Batches(source, batch=2, epochs=12, seed=0, workers=number) for number in (0, 2))
    expected = list(alone.iterate())  # so that descriptors are open when the fork comes
    found = list(shared.iterate())
    assert len(found) == len(expected) == 36
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys() > {"ensemble/heatmap", "ensemble/peaks", "large/features"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_changed_image_is_noticed(data, views):
    from PIL import Image

    path = data.splits["train"][2].path
    Image.new("RGB", (50, 40)).save(path)
    with pytest.raises(UserError, match=r"2\.png: view [678] .* other pixels"):
        replayed(data, RecordedViews(views)).fetch([(1, 0), (2, 0)])
    with pytest.warns(UserWarning, match=r"2\.png"):
        replayed(data, RecordedViews(views), on_mismatch="warn").fetch([(2, 0), (2, 1)])


@pytest.mark.parametrize("image", [None, "raw", "jpeg"])
def test_a_changed_image_is_noticed_by_a_student_of_another_size(data, tmp_path, image):
    from PIL import Image

    path = tmp_path / "kept.zarr"
    record_views(data, "train", Views(per_image=3, size=(32, 32), max_objects=5, image=image), path)
    recorded = RecordedViews(path)
    replayed(data, recorded, size=(48, 48)).fetch([(2, 0)])
    Image.new("RGB", (50, 40)).save(data.splits["train"][2].path)
    with pytest.raises(UserError, match=r"2\.png: view [678] .* other pixels"):
        replayed(data, recorded, size=(48, 48)).fetch([(2, 0)])


@pytest.mark.parametrize(("array", "term"), [
    ("heatmap", "kd_heatmap"), ("peaks", "kd_wh"), ("features", "kd_features")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_that_are_not_finite_are_named(data, recorded, two_teachers, array, term, value):
    class Broken:
        def __init__(self, store):
            self.store, self.path = store, store.path

        def read(self, array, rows):
            codes = self.store.read(array, rows).copy()
            codes[np.array(rows) == 4, 0] = value
            return codes

    source = replayed(data, recorded, {"large": Broken(open_store(two_teachers["large"]))},
                           arrays={"large": [array]})
    source.fetch([(0, 0)])
    items = [(index, epoch) for index in (0, 1) for epoch in range(3)]
    batch = [source.row(*item) for item in items]
    with pytest.raises(UserError, match=rf"large\.zarr: '{array}', the target of {term}.*views \[4\] of") as caught:
        source.fetch(items)
    assert f"of the batch {batch};" in str(caught.value)


def test_views_are_mirrored_anew_in_each_epoch(data, recorded):
    source = ReplayedViews(data, recorded, {}, arrays={}, size=recorded.size, stride=4, unlabelled=False, flip=True,
                           seed=0, on_mismatch="error", cache_mb=1)
    turned = np.array([[source.mirrored(index, epoch) for epoch in range(40)] for index in range(6)])
    assert 0.3 < turned.mean() < 0.7
    assert len(np.unique(turned, axis=0)) == 6
    assert ((turned.mean(1) > 0) & (turned.mean(1) < 1)).all()
