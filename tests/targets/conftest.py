"""A tiny data set, its recorded views, and stores as dumps and an ensemble would leave them."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data import DataSet, ImageRecord
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.params import Views
from storage import ArraySpec, StoreSpec, create_store, encode, open_store

CLASSES = ("cat", "dog")
GRID = (8, 8)


@pytest.fixture
def data(tmp_path):
    records = []
    for number in range(6):
        rng = np.random.default_rng(number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
        boxes = np.array([[5, 5, 30, 30], [20, 10, 45, 35]][: number % 3], np.float32).reshape(-1, 4)
        flags = np.zeros(len(boxes), bool)
        records.append(ImageRecord(str(number), path, 50, 40, boxes, np.arange(len(boxes)), flags, flags))
    return DataSet("tiny", tmp_path, CLASSES, {"train": tuple(records)}, "f" * 64, {})


@pytest.fixture
def views(data, tmp_path):
    record_views(data, "train", Views(per_image=3, size=(32, 32), max_objects=5), tmp_path / "views.zarr")
    return tmp_path / "views.zarr"


@pytest.fixture
def recorded(views, data):
    return RecordedViews(views, data, "train")


@pytest.fixture
def write_store(tmp_path, data, recorded):
    """write_store(name, kind=..., features=..., known=..., seed=..., **changes of the identity) -> the store's path."""

    def write(name, *, kind="teacher", features=0, encoding="exact-fp16", known=None, seed=None, **changes):
        arrays = [
            ArraySpec("heatmap", (len(CLASSES), *GRID), encoding=encoding),
            ArraySpec("wh_offset", (4, *GRID), encoding=encoding),
            ArraySpec("peaks", (5, 7), encoding="exact-fp32"),
        ]
        if features:
            arrays.append(ArraySpec("features", (features, *GRID), encoding="exact-fp16"))
        identity = {"kind": kind, "data": data.fingerprint, "views": recorded.fingerprint, "stride": 4,
                    "size": list(recorded.size), "classes": list(data.classes), "name": name, **changes}
        attributes = {"known": known} if known else {}
        spec = StoreSpec(tuple(arrays), len(recorded), 512, identity, attributes)
        writer, rng = create_store(tmp_path / f"{name}.zarr", spec), np.random.default_rng(seed or len(name))
        with writer.claim(0) as claim:
            for _ in claim.views:
                values = {array.name: rng.random(array.shape, np.float32) for array in arrays}
                values["peaks"][:, :2] = [[cell, cell % 2] for cell in range(5)]
                claim.append({array.name: encode(array, values[array.name]) for array in arrays})
        writer.finish()
        return tmp_path / f"{name}.zarr"

    return write


@pytest.fixture
def two_teachers(write_store):
    """Stores of two teachers with features and of their ensemble, by name."""
    paths = {"small": write_store("small", features=3), "large": write_store("large", features=4)}
    members = {name: open_store(path).content for name, path in paths.items()}
    return {**paths, "ensemble": write_store("both", kind="ensemble", members=members)}
