"""What CenterNet learns from boxes: a heatmap of centres, and size and offset at each centre."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


def gaussian_radius(height: float, width: float, min_overlap: float = 0.7) -> float:
    """How far a corner pair may move and still overlap a box by `min_overlap`, as CenterNet has it.

    Args:
        height, width: sides of the box in cells; CenterNet passes their ceil.
        min_overlap: IoU in (0, 1).

    Returns:
        The bare root, in cells; CenterNet takes max(0, int(...)) of it.

    Reference: CornerNet's three cases, without the division by 2a as in the official CenterNet
        code. Without it the third case (a box around the other) is always the least.
    """
    a = 4 * min_overlap
    b = -2 * min_overlap * (height + width)
    c = (min_overlap - 1) * width * height
    return (b + math.sqrt(b**2 - 4 * a * c)) / 2


@lru_cache(maxsize=1024)
def _gaussian(radius: int) -> npt.NDArray[np.float32]:
    """(2r+1, 2r+1) bump of height 1 and sigma (2r+1)/6.

    The official code zeroes what is below eps; a corner is never below exp(-9).
    """
    sigma = (2 * radius + 1) / 6
    square = np.arange(-radius, radius + 1, dtype=np.float64) ** 2
    bump = np.exp(-(square[None, :] + square[:, None]) / (2 * sigma * sigma)).astype(np.float32)
    bump.setflags(write=False)
    return bump


def encode_targets(
    boxes_xyxy_cells: npt.ArrayLike,
    labels: npt.ArrayLike,
    num_classes: int,
    grid_hw: tuple[int, int],
    max_objects: int,
) -> dict[str, npt.NDArray[Any]]:
    """Draws boxes as CenterNet's training targets.

    Args:
        boxes_xyxy_cells: (n, 4) continuous edges in cells (input pixels / stride). Clipped here to
            [0, W-1] x [0, H-1], as the official code does (docs/decisions/0009); a box that is empty then is dropped.
        labels: (n,) int in [0, num_classes).
        num_classes: planes of the heatmap.
        grid_hw: (H, W) in cells.
        max_objects: rows M; of more boxes the first M are kept.

    Returns:
        heatmap (C, H, W) float32 in [0, 1], 1 at centres, the maximum where objects of a class
        meet; wh (M, 2) and offset (M, 2) float32 in cells, x then y; indices (M,) int64 = y*W + x;
        mask (M,) float32. Row j is box j, all zero where it was dropped.

    Reference: Zhou et al., Objects as Points, 2019, and the official code.
    """
    height, width = grid_hw
    boxes = np.array(boxes_xyxy_cells, dtype=np.float32).reshape(-1, 4)[:max_objects]
    classes = np.asarray(labels, dtype=np.int64).reshape(-1)[:max_objects]
    assert len(boxes) == len(classes), f"{len(boxes)} boxes but {len(classes)} labels"
    targets: dict[str, npt.NDArray[Any]] = {
        "heatmap": np.zeros((num_classes, height, width), np.float32),
        "wh": np.zeros((max_objects, 2), np.float32),
        "offset": np.zeros((max_objects, 2), np.float32),
        "indices": np.zeros(max_objects, np.int64),
        "mask": np.zeros(max_objects, np.float32),
    }
    corners = boxes.reshape(-1, 2, 2)
    np.clip(corners, 0, np.array([width - 1, height - 1], np.float32), out=corners)
    sizes = corners[:, 1] - corners[:, 0]
    rows = np.flatnonzero((sizes > 0).all(axis=1))
    if not len(rows):
        return targets
    sizes, centres = sizes[rows], (corners[rows, 0] + corners[rows, 1]) / 2
    cells = centres.astype(np.int64)
    targets["wh"][rows] = sizes
    targets["offset"][rows] = centres - cells.astype(np.float32)
    targets["indices"][rows] = cells[:, 1] * width + cells[:, 0]
    targets["mask"][rows] = 1
    for label, (x, y), (w, h) in zip(
        classes[rows].tolist(), cells.tolist(), np.ceil(sizes).tolist(), strict=True
    ):
        assert 0 <= label < num_classes, f"label {label} of {num_classes} classes"
        r = max(0, int(gaussian_radius(h, w)))
        left, right, top, bottom = min(x, r), min(width - x, r + 1), min(y, r), min(height - y, r + 1)
        under = targets["heatmap"][label, y - top : y + bottom, x - left : x + right]
        np.maximum(under, _gaussian(r)[r - top : r + bottom, r - left : r + right], out=under)
    return targets
