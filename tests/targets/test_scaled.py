"""Students whose input or grid is not the teachers'."""

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.data import encode_targets
from pipeline.params import Recipe
from pipeline.targets import open_targets


@pytest.mark.parametrize(("size", "stride"), [((64, 64), 4), ((64, 64), 8), ((32, 32), 8)])
def test_a_student_of_another_size_or_stride_sees_the_same_at_its_scale(data, recorded, two_teachers, size, stride):
    targets = open_targets(two_teachers, Recipe(teachers=["large"]), data, recorded, size=size)
    items = [(index, epoch) for index in range(6) for epoch in range(3)]
    batch = targets.source(seed=0, stride=stride).fetch(items)
    grid = size[0] // stride, size[1] // stride
    for place, row in enumerate(batch["view"].tolist()):
        boxes = recorded.boxes(row)
        expected = encode_targets(boxes[:, :4] * size[0] / 32 / stride, boxes[:, 4], 2, grid, 5)
        for name, array in expected.items():
            np.testing.assert_allclose(batch[name][place], array, rtol=1e-5, atol=1e-5)
    plain = open_targets({}, Recipe(), data, recorded).source(seed=0).fetch(items)["image"]
    shrunk = adaptive_avg_pool2d(torch.from_numpy(batch["image"]).float(), 32).numpy()
    assert np.corrcoef(shrunk.ravel(), plain.ravel())[0, 1] > 0.8
    teacher = targets.on_device({name: torch.from_numpy(array) for name, array in batch.items()})["teacher"]
    assert teacher.features["large"].shape[2:] == tuple(min(side, 8) for side in grid)
