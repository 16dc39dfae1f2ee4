import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import encode_targets, gaussian_radius


def plainly(boxes, labels, num_classes, grid_hw, max_objects):
    """The same targets, cell by cell."""
    height, width = grid_hw
    heatmap = np.zeros((num_classes, height, width), np.float32)
    rows = np.zeros((max_objects, 6), np.float32)  # w h dx dy index mask
    for row, (box, label) in enumerate(zip(boxes[:max_objects], labels, strict=False)):
        x1, x2 = (min(max(np.float32(side), np.float32(0)), np.float32(width - 1)) for side in box[0::2])
        y1, y2 = (min(max(np.float32(side), np.float32(0)), np.float32(height - 1)) for side in box[1::2])
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        radius = max(0, int(gaussian_radius(math.ceil(h), math.ceil(w))))
        sigma = (2 * radius + 1) / 6
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        rows[row] = w, h, cx - int(cx), cy - int(cy), int(cy) * width + int(cx), 1
        for y in range(height):
            for x in range(width):
                dy, dx = y - int(cy), x - int(cx)
                if abs(dy) <= radius and abs(dx) <= radius:
                    value = np.float32(math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)))
                    heatmap[label, y, x] = max(heatmap[label, y, x], value)
    return {"heatmap": heatmap, "wh": rows[:, :2], "offset": rows[:, 2:4], "indices": rows[:, 4],
            "mask": rows[:, 5]}


@st.composite
def scenes(draw):
    grid = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    side = st.floats(-8, 32, width=32) | st.integers(-8, 32).map(float)
    boxes = draw(st.lists(st.tuples(side, side, side, side), max_size=6))
    labels = [draw(st.integers(0, 2)) for _ in boxes]
    most = draw(st.integers(1, 8))
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), 3, grid, most


@given(scenes())
def test_equals_the_cell_by_cell_reading_of_the_paper(scene):
    found, expected = encode_targets(*scene), plainly(*scene)
    np.testing.assert_allclose(found.pop("heatmap"), expected.pop("heatmap"), rtol=1e-6)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@given(st.integers(1, 200), st.integers(1, 200))
def test_radius_is_the_root_without_the_division(height, width):
    total = 1.4 * (height + width)
    expected = (-total + math.sqrt(total**2 + 3.36 * height * width)) / 2
    assert gaussian_radius(height, width) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.05, 0.95))
def test_radius_is_the_least_of_the_three_cases(height, width, overlap):
    total, area = height + width, height * width
    one = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    two = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    assert gaussian_radius(height, width, overlap) < min(one, two)


def test_a_box_worked_by_hand():
    # 10 x 10 cells: radius int(2.73) = 2, sigma 5/6
    targets = encode_targets([[2.5, 3.25, 12.5, 13.25]], [1], 2, (16, 16), 3)
    assert targets["indices"][0] == 8 * 16 + 7
    np.testing.assert_allclose(targets["offset"][0], [0.5, 0.25])
    np.testing.assert_allclose(targets["wh"][0], [10, 10])
    bump = np.exp(-0.72 * np.array([4, 1, 0, 1, 4]))
    np.testing.assert_allclose(targets["heatmap"][1, 8, 5:10], bump, rtol=1e-6)
    assert targets["heatmap"][1, 8, 4] == 0
    assert not targets["heatmap"][0].any()
    assert targets["mask"].tolist() == [1, 0, 0]


def test_dtypes_and_shapes():
    targets = encode_targets([], [], 2, (4, 6), 5)
    shapes = {name: (array.shape, array.dtype.name) for name, array in targets.items()}
    assert shapes == {
        "heatmap": ((2, 4, 6), "float32"), "wh": ((5, 2), "float32"), "offset": ((5, 2), "float32"),
        "indices": ((5,), "int64"), "mask": ((5,), "float32")}


def test_a_dropped_box_keeps_its_row():
    boxes = [[1, 1, 4, 4], [20, 20, 30, 30], [5, 5, 5, 9], [2, 2, 8, 8]]
    targets = encode_targets(boxes, [0, 0, 0, 0], 1, (10, 10), 4)
    assert targets["mask"].tolist() == [1, 0, 0, 1]
    assert not targets["wh"][1:3].any()
    assert targets["indices"][3] == 55


def test_of_too_many_boxes_the_first_are_kept():
    boxes = np.array([[0, 0, 2, 2], [4, 4, 6, 6], [7, 7, 9, 9]])
    targets = encode_targets(boxes, [0, 0, 0], 1, (10, 10), 2)
    assert targets["indices"].tolist() == [11, 55]
    assert (targets["heatmap"] == 1).sum() == 2


def test_the_caller_keeps_its_boxes():
    boxes = np.array([[-5, -5, 50, 50]], np.float32)
    encode_targets(boxes, [0], 1, (8, 8), 1)
    assert boxes.tolist() == [[-5, -5, 50, 50]]
