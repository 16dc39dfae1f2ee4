"""Students whose input or grid is not the teachers'."""

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.data import encode_targets
from pipeline.params import Recipe
from pipeline.targets import open_targets
from pipeline.targets.transforming import TargetTransform
from storage import ArraySpec


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


@pytest.mark.parametrize("mirrored", [False, True])
def test_teachers_kept_apart_are_averaged_on_the_students_grid(mirrored):
    """A peak that one of two teachers is sure of is worth half of its score on every grid."""
    arrays, batch = {}, {"heatmap": torch.zeros(1, 1, 8, 8), "mirrored": torch.tensor([mirrored])}
    for name, score in (("sure", 0.9), ("blind", 0.0)):
        batch[f"{name}/heatmap"], batch[f"{name}/peaks"] = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 7)
        batch[f"{name}/heatmap"][0, 0, 1, 2] = score
        batch[f"{name}/peaks"][0, 0] = torch.tensor([1 * 4 + 2, 0, score, 1, 1, 0.5, 0.5])
        batch[f"{name}/features"] = torch.arange(16.0).view(1, 1, 4, 4)
        arrays |= {f"{name}/{kind}": ArraySpec(kind, tuple(batch[f"{name}/{kind}"].shape[1:]), encoding="exact-fp32")
                   for kind in ("heatmap", "peaks", "features")}
    for grid in (4, 8, 2):
        batch["heatmap"] = torch.zeros(1, 1, grid, grid)
        teacher = TargetTransform(arrays, None)(batch)["teacher"]
        assert teacher.heatmap.max().item() == pytest.approx(0.45)
        for name, score in (("sure", 0.9), ("blind", 0.0)):
            member = teacher.members[name]
            assert member.heatmap.max().item() == pytest.approx(score)
            place = int(member.peaks[0, 0, 0])
            assert place % grid < grid / 2 if mirrored else place % grid >= grid / 2
            rows = teacher.features[name][0, 0]
            assert (rows[:, 0] > rows[:, -1]).all() == mirrored
