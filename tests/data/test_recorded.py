import hashlib
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.data import DataSet, ImageRecord, render_view, resolve_view, view_boxes
from pipeline.data.recorded import RecordedViews, record_views
from pipeline.errors import UserError
from pipeline.params import Views
from storage import FingerprintMismatch, IncompleteStore, open_store, verify

VIEWS = Views(per_image=3, size=(32, 48), max_objects=4, shard_views=5)


@pytest.fixture
def data(tmp_path):
    records = []
    for number in range(5):
        rng = np.random.default_rng(number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
        boxes = rng.uniform(0, 60, (2 * number, 2, 2)).astype(np.float32)
        boxes = np.sort(boxes, axis=1).reshape(-1, 4)
        flags = np.arange(len(boxes)) % 2 == 1
        records.append(ImageRecord(str(number), path, 80, 60, boxes, np.arange(len(boxes)), flags, flags))
    return DataSet("tiny", tmp_path, ("a",), {"train": tuple(records), "val": ()}, "f" * 64, {})


@pytest.fixture
def path(data, tmp_path):
    out = tmp_path / "views.zarr"
    record_views(data, "train", VIEWS, out)
    return out


def test_records_every_view_of_every_image_in_order(data, path):
    recorded = RecordedViews(path, data, "train")
    assert len(recorded) == 15
    assert recorded.records[:, 0].tolist() == np.repeat(range(5), 3).tolist()
    assert recorded.records[:, 1].tolist() == [0, 1, 2] * 5
    assert recorded.rows.tolist() == np.arange(15).reshape(5, 3).tolist()
    assert (recorded.records[:, 2:4] == [80, 60]).all()
    assert len(np.unique(recorded.records[:, 7])) == 5
    assert (recorded.size, recorded.per_image, recorded.max_objects) == ((32, 48), 3, 4)
    assert (recorded.split, recorded.fingerprint) == ("train", open_store(path).fingerprint)
    assert verify(path).ok


def test_a_replayed_view_is_the_drawn_one(data, path):
    recorded = RecordedViews(path)
    for row in range(len(recorded)):
        image, number = divmod(row, 3)
        record = data.splits["train"][image]
        stream = int.from_bytes(hashlib.sha256(record.id.encode()).digest()[:8]) >> 1
        rng = np.random.default_rng([VIEWS.seed, stream, number])
        view, drawn = recorded.view(row), resolve_view(record, image, number, VIEWS, rng)
        assert (view.image, view.number, view.flip) == (drawn.image, drawn.number, drawn.flip)
        np.testing.assert_array_equal(view.matrix, drawn.matrix)
        np.testing.assert_array_equal(view.color, drawn.color)
        pixels = recorded.render(row, record.read(), record.path)
        np.testing.assert_array_equal(pixels, render_view(record.read(), drawn, VIEWS.size))
        assert recorded.records[row, 5] == zlib.crc32(pixels.tobytes())


def test_boxes_are_those_left_in_the_view_up_to_the_most(data, path):
    recorded, raw = RecordedViews(path), open_store(path).read("boxes", range(15))
    for row in range(len(recorded)):
        record, boxes = data.splits["train"][row // 3], recorded.boxes(row)
        seen, kept = view_boxes(record, recorded.view(row), VIEWS.size)
        np.testing.assert_array_equal(boxes[:, :4], seen[kept][:4])
        np.testing.assert_array_equal(boxes[:, 4], record.labels[kept][:4])
        np.testing.assert_array_equal(boxes[:, 5], record.difficult[kept][:4])
        assert recorded.records[row, 6] == len(boxes)
        assert (raw[row, len(boxes):] == -1).all()
    assert len(recorded.boxes(12)) == 4  # the plain view of eight objects
    assert len(recorded.boxes(0)) == 0


def test_a_killed_recording_goes_on(data, path, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total, _):
        if done == 8:
            raise Killed

    out = tmp_path / "again.zarr"
    with pytest.raises(Killed):
        record_views(data, "train", VIEWS, out, kill)
    with pytest.raises(IncompleteStore):
        RecordedViews(out)
    steps = []
    record_views(data, "train", VIEWS, out, lambda done, total, _: steps.append((done, total)))
    assert steps[0] == (6, 15)  # the first shard of five was there
    one, other = RecordedViews(path), RecordedViews(out)
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.records, other.records)
    np.testing.assert_array_equal(one.boxes(12), other.boxes(12))


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"flip": 0.1}, {"scale": (0.5, 1.0, 0.1)}, {"color": 0.1}, {"size": (32, 32)},
    {"per_image": 2}])
def test_what_decides_the_views_is_in_the_fingerprint(data, path, tmp_path, change):
    out = tmp_path / "other.zarr"
    record_views(data, "train", VIEWS.model_copy(update=change), out)
    assert RecordedViews(out).fingerprint != RecordedViews(path).fingerprint


def test_what_does_not_is_not(data, path, tmp_path):
    out = tmp_path / "other.zarr"
    record_views(data, "train", VIEWS.model_copy(update={"shard_views": 3, "on_mismatch": "warn"}), out)
    assert RecordedViews(out).fingerprint == RecordedViews(path).fingerprint


def test_views_that_another_generator_drew_are_others(data, path, tmp_path, monkeypatch):
    from pipeline.data import recorded

    def other(record, image, number, params, rng):
        rng.random()
        return resolve_view(record, image, number, params, rng)

    monkeypatch.setattr(recorded, "resolve_view", other)
    record_views(data, "train", VIEWS, tmp_path / "other.zarr")
    assert RecordedViews(tmp_path / "other.zarr").fingerprint != RecordedViews(path).fingerprint


def test_other_data_and_other_stores_are_refused(data, path):
    changed = DataSet(data.name, data.root, data.classes, data.splits, "0" * 64, {})
    with pytest.raises(FingerprintMismatch, match="data is"):
        RecordedViews(path, changed)
    with pytest.raises(FingerprintMismatch, match="split is"):
        RecordedViews(path, data, "val")


def test_changed_pixels_are_an_error_or_one_warning(data, path):
    record = data.splits["train"][1]
    pixels = record.read()
    pixels[30, 40] ^= 255
    recorded = RecordedViews(path)
    with pytest.raises(UserError, match=r"1\.png: view 3 \(number 0 .* Run .* views\.on_mismatch: warn"):
        recorded.render(3, pixels, record.path)
    with pytest.warns(UserWarning, match="view 3"):
        shown = recorded.render(3, pixels, record.path, "warn")
    np.testing.assert_array_equal(shown, recorded.render(3, pixels, record.path, "warn"))


def test_a_split_without_images_is_named(data, tmp_path):
    with pytest.raises(UserError, match="split 'val' has no images"):
        record_views(data, "val", VIEWS, tmp_path / "none.zarr")
    with pytest.raises(UserError, match="'tain' is unknown"):
        record_views(data, "tain", VIEWS, tmp_path / "none.zarr")
