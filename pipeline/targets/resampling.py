"""Targets on another grid: students of another stride or input size learn from the same store.

Shape suffixes: B batch, C classes, K peaks, H and W cells.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from pipeline.distillation import TeacherTargets

if TYPE_CHECKING:
    from torch import Tensor


def resample(teacher: "TeacherTargets", grid_hw: Sequence[int]) -> "TeacherTargets":
    """What teachers said, on a student's grid over the same views.

    Peaks keep their exact boxes and, in the heatmap, their scores; where two peaks of a class
    fall into one cell the lower one is dropped. Features stay as they are where the student's
    grid is as fine as theirs: the loss pools the student's.

    Args:
        teacher: on the stored grid.
        grid_hw: (h, w) of the student's maps, which show the same as the stored ones.
    """
    height, width = grid_hw
    peaks_BK7 = _drop_beaten(_move(teacher.peaks, teacher.heatmap.shape[-2:], (height, width)))
    heatmap_BCHW = _interpolate(teacher.heatmap, (height, width))
    cell, label, score = peaks_BK7[..., :3].unbind(-1)
    place_BK = label.long() * (height * width) + cell.long()
    kept_BCHW = heatmap_BCHW.flatten(1).scatter_reduce(1, place_BK, score, "amax").view_as(heatmap_BCHW)
    features = {name: _interpolate(values, (min(height, values.shape[2]), min(width, values.shape[3])))
                for name, values in teacher.features.items()}
    members = {name: resample(member, grid_hw) for name, member in teacher.members.items()}
    return TeacherTargets(kept_BCHW, peaks_BK7, features, members)


def mirror(teacher: "TeacherTargets", mirrored_B: "Tensor") -> "TeacherTargets":
    """What teachers said, for views of which some are mirrored, left to right.

    Args:
        teacher: of the views as they are recorded.
        mirrored_B: (B,) bool.
    """
    width = teacher.heatmap.shape[-1]
    cell, label, score, w, h, dx, dy = teacher.peaks.unbind(-1)
    # The cell of a centre that lies on an edge between two is then the one to its left, with offset 1.
    flipped_BK7 = torch.stack([cell + (width - 1) - 2 * (cell % width), label, score, w, h, 1 - dx, dy], -1)
    peaks_BK7 = torch.where(mirrored_B.view(-1, 1, 1), flipped_BK7, teacher.peaks)

    def turn(values_BCHW: "Tensor") -> "Tensor":
        return torch.where(mirrored_B.view(-1, 1, 1, 1), values_BCHW.flip(-1), values_BCHW)

    features = {name: turn(values) for name, values in teacher.features.items()}
    members = {name: mirror(member, mirrored_B) for name, member in teacher.members.items()}
    return TeacherTargets(turn(teacher.heatmap), peaks_BK7, features, members)


def _move(peaks_BK7: "Tensor", stored_hw: Sequence[int], grid_hw: Sequence[int]) -> "Tensor":
    """The same boxes from the cells of another grid; a centre outside is kept by the nearest cell."""
    (stored_h, stored_w), (grid_h, grid_w) = stored_hw, grid_hw
    scale_x, scale_y = grid_w / stored_w, grid_h / stored_h
    cell, label, score, w, h, dx, dy = peaks_BK7.unbind(-1)
    x = (cell % stored_w + dx) * scale_x
    y = (cell.div(stored_w, rounding_mode="floor") + dy) * scale_y
    column, row = x.floor().clamp(0, grid_w - 1), y.floor().clamp(0, grid_h - 1)
    return torch.stack([row * grid_w + column, label, score, w * scale_x, h * scale_y, x - column, y - row], -1)


def _drop_beaten(peaks_BK7: "Tensor") -> "Tensor":
    """Score 0 for a peak whose cell and class another one has with a higher score, or as high and earlier."""
    cell, label, score = peaks_BK7[..., :3].unbind(-1)
    mine, other = score.unsqueeze(2), score.unsqueeze(1)
    meet_BKK = (cell.unsqueeze(2) == cell.unsqueeze(1)) & (label.unsqueeze(2) == label.unsqueeze(1))
    earlier_KK = torch.ones_like(meet_BKK[0]).tril(-1)
    beaten_BK = (meet_BKK & ((other > mine) | ((other == mine) & earlier_KK))).any(2)
    return torch.cat([peaks_BK7[..., :2], score.masked_fill(beaten_BK, 0).unsqueeze(2), peaks_BK7[..., 3:]], 2)


def _interpolate(values_BCHW: "Tensor", grid_hw: tuple[int, int]) -> "Tensor":
    """Bilinear, over all cells that a coarser one covers."""
    if tuple(values_BCHW.shape[2:]) == grid_hw:
        return values_BCHW
    return F.interpolate(values_BCHW, grid_hw, mode="bilinear", antialias=True)
