import hashlib
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.data import DataSet, ImageRecord, render_view, resolve_view, view_boxes
from pipeline.data.pixels import pack, unpack
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import growable, older_views, record_views
from pipeline.errors import UserError
from pipeline.params import Views
from storage import CorruptStore, FingerprintMismatch, IncompleteStore, create_store, open_store, verify

VIEWS = Views(per_image=3, size=(32, 48), max_objects=4, shard_views=5)


@pytest.fixture
def make_record(tmp_path):
    """An image of noise with as many boxes as twice its number says."""

    def make(number):
        rng = np.random.default_rng(number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
        boxes = rng.uniform(0, 60, (2 * number, 2, 2)).astype(np.float32)
        boxes = np.sort(boxes, axis=1).reshape(-1, 4)
        flags = np.arange(len(boxes)) % 2 == 1
        return ImageRecord(str(number), path, 80, 60, boxes, np.arange(len(boxes)), flags, flags)

    return make


@pytest.fixture
def data(make_record, tmp_path):
    records = tuple(make_record(number) for number in range(5))
    return DataSet("tiny", tmp_path, ("a",), {"train": records, "val": ()}, "f" * 64, {})


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
    assert (recorded.split, recorded.data) == ("train", data.fingerprint)
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
        pixels = recorded.render(row, record.read, record.path)
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
    from pipeline.data import recording

    def other(record, image, number, params, rng):
        rng.random()
        return resolve_view(record, image, number, params, rng)

    monkeypatch.setattr(recording, "resolve_view", other)
    record_views(data, "train", VIEWS, tmp_path / "other.zarr")
    assert RecordedViews(tmp_path / "other.zarr").fingerprint != RecordedViews(path).fingerprint


def test_the_same_views_of_other_pixels_are_others(data, path, tmp_path):
    """As another version of OpenCV gives them: what teachers said of the old ones is not of these."""
    Image.new("RGB", (80, 60)).save(data.splits["train"][2].path)
    record_views(data, "train", VIEWS, tmp_path / "other.zarr")
    assert open_store(tmp_path / "other.zarr").fingerprint == open_store(path).fingerprint
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
        recorded.render(3, lambda: pixels, record.path)
    with pytest.warns(UserWarning, match="view 3"):
        shown = recorded.render(3, lambda: pixels, record.path, "warn")
    np.testing.assert_array_equal(shown, recorded.render(3, lambda: pixels, record.path, "warn"))


def test_a_split_without_images_is_named(data, tmp_path):
    with pytest.raises(UserError, match="split 'val' has no images"):
        record_views(data, "val", VIEWS, tmp_path / "none.zarr")
    with pytest.raises(UserError, match="'tain' is unknown"):
        record_views(data, "tain", VIEWS, tmp_path / "none.zarr")


def grown(old, data, params, out):
    """Records views with an older store to grow from, which has to fit."""
    kept = growable(old, data, "train", params)
    assert kept is not None
    record_views(data, "train", params, out, old=kept)
    assert verify(out).ok
    return RecordedViews(out, data, "train", params), RecordedViews(old)


def with_images(data, more, fingerprint="e" * 64):
    """The data set with one more image before, and one between the others."""
    first, *rest = data.splits["train"]
    before, between = more
    return DataSet("tiny", data.root, ("a",), {"train": (before, first, between, *rest)}, fingerprint, {})


@pytest.fixture
def more_images(make_record):
    return [make_record(10), make_record(11)]


def by_view(recorded, data):
    """{(id, number): (matrix, color, crc, boxes)}"""
    names = [record.id for record in data.splits["train"]]
    return {(names[image], number): (recorded.matrix[row].tolist(), recorded.color[row].tolist(),
                                     int(recorded.records[row, 5]), recorded.boxes(row).tolist())
            for row, (image, number) in enumerate(recorded.records[:, :2].tolist())}


@pytest.mark.parametrize("form", [None, "raw", "jpeg"])
def test_more_views_and_images_come_after_the_older_ones(data, more_images, tmp_path, form):
    few = VIEWS.model_copy(update={"image": form})
    record_views(data, "train", few, tmp_path / "views.zarr")
    larger, params = with_images(data, more_images), few.model_copy(update={"per_image": 4, "shard_views": 7})
    new, old = grown(tmp_path / "views.zarr", larger, params, tmp_path / "grown.zarr")
    assert (len(new), new.per_image, new.rows.shape) == (28, 4, (7, 4))
    one, other = open_store(tmp_path / "views.zarr"), open_store(tmp_path / "grown.zarr")
    for name in ("matrix", "color", "boxes", *(["image"] if form else [])):
        np.testing.assert_array_equal(one.read(name, range(15)), other.read(name, range(15)))
    np.testing.assert_array_equal(new.records[:15, 1:], old.records[:, 1:])
    assert new.records[:15, 0].tolist() == np.repeat([1, 3, 4, 5, 6], 3).tolist()
    rest = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3), (3, 3), (4, 3), (5, 3), (6, 3)]
    assert new.records[15:, :2].tolist() == [list(view) for view in rest]
    for image in range(7):
        assert new.records[new.rows[image], :2].tolist() == [[image, number] for number in range(4)]
    assert new.grown_from == {old.fingerprint: 15}
    assert old.grown_from == {}
    for row in range(len(new)):  # all replay
        record = larger.splits["train"][new.view(row).image]
        new.render(row, record.read, record.path)
    record_views(larger, "train", params, tmp_path / "fresh.zarr")
    fresh = RecordedViews(tmp_path / "fresh.zarr")
    assert by_view(fresh, larger) == by_view(new, larger)
    assert fresh.fingerprint != new.fingerprint


def test_growth_is_a_chain(data, path, more_images, tmp_path):
    second, first = grown(path, data, VIEWS.model_copy(update={"per_image": 4}), tmp_path / "second.zarr")
    larger = with_images(data, more_images)
    third, _ = grown(tmp_path / "second.zarr", larger, VIEWS.model_copy(update={"per_image": 4}),
                     tmp_path / "third.zarr")
    assert third.grown_from == {first.fingerprint: 15, second.fingerprint: 20}
    np.testing.assert_array_equal(third.records[:15, 1:], first.records[:, 1:])
    np.testing.assert_array_equal(third.records[:20, 1:], second.records[:, 1:])


def test_what_adds_nothing_is_the_same_store(data, path, tmp_path):
    again, old = grown(path, data, VIEWS, tmp_path / "again.zarr")
    assert again.fingerprint == old.fingerprint
    np.testing.assert_array_equal(again.records, old.records)


def test_kept_views_are_not_rendered(data, path, tmp_path, monkeypatch):
    from pipeline.data import recording

    kept = growable(path, data, "train", VIEWS.model_copy(update={"per_image": 4}))
    shown = []
    monkeypatch.setattr(recording, "render_view",
                        lambda *given: shown.append((given[1].image, given[1].number)) or render_view(*given))
    record_views(data, "train", VIEWS.model_copy(update={"per_image": 4}), tmp_path / "grown.zarr", old=kept)
    assert shown == [(image, 3) for image in range(5)]


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"flip": 0.1}, {"size": (32, 32)}, {"per_image": 2}, {"max_objects": 3}, {"image": "raw"}])
def test_views_that_would_be_drawn_otherwise_do_not_grow(data, path, change):
    assert growable(path, data, "train", VIEWS.model_copy(update=change)) is None


@pytest.mark.parametrize("change", [{"id": "5"}, {"sha256": "f" * 64}, {"boxes": 1}, {"width": 81}, {"labels": 1}])
def test_an_image_that_is_gone_or_changed_stops_growth(data, path, change):
    first, *rest = data.splits["train"]
    last = rest.pop()
    change = {key: getattr(last, key) + value if key in ("boxes", "labels") else value for key, value in change.items()}
    changed = replace(data, splits={"train": (first, *rest, replace(last, **change))}, fingerprint="e" * 64)
    assert growable(path, changed, "train", VIEWS) is None
    without = replace(data, splits={"train": (first, *rest)}, fingerprint="e" * 64)
    assert growable(path, without, "train", VIEWS) is None


@pytest.mark.parametrize("form", [None, "raw", "jpeg"])
def test_pixels_that_changed_unseen_stop_growth(data, tmp_path, form):
    params = VIEWS.model_copy(update={"image": form})
    record_views(data, "train", params, tmp_path / "views.zarr")
    assert growable(tmp_path / "views.zarr", data, "train", params)
    Image.new("RGB", (80, 60)).save(data.splits["train"][0].path)
    assert growable(tmp_path / "views.zarr", data, "train", params) is None


@pytest.fixture
def damaged(data, tmp_path):
    """A store with pixels, of which view 4 has a bit flipped."""
    out = tmp_path / "damaged.zarr"
    record_views(data, "train", VIEWS.model_copy(update={"image": "raw"}), out)
    pixels = open_store(out).read("image", [4])[0].tobytes()
    shard = next(path for path in (out / "image").iterdir() if pixels[:64] in path.read_bytes())
    raw = bytearray(shard.read_bytes())
    raw[raw.index(pixels[:64])] ^= 1
    shard.write_bytes(raw)
    return out


def test_a_damaged_view_is_rendered_again_when_its_store_grows(data, damaged, tmp_path):
    params = VIEWS.model_copy(update={"image": "raw", "per_image": 4})
    with pytest.warns(UserWarning, match=r"damaged\.zarr.*rendered again"):
        new, old = grown(damaged, data, params, tmp_path / "grown.zarr")
    assert new.grown_from == {old.fingerprint: 15}
    for row in range(len(new)):
        new.render(row, lambda: pytest.fail("the store has the pixels"), tmp_path)


def test_a_damaged_view_whose_image_changed_is_an_error(data, damaged, tmp_path):
    params = VIEWS.model_copy(update={"image": "raw", "per_image": 4})
    kept = growable(damaged, data, "train", params)
    Image.new("RGB", (80, 60)).save(data.splits["train"][1].path)
    with pytest.raises(UserError, match=r"view 4 is damaged, and .*1\.png .*record-views --restart"), \
            pytest.warns(UserWarning, match="rendered again"):
        record_views(data, "train", params, tmp_path / "grown.zarr", old=kept)


def test_nothing_to_grow_from(data, tmp_path):
    assert growable(tmp_path / "none.zarr", data, "train", VIEWS) is None


def test_the_largest_older_store_is_taken_unless_another_was_begun_with(data, path, tmp_path):
    params = {count: VIEWS.model_copy(update={"per_image": count}) for count in (3, 4, 5)}
    second, _ = grown(path, data, params[4], tmp_path / "second.zarr")
    paths = [tmp_path / "none.zarr", path, second.path]
    out = tmp_path / "third.zarr"
    assert older_views(paths, data, "train", params[5], out).path == second.path

    def killed(done, *_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_views(data, "train", params[5], out, killed, growable(path, data, "train", params[5]))
    old = older_views(paths, data, "train", params[5], out)
    assert old.path == path
    record_views(data, "train", params[5], out, old=old)
    assert RecordedViews(out).grown_from == {old.fingerprint: 15}
    with pytest.raises(KeyboardInterrupt):
        record_views(data, "train", params[5], tmp_path / "fresh.zarr", killed)
    assert older_views(paths, data, "train", params[5], tmp_path / "fresh.zarr") is None


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_stored_pixels_need_no_image(data, tmp_path, form):
    params = VIEWS.model_copy(update={"image": form})
    out = tmp_path / "views.zarr"
    record_views(data, "train", params, out)
    recorded = RecordedViews(out, data, "train", params)
    plain = [render_view(data.splits["train"][recorded.view(row).image].read(), recorded.view(row), VIEWS.size)
             for row in range(15)]
    for record in data.splits["train"]:
        record.path.unlink()
    for row, expected in enumerate(plain):
        shown = recorded.render(row, lambda: pytest.fail("no image is asked for"), tmp_path)
        assert (shown.shape, shown.dtype) == (expected.shape, np.uint8)
        difference = np.abs(shown.astype(int) - expected).mean()
        assert difference == 0 if form == "raw" else 0 < difference < 4
    assert open_store(out).manifest["spec"]["attributes"]["pixels"] == form


def test_a_jpeg_is_never_longer_than_the_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    codes, shown = pack(noise, "jpeg")
    assert codes.shape == (32 * 32 * 3,)
    np.testing.assert_array_equal(unpack(codes, "jpeg", (32, 32)), shown)
    for wrong in (codes[::-1].copy(), np.zeros_like(codes)):
        with pytest.raises(CorruptStore, match="no JPEG of 32x32"):
            unpack(wrong, "jpeg", (32, 32))
    with pytest.raises(CorruptStore, match="no JPEG of 48x16"):
        unpack(codes, "jpeg", (16, 48))
    with pytest.raises(UserError, match=r"views\.image: jpeg .* 8x8"):
        pack(noise[:8, :8], "jpeg")


def test_a_store_that_lacks_a_view_is_refused(data, path, tmp_path):
    store = open_store(path)
    writer = create_store(tmp_path / "twice.zarr", replace(store.spec, shard_views=15))
    with writer.claim(0) as claim:
        for row in range(15):
            claim.append({array.name: store.read(array.name, [min(row, 13)])[0] for array in store.spec.arrays})
    writer.finish()
    with pytest.raises(CorruptStore, match="views 0 to 2 of each image once"):
        RecordedViews(tmp_path / "twice.zarr")
