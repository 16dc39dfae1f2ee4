"""Targets on another grid: students of another stride or input size learn from the same store.

Shape suffixes: B batch, C classes, K peaks, H and W cells.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pipeline.models.regridding import interpolate, mirror_peaks, resample_heads

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distillation import TeacherTargets


def on_grid(teacher: "TeacherTargets", grid_hw: Sequence[int]) -> "TeacherTargets":
    """What teachers said, on a student's grid over the same views; as it is where that is theirs.

    Peaks keep their exact boxes and, in the heatmap, their scores; where two peaks of a class
    fall into one cell the lower one is dropped. Features stay as they are where the student's
    grid is as fine as theirs: the loss pools the student's.

    Args:
        teacher: on the stored grid.
        grid_hw: (h, w) of the student's maps, which show the same as the stored ones.
    """
    if tuple(teacher.heatmap.shape[2:]) == tuple(grid_hw):
        return teacher
    height, width = grid_hw
    kept_BCHW, peaks_BK7 = resample_heads(teacher.heatmap, teacher.peaks, grid_hw)
    features = {name: interpolate(values, (min(height, values.shape[2]), min(width, values.shape[3])))
                for name, values in teacher.features.items()}
    members = {name: on_grid(member, grid_hw) for name, member in teacher.members.items()}
    return teacher._replace(heatmap=kept_BCHW, peaks=peaks_BK7, features=features, members=members)


def mirror(teacher: "TeacherTargets", mirrored_B: "Tensor") -> "TeacherTargets":
    """What teachers said, for views of which some are mirrored, left to right.

    Args:
        teacher: of the views as they are recorded.
        mirrored_B: (B,) bool.
    """
    flipped_BK7 = mirror_peaks(teacher.peaks, teacher.heatmap.shape[-1])
    peaks_BK7 = torch.where(mirrored_B.view(-1, 1, 1), flipped_BK7, teacher.peaks)

    def turn(values_BCHW: "Tensor") -> "Tensor":
        return torch.where(mirrored_B.view(-1, 1, 1, 1), values_BCHW.flip(-1), values_BCHW)

    features = {name: turn(values) for name, values in teacher.features.items()}
    members = {name: mirror(member, mirrored_B) for name, member in teacher.members.items()}
    return teacher._replace(heatmap=turn(teacher.heatmap), peaks=peaks_BK7, features=features, members=members)
