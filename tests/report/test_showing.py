from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from pipeline.data import DataSet, ImageRecord
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.errors import UserError
from pipeline.params import Views
from pipeline.report.showing import find_view, open_of_views, show_view, stored_view
from storage import ArraySpec, CorruptStore, FingerprintMismatch, StoreSpec, create_store, encode, open_store

CLASSES = ("cat", "dog")
STRIDE, HEIGHT, WIDTH = 4, 32, 48
BOXES = np.array([[4, 6, 20, 18], [22, 10, 44, 30]], np.float32)


@pytest.fixture
def data(tmp_path):
    """Images of the views' size, so that view 0 has the boxes as they are."""
    records = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
        records.append(ImageRecord(f"a:{number}", path, WIDTH, HEIGHT, BOXES, np.array([0, 1]), np.array([False, True]),
                                   np.zeros(2, bool)))
    return DataSet("tiny", tmp_path, CLASSES, {"train": tuple(records)}, "f" * 64, {})


@pytest.fixture
def record(data, tmp_path):
    def record(name, per_image=2, old=None):
        params = Views(per_image=per_image, size=(HEIGHT, WIDTH), max_objects=4)
        record_views(data, "train", params, tmp_path / name, old=old)
        return RecordedViews(tmp_path / name, data, "train")

    return record


@pytest.fixture
def recorded(record):
    return record("views.zarr")


def write(path, views, count, scores=(0.9, 0.4)):
    """A store that sees `BOXES` in every view, and nothing else."""
    grid = HEIGHT // STRIDE, WIDTH // STRIDE
    spec = StoreSpec((ArraySpec("heatmap", (2, *grid), encoding="u8-sqrt-sparse"),
                      ArraySpec("peaks", (3, 7), encoding="exact-fp32")),
                     count, 4, {"kind": "teacher", "teacher": path.stem, "views": views, "size": [HEIGHT, WIDTH]})
    heatmap, peaks = np.zeros((2, *grid), np.float32), np.zeros((3, 7), np.float32)
    for place, (box, score) in enumerate(zip(BOXES / STRIDE, scores, strict=True)):
        center, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        column, row = center.astype(int)
        heatmap[place, row, column] = score
        peaks[place] = [row * grid[1] + column, place, score, *size, *(center - [column, row])]
    writer = create_store(path, spec)
    for shard in range(spec.shards):
        with writer.claim(shard) as claim:
            for _ in claim.views:
                claim.append({"heatmap": encode(spec["heatmap"], heatmap), "peaks": encode(spec["peaks"], peaks)})
    writer.finish()
    return open_store(path)


@pytest.fixture
def store(recorded, tmp_path):
    return write(tmp_path / "sure.zarr", recorded.fingerprint, len(recorded))


def test_boxes_and_heat_lie_where_the_store_has_them(store):
    heat = stored_view(store, 3, score=0.3)
    np.testing.assert_allclose([box.corners for box in heat.boxes], BOXES, atol=1e-4)
    assert [(box.label, round(box.score, 3)) for box in heat.boxes] == [(0, 0.9), (1, 0.4)]
    assert heat.extent == (0, WIDTH, HEIGHT, 0)
    row, column = np.unravel_index(heat.heatmap[1].argmax(), heat.heatmap[1].shape)
    assert (column * STRIDE, row * STRIDE) == (32, 20)  # the cell of the dog's centre, (33, 20)
    assert [box.label for box in stored_view(store, 0, score=0.5).boxes] == [0]


def test_a_picture_has_a_panel_for_the_truth_and_each_store(store, data, recorded, tmp_path):
    unsure = write(tmp_path / "unsure.zarr", recorded.fingerprint, len(recorded), scores=(0.1, 0.2))
    out = tmp_path / "x.png"
    seen = show_view(2, data, recorded, {"Sure": store, "Unsure": unsure}, out, score=0.3)
    assert seen == {"Ground truth": "cat, dog", "Sure": "cat 0.90, dog 0.40", "Unsure": "nothing"}
    picture = matplotlib.image.imread(out)[:, :, :3]
    colorful = np.ptp(picture, axis=2) > 0.3
    panels = [part.mean() for part in np.array_split(colorful, 3, axis=1)]
    assert panels[0] > panels[1] > panels[2]  # photograph, heat and boxes over grey, faint heat over grey
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(3 * WIDTH / HEIGHT, rel=0.15)  # a heading's height less


def test_an_image_without_labels_has_no_ground_truth(store, data, recorded, tmp_path):
    unlabelled = tuple(replace(record, labelled=False) for record in data.splits["train"])
    seen = show_view(2, replace(data, splits={"train": unlabelled}), recorded, {"Sure": store}, tmp_path / "x.png",
                     score=0.3)
    assert seen == {"No ground truth": "the image has no labels", "Sure": "cat 0.90, dog 0.40"}


def test_views_are_named_by_row_or_by_image_and_number(data, recorded):
    assert find_view("5", data, recorded) == 5
    for image in range(3):
        for number in range(2):
            row = find_view(f"a:{image}:{number}", data, recorded)
            assert tuple(recorded.view(row)[:2]) == (image, number)


@pytest.mark.parametrize(("name", "message"), [
    ("6", "not one of 0 to 5"), ("-1", "neither a row number nor"), ("a:7:0", "e.g. a:0:0"), ("", "neither"),
    ("a:1:2", "has the views 0 to 1"), ("a:1:x", "has the views 0 to 1"),
])
def test_a_view_that_is_none_says_which_there_are(data, recorded, name, message):
    with pytest.raises(UserError, match=message):
        find_view(name, data, recorded)


def test_a_store_of_other_views_is_refused_and_one_of_older_views_is_not(recorded, record, store, data, tmp_path):
    assert open_of_views(tmp_path / "views.zarr", recorded).path == tmp_path / "views.zarr"
    other = write(tmp_path / "other.zarr", "0" * 64, len(recorded))
    with pytest.raises(FingerprintMismatch, match=r"other\.zarr: its views are 000.*--params"):
        open_of_views(other.path, recorded)
    grown = record("grown.zarr", per_image=3, old=recorded)
    assert open_of_views(store.path, grown).fingerprint == store.fingerprint
    show_view(5, data, grown, {"Older": store}, tmp_path / "x.png", score=0.3)
    with pytest.raises(UserError, match=r"views 0 to 5, so not view 8"):
        show_view(8, data, grown, {"Older": store}, tmp_path / "x.png", score=0.3)


def test_a_name_without_a_known_suffix_is_refused(store, data, recorded, tmp_path):
    for name in ("x", "x.jpgg"):
        with pytest.raises(UserError, match=r"Available: .*png"):
            show_view(0, data, recorded, {"Sure": store}, tmp_path / name, score=0.3)
        assert not (tmp_path / name).exists()


def test_a_damaged_view_is_not_drawn(store, data, recorded, tmp_path):
    shard = store.path / "heatmap/c.0.0.0.0"
    damaged = bytearray(shard.read_bytes())
    damaged[40] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(CorruptStore, match="view 0 fails its checksum"):
        show_view(0, data, recorded, {"Sure": open_store(store.path)}, tmp_path / "x.png", score=0.3)
    assert not (tmp_path / "x.png").exists()
