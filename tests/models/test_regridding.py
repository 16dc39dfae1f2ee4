import numpy as np
import pytest
import torch

from pipeline.models import find_peaks, peaks_to_boxes
from pipeline.models.regridding import mirror_peaks, resample_heads

W = 8


def peaks(*rows):
    """(1, n, 7) of (x, y, class, score, w, h, dx, dy)."""
    return torch.tensor([[(y * W + x, label, *more) for x, y, label, *more in rows]], dtype=torch.float32)


def test_mirrored_peaks_are_the_peaks_of_mirrored_maps():
    torch.manual_seed(0)
    heatmap, wh, offset = torch.rand(2, 3, 6, W), torch.rand(2, 2, 6, W) * 4, torch.rand(2, 2, 6, W)
    turned = torch.cat([1 - offset[:, :1], offset[:, 1:]], 1)
    found = find_peaks(heatmap.flip(3), wh.flip(3), turned.flip(3), 10)
    torch.testing.assert_close(mirror_peaks(found, W), find_peaks(heatmap, wh, offset, 10))
    torch.testing.assert_close(mirror_peaks(mirror_peaks(found, W), W), found)


def test_mirrored_boxes_are_mirrored():
    one = peaks((2, 3, 0, 0.9, 3.0, 2.0, 0.25, 0.5))
    x1, y1, x2, y2 = peaks_to_boxes(one, W)[0, 0, :4].tolist()
    assert peaks_to_boxes(mirror_peaks(one, W), W)[0, 0, :4].tolist() == [W - x2, y1, W - x1, y2]


@pytest.mark.parametrize("grid", [(12, 16), (3, 4), (6, W)])
def test_boxes_stay_and_the_heatmap_keeps_the_scores(grid):
    heatmap = torch.full((1, 2, 6, W), 0.01)
    heatmap[0, 1, 3, 2], heatmap[0, 0, 1, 6] = 0.9, 0.4
    one = peaks((2, 3, 1, 0.9, 3.0, 2.0, 0.25, 0.5), (6, 1, 0, 0.4, 2.0, 2.0, 0.75, 0.25))
    resampled, moved = resample_heads(heatmap, one, grid)
    before, after = peaks_to_boxes(one, W)[..., :4], peaks_to_boxes(moved, grid[1])[..., :4]
    np.testing.assert_allclose(after, before * grid[1] / W, rtol=1e-5)
    assert resampled.shape == (1, 2, *grid)
    cell, label, score = moved[0, :, :3].T
    assert torch.equal(resampled[0].flatten(1)[label.long(), cell.long()], score)


def test_of_two_peaks_of_a_class_in_one_cell_the_higher_stays():
    both = peaks((2, 2, 0, 0.5, 2, 2, 0.5, 0.5), (3, 2, 0, 0.7, 2, 2, 0.5, 0.5), (2, 3, 1, 0.4, 2, 2, 0.5, 0.5))
    _, moved = resample_heads(torch.zeros(1, 2, 6, W), both, (3, 4))
    torch.testing.assert_close(moved[0, :, 2], torch.tensor([0.0, 0.7, 0.4]))
