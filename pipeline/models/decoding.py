"""From dense maps to peaks, and from peaks to boxes."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from pipeline.outputs import gather_cells

if TYPE_CHECKING:
    from torch import Tensor


def find_peaks(heatmap_prob: "Tensor", wh: "Tensor", offset: "Tensor", k: int = 100) -> "Tensor":
    """The k highest local maxima of each image, over all classes.

    A cell is a maximum where no neighbour of its 3x3 window is higher, so equal neighbours are
    all kept. Equal scores are ordered by class, then by cell: the same on every device.

    Args:
        heatmap_prob: (B, C, h, w) probabilities.
        wh: (B, 2, h, w) in cells.
        offset: (B, 2, h, w) in cells.
        k: peaks per image.

    Returns:
        (B, k, 7) float32: cell (y * w + x), class, score, w, h, dx, dy by descending score; rows
        beyond the last maximum are 0.

    Reference: Zhou et al., Objects as Points (2019), section 4.
    """
    prob = heatmap_prob.float()
    cells = prob.shape[2] * prob.shape[3]
    is_peak = (prob == F.max_pool2d(prob, 3, stride=1, padding=1)) & (prob > 0)
    scores = prob.masked_fill(~is_peak, 0).flatten(1)

    # The bits of a positive float order like the float. With the index below them no two keys are
    # equal, so that topk, which is free to order ties as it likes, has one answer.
    index = torch.arange(scores.shape[1], device=prob.device)
    keys = (scores.contiguous().view(torch.int32).long() << 32) | (index.numel() - 1 - index)
    top = keys.topk(min(k, index.numel()), dim=1).indices

    score = scores.gather(1, top)
    cell, label = top % cells, top // cells
    values = gather_cells(torch.cat([wh.float(), offset.float()], 1), cell)
    peaks = torch.cat([torch.stack([cell.float(), label.float(), score], 2), values], 2)
    peaks = peaks.masked_fill((score == 0)[..., None], 0)
    return F.pad(peaks, (0, 0, 0, k - top.shape[1]))


def peaks_to_boxes(peaks: "Tensor", width: int) -> "Tensor":
    """Boxes of peaks.

    Args:
        peaks: (B, k, 7) from `find_peaks`.
        width: of the map, in cells.

    Returns:
        (B, k, 6) float32: x1, y1, x2, y2 in cells, score, class; rows of score 0 are 0.
    """
    cell, label, score, w, h, dx, dy = peaks.unbind(-1)
    x = cell % width + dx
    y = cell.div(width, rounding_mode="floor") + dy
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, label], -1)
    return boxes.masked_fill((score == 0)[..., None], 0)


def decode_detections(heatmap_prob: "Tensor", wh: "Tensor", offset: "Tensor", k: int = 100) -> "Tensor":
    """The k best detections of each image; no suppression of overlapping boxes.

    Args:
        heatmap_prob: (B, C, h, w) probabilities.
        wh: (B, 2, h, w) in cells.
        offset: (B, 2, h, w) in cells.
        k: detections per image.

    Returns:
        (B, k, 6) float32: x1, y1, x2, y2 in cells, score, class, by descending score; padded
        with rows of 0.
    """
    return peaks_to_boxes(find_peaks(heatmap_prob, wh, offset, k), heatmap_prob.shape[-1])
