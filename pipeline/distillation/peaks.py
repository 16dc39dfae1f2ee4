"""The wh and offset terms: boxes compared at the teacher's peaks, and the cells that these boxes cover.

Shape suffixes: B batch, K peaks, H and W cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.outputs import gather_cells

SMALLEST_SIDE = 0.5  # cells; smaller boxes of a teacher count as this large where sizes are divided by


def peak_weights(peaks_BK7: Tensor, cells: int, threshold: float) -> Tensor:
    """How much each peak counts, (B, K): its score if above the threshold, else 0.

    Where peaks of several classes share a cell, the strongest stands for the cell.

    Args:
        peaks_BK7: as in `TeacherTargets`.
        cells: H * W.
        threshold: least probability; without one a map's background outweighs its objects.

    Reference: the earlier public distillation code weighs by the teacher's probability at its 3x3 peaks.
    """
    cell, score = peaks_BK7[..., 0].long(), peaks_BK7[..., 2]
    strongest = score.new_zeros(len(score), cells).scatter_reduce(1, cell, score, "amax")
    return torch.where((score > threshold) & (score == strongest.gather(1, cell)), score, 0.0)


def wh_distance(wh_B2HW: Tensor, peaks_BK7: Tensor, *, normalised: bool) -> Tensor:
    """L1 distance of width and height at each peak, (B, K): in cells, or as a share of the teacher's size.

    Args:
        wh_B2HW: the student's, in cells.
        peaks_BK7: as in `TeacherTargets`.
        normalised: divide by the teacher's (w + h) / 2, so that small and large objects count alike.
    """
    distance_BK = _distance(wh_B2HW, peaks_BK7, 3)
    return distance_BK / peaks_BK7[..., 3:5].mean(2).clamp(min=SMALLEST_SIDE) if normalised else distance_BK


def offset_distance(offset_B2HW: Tensor, peaks_BK7: Tensor) -> Tensor:
    """L1 distance of the offsets at each peak, (B, K), in cells; arguments as of `wh_distance`."""
    return _distance(offset_B2HW, peaks_BK7, 5)


def at_peaks(map_BHW: Tensor, peaks_BK7: Tensor) -> Tensor:
    """The values of a map at the cells of the peaks, (B, K)."""
    return map_BHW.flatten(1).gather(1, peaks_BK7[..., 0].long())


def object_shares(peaks_BK7: Tensor, threshold: float, stored_hw: Sequence[int], grid_hw: Sequence[int]) -> Tensor:
    """Which cells the teacher's boxes cover, (B, 1, h, w): 1 / cells of the smallest box there, 0 outside of all.

    A box covers the cells whose centre it holds, or else the one that its centre lies in.

    Args:
        peaks_BK7: as in `TeacherTargets`.
        threshold: least probability of a peak that counts.
        stored_hw: (H, W), the grid of the peaks.
        grid_hw: (h, w), the grid of the answer, which shows the same.

    Reference: Yang et al., "Focal and Global Knowledge Distillation" (2022), eq. 2-4.
    """
    (height, width), (rows, columns) = stored_hw, grid_hw
    cell, _, score, w, h, dx, dy = peaks_BK7.unbind(-1)
    x = (cell % width + dx) * (columns / width)
    y = (cell.div(width, rounding_mode="floor") + dy) * (rows / height)
    across_BKw = _covered(x, w * (columns / width), columns)
    down_BKh = _covered(y, h * (rows / height), rows)
    area_BK = across_BKw.sum(2) * down_BKh.sum(2)
    share_BK = torch.where(score > threshold, 1 / area_BK, 0.0)
    return (down_BKh.unsqueeze(3) * across_BKw.unsqueeze(2) * share_BK[..., None, None]).amax(1, keepdim=True)


def _covered(centre_BK: Tensor, side_BK: Tensor, cells: int) -> Tensor:
    """Which cells of a row (or column) a box covers, (B, K, cells) of 0 and 1, at least one."""
    places = torch.arange(cells, device=centre_BK.device)
    own = centre_BK.floor().clamp(0, cells - 1).unsqueeze(2) == places
    return (own | ((places + 0.5 - centre_BK.unsqueeze(2)).abs() <= side_BK.unsqueeze(2) / 2)).float()


def _distance(output_B2HW: Tensor, peaks_BK7: Tensor, first: int) -> Tensor:
    output_BK2 = gather_cells(output_B2HW, peaks_BK7[..., 0].long()).float()
    return (output_BK2 - peaks_BK7[..., first : first + 2]).abs().sum(2)
