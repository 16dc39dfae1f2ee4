import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from pipeline.data import DataSet, ImageRecord
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.models.hourglass import HourglassArch, HourglassDetector
from pipeline.params import Views


@pytest.fixture
def make_detector():
    """Small hourglasses of two stacks with random, lively weights, one for each seed."""

    def make(seed):
        torch.manual_seed(seed)
        arch = HourglassArch(dims=(8, 8), modules=(1, 1), stacks=2, stem_channels=8, head_channels=8)
        model = HourglassDetector("hourglass_small", 3, arch)
        for name, parameter in model.named_parameters():
            if name.startswith("heads."):
                torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def detector(make_detector):
    return make_detector(0)


@pytest.fixture
def make_records(tmp_path):
    """Image files of given (width, height), with noise that has some structure."""

    def make(sizes):
        records = []
        for number, (width, height) in enumerate(sizes):
            rng = np.random.default_rng(number)
            image = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (width, height))
            path = tmp_path / f"{number}.png"
            cv2.imwrite(str(path), image)
            boxes = np.array([[1, 1, width - 1, height / 2]], np.float32)
            records.append(ImageRecord(path.stem, path, width, height, boxes, np.array([number % 3]),
                                       np.array([False]), np.array([False])))
        return tuple(records)

    return make


@pytest.fixture
def data(make_records, tmp_path):
    sizes = [(40, 30), (31, 64), (64, 64), (20, 20), (50, 41)]
    return DataSet("demo", tmp_path, ("cat", "dog", "cow"), {"train": make_records(sizes)}, "data-sha",
                   {"licence": "CC"})


@pytest.fixture
def views(data, tmp_path):
    """Two views of each of five images."""
    params = Views(per_image=2, size=(32, 32), max_objects=4, shard_views=4)
    record_views(data, "train", params, tmp_path / "views.zarr")
    return RecordedViews(tmp_path / "views.zarr", data, "train")


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)
