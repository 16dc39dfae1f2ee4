"""Heatmaps and peaks mirrored, and on a finer or coarser grid over the same view.

Shape suffixes: B batch, C classes, K peaks, H and W cells.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def mirror_peaks(peaks_BK7: "Tensor", width: int) -> "Tensor":
    """The peaks of the same views mirrored, left to right; `width` of the map in cells."""
    cell, label, score, w, h, dx, dy = peaks_BK7.unbind(-1)
    # The cell of a centre that lies on an edge between two is then the one to its left, with offset 1.
    return torch.stack([cell + (width - 1) - 2 * (cell % width), label, score, w, h, 1 - dx, dy], -1)


def resample_heads(heatmap_BCHW: "Tensor", peaks_BK7: "Tensor", grid_hw: Sequence[int]) -> "tuple[Tensor, Tensor]":
    """A heatmap and its peaks on another grid.

    Peaks keep their exact boxes and, in the heatmap, their scores; where two peaks of a class fall into
    one cell the lower one is dropped (its score is then 0).

    Args:
        heatmap_BCHW: probabilities.
        peaks_BK7: as `find_peaks` returns them.
        grid_hw: (h, w) of maps that show the same.
    """
    height, width = grid_hw
    peaks_BK7 = _drop_beaten(_move(peaks_BK7, heatmap_BCHW.shape[-2:], (height, width)))
    heatmap_BCHW = interpolate(heatmap_BCHW, (height, width))
    cell, label, score = peaks_BK7[..., :3].unbind(-1)
    place_BK = label.long() * (height * width) + cell.long()
    return heatmap_BCHW.flatten(1).scatter_reduce(1, place_BK, score, "amax").view_as(heatmap_BCHW), peaks_BK7


def interpolate(values_BCHW: "Tensor", grid_hw: tuple[int, int]) -> "Tensor":
    """Bilinear, over all cells that a coarser one covers."""
    if tuple(values_BCHW.shape[2:]) == grid_hw:
        return values_BCHW
    return F.interpolate(values_BCHW, grid_hw, mode="bilinear", antialias=True)


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
